"""Whether a new version has proved itself. Pure: what is known in, keep on, confirm or go back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

_MOST_STARTS = 3  # of the new agent, before it is given up


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

    def judge(self, *, online: bool, alive: bool, seconds: float, patience: float) -> Verdict:
        """`seconds`: since this service started it; `patience`: how long it may take to be online.

        A link that the broker welcomed is what counts: a program that runs and is not online
        could never be mended from afar.
        """
        if online:
            return Verdict.CONFIRM
        if seconds >= patience or (not alive and self.starts >= _MOST_STARTS):
            return Verdict.BACK
        if self.starts > _MOST_STARTS:  # the PC, or this service, died with each of them
            return Verdict.BACK
        return Verdict.WAIT
