"""What the owner allows: few settings, frozen, with defaults that suit a gamer's PC."""

from __future__ import annotations

import re
from dataclasses import dataclass

from foxden_agent.policy.thresholds import Threshold
from foxden_agent.policy.timetable import Window

_BUDGET = re.compile(r"(\d+(?:\.\d+)?) *(%|gi?b)", re.IGNORECASE)
_GIB = 2**30


@dataclass(frozen=True, slots=True)
class Budget:
    """Memory of a card: a share of it, or bytes."""

    share: float | None = None  # above 0, up to 1
    size: int | None = None  # bytes; where `share` is None

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read "80%" (5 to 100) or "6 GB" (0.5 to 1024, of 2^30 bytes). Raises ValueError."""
        found = _BUDGET.fullmatch(text.strip())
        if not found:
            raise ValueError(text)
        number = float(found[1])
        if found[2] == "%":
            if not 5 <= number <= 100:
                raise ValueError(text)
            return cls(share=number / 100)
        if not 0.5 <= number <= 1024:
            raise ValueError(text)
        return cls(size=round(number * _GIB))

    def of(self, total: int) -> int:
        """Bytes of a card that has `total`; never more than that."""
        if self.share is not None:
            return int(total * self.share)
        return min(total, self.size or 0)

    def __str__(self) -> str:
        if self.share is not None:
            return f"{self.share * 100:g}%"
        return f"{(self.size or 0) / _GIB:g} GB"


@dataclass(frozen=True, slots=True)
class Policy:
    """The owner's settings, as in `policy.json`. Every threshold is (stop, resume, hold).

    `stop` stops the work, and it goes on after `hold` seconds at `resume` or better.
    """

    # The card is the owner's while one of these runs; ".exe" and capitals make no difference.
    programs: tuple[str, ...] = ("obs64", "obs", "resolve")  # names of programs
    full_screen: bool = True  # so it is while any program fills the screen
    full_screen_ignored: tuple[str, ...] = ("nvidia overlay", "nvidia share")  # but not for these
    foreign_use: Threshold = Threshold(0.20, 0.10, 30)  # share of the card that others draw with
    memory_taken: float = 0.15  # a program that takes this share at once may be a game; 0: never
    memory_room: Threshold = Threshold(0.25, 0.35, 60)  # share of the memory that others leave
    memory_in_use: Budget = Budget(share=0.80)  # what the engine may hold while the PC is used
    memory_away: Budget = Budget(share=0.95)  # and while nobody touches it
    temperature: Threshold = Threshold(87, 75, 120)  # degrees Celsius
    temperature_slow: float = 83  # degrees from which it works a part of the time only
    share_least: float = 0.25  # the part that is left just below `temperature.stop`
    on_battery: bool = False  # whether it works without a plug
    only_when_away: bool = False  # whether it works only while nobody touches the PC
    away_after: float = 180  # seconds without a touch until nobody is there
    quiet_hours: tuple[Window, ...] = ()  # local times at which it does not work
    start_delay: float = 0  # minutes after the agent's start before it works
    hold: float = 30  # seconds that a program, the screen, the plug or quiet hours must be gone
