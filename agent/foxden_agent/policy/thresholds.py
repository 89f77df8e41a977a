"""Hysteresis: when a reading stops the card's work, and when it lets it go on. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

UNKNOWN_FOR = 60.0  # seconds that a stop outlives the last reading; then what is unknown is good


class Level(Enum):
    """What one reading says of one threshold."""

    BAD = "bad"  # at `stop` or beyond it
    BETWEEN = "between"  # neither stops what goes on nor lets go on what has stopped
    GOOD = "good"  # at `resume` or better
    UNKNOWN = "unknown"  # not told


@dataclass(frozen=True, slots=True)
class Threshold:
    """Stops at `stop`, goes on after `hold` seconds without a break at `resume` or better.

    Where `resume` is the larger of the two, less is worse (memory that is left); else more is.
    """

    stop: float
    resume: float
    hold: float  # seconds

    def level(self, value: float | None) -> Level:
        if value is None:
            return Level.UNKNOWN
        sign = -1 if self.resume > self.stop else 1
        if sign * value >= sign * self.stop:
            return Level.BAD
        return Level.GOOD if sign * value <= sign * self.resume else Level.BETWEEN

    def shifted(self, by: float) -> Threshold:
        return Threshold(self.stop + by, self.resume + by, self.hold)


@dataclass(frozen=True, slots=True)
class Latch:
    """The memory of one threshold. Times are seconds of the policy's own clock (memory.py)."""

    on: bool = False
    bad_since: float | None = None  # while it is off, and `after` is not yet over
    good_since: float | None = None  # while it is on, and its hold is not yet over
    heard: float = 0.0  # the last reading that was not unknown

    def next(self, level: Level, clock: float, hold: float, after: float = 0.0) -> Latch:
        """The latch after one more reading.

        It turns on once the level was bad for `after` seconds, and off once it was good for `hold`
        seconds; a reading that is not told breaks off the first and not the second.
        """
        heard = clock
        if level is Level.UNKNOWN and self.on:
            heard = self.heard
            if self.good_since is None and clock - heard <= UNKNOWN_FOR:
                return self
            level = Level.GOOD
        if level is Level.BAD:
            since = clock if self.bad_since is None else self.bad_since
            if self.on or clock - since >= after:
                return Latch(on=True, heard=heard)
            return Latch(bad_since=since, heard=heard)
        if not self.on:
            return Latch(heard=heard)
        if level is Level.BETWEEN:
            return Latch(on=True, heard=heard)
        since = clock if self.good_since is None else self.good_since
        if clock - since >= hold:
            return Latch(heard=heard)
        return Latch(on=True, good_since=since, heard=heard)

    def left(self, clock: float, hold: float) -> float | None:
        """Seconds until it turns off if readings stay good; None where they are not."""
        return None if self.good_since is None else max(0.0, self.good_since + hold - clock)
