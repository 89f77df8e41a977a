"""Whether a new version has proved itself, and whether one that didn't is tried again. Pure.

A link that the broker welcomed is what counts: a program that runs and is not online could never
be mended from afar. But a trial without a link says nothing of the version where nobody gets one:
the version before has to get online soon after it, or the trial counts against no one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

_MOST_STARTS = 3  # of the new agent, before it is given up
_MOST_FAILURES = 3  # of a version, while the one before worked: then it is left alone for good
_PAUSE_GROWS = 4  # times, from one trial to the next
_LONGEST_PAUSE = 28  # looks: a week


class Verdict(Enum):
    """What becomes of a version on trial."""

    WAIT = "wait"
    CONFIRM = "confirm"
    BACK = "back"


@dataclass(frozen=True)
class Trial:
    """A version that runs and has not been online yet."""

    version: str
    previous: str
    starts: int = 0  # of its agent so far, also before a restart of the PC

    def started(self) -> Trial:
        return replace(self, starts=self.starts + 1)

    def stopped(self) -> Trial:
        """The service was told to end: its agent's end is no sign of anything."""
        return replace(self, starts=max(0, self.starts - 1))

    def judge(self, *, online: bool, alive: bool, seconds: float, patience: float) -> Verdict:
        """`seconds`: that the PC was awake since its agent was started; `patience`: how long it may
        take to be online. Asked before each start too, when it isn't alive."""
        if online:
            return Verdict.CONFIRM
        if seconds >= patience or (not alive and self.starts >= _MOST_STARTS):
            return Verdict.BACK
        return Verdict.WAIT


@dataclass(frozen=True)
class Tried:
    """What became of one version here so far."""

    version: str
    times: int = 0  # that it was tried and came to nothing, whoever was to blame
    failures: int = 0  # of them, those that the version itself is to blame for
    last: float = 0.0  # Unix time at which the newest ended
    charge: int = 0  # failures to come, if the version before gets online soon

    def ended(self, now: float, *, deadly: bool) -> Tried:
        """A trial ended without a link. `deadly`: the PC went down with each of its starts."""
        charge = _MOST_FAILURES if deadly else 1
        return replace(self, times=self.times + 1, last=now, charge=charge)

    def unfit(self, now: float) -> Tried:
        """It does not even start here: no network has to do with that."""
        return replace(self, times=self.times + 1, failures=self.failures + 1, last=now)

    def settled(self, *, online: bool, seconds: float, patience: float) -> Tried:
        """Whether the charge holds, by how the version before does. `seconds`: that the PC was
        awake since that one is back. Itself where nobody knows yet."""
        if online:
            return replace(self, failures=self.failures + self.charge, charge=0)
        return replace(self, charge=0) if seconds >= patience else self

    def objection(self, now: float, pause: float, *, asked: bool = False) -> str:
        """Why it isn't tried at `now`; empty where it may be.

        `pause`: seconds after the first trial; each further one waits longer. `asked`: a person
        wants it, and doesn't wait.
        """
        if self.failures >= _MOST_FAILURES:
            return (
                f"Foxden {self.version} was tried here and did not work, {self.failures} times: "
                "it is not tried again. The next release is; to have this one, install it by hand."
            )
        if self.charge:
            return (
                f"Foxden {self.version} did not get online here; whether the version before "
                "does will be known in a few minutes."
            )
        wait = pause * min(_PAUSE_GROWS ** max(0, self.times - 1), _LONGEST_PAUSE)
        left = self.last + wait - now
        # A clock that was set back since would make the pause as long as it was wrong.
        if self.times == 0 or asked or not 0 < left <= wait:
            return ""
        return (
            f"Foxden {self.version} was tried here and did not get online; it is tried again in "
            f"{max(1, round(left / 3600))} h. `foxden update` tries it now."
        )
