"""What the owner asked for by hand: a pause of some kind, or to finish what runs. Pure.

A wish lies in `wishes.json`, written by `foxden pause` and read by a running agent
(owner_files.py): no port is needed for it.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from datetime import tzinfo
from enum import Enum
from typing import Any

from foxden_agent.policy.timetable import clock_text, next_morning

LONGEST = 30 * 86_400.0  # seconds; longer than that is "until I say so"


class Kind(Enum):
    """How long a wish holds."""

    FOR = "for"  # `seconds` from when it was made
    TOMORROW = "tomorrow"  # until the next morning, local time
    RESTART = "restart"  # as long as this run of the agent lasts
    FOREVER = "forever"
    FINISH = "finish"  # nothing new, but what runs goes on to its end; for ever


@dataclass(frozen=True, slots=True)
class Wish:
    """A wish as it lies in the file. `wish_id` tells two wishes of the same words apart."""

    wish_id: str
    kind: Kind
    made: float  # Unix seconds
    seconds: float = 0.0  # of Kind.FOR, up to LONGEST
    run: str = ""  # of Kind.RESTART: the run of the agent that it holds for

    def ends(self, zone: tzinfo | None) -> float | None:
        """When it ends, in Unix seconds; None where no clock ends it."""
        match self.kind:
            case Kind.FOR:
                return self.made + self.seconds
            case Kind.TOMORROW:
                return next_morning(self.made, zone)
        return None

    def holds_in(self, run: str) -> bool:
        """Whether it means this run of the agent."""
        return self.kind is not Kind.RESTART or self.run == run

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"kind": self.kind.value}

    @classmethod
    def from_json(cls, data: object) -> Wish | None:
        """The wish, or None where there is none. Raises ValueError with what is wrong with it."""
        if data is None:
            return None
        if not isinstance(data, dict):
            raise ValueError("it is not an object")
        try:
            kind = Kind(data.get("kind"))
        except ValueError:
            raise ValueError(f"the kind {data.get('kind')!r} is not known") from None
        wish_id, run = data.get("wish_id"), data.get("run", "")
        if not isinstance(wish_id, str) or not isinstance(run, str):
            raise ValueError("wish_id or run is not a text")
        made, seconds = data.get("made"), data.get("seconds", 0.0)
        for number in (made, seconds):
            # A date that no calendar has would break every later decision.
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise ValueError("made or seconds is not a number")
            if not 0 <= number < 1e11:
                raise ValueError("made or seconds is out of range")
        assert isinstance(made, int | float)
        return cls(wish_id, kind, float(made), min(float(seconds), LONGEST), run)


@dataclass(frozen=True, slots=True)
class Followed:
    """How far a wish has come, as one agent saw it.

    The time that is left is taken from the wall clock once, when the wish is first seen, and from
    then on from the monotonic one: a wall clock that is put right by an hour neither ends a pause
    that the owner asked for, nor makes it an hour longer.
    """

    wish_id: str
    until: float  # on the count of seconds lived (memory.py); infinite where no clock ends it
    shown: str  # when it ends, for people: "14:30"
    over: bool = False


def follow(
    wish: Wish | None,
    before: Followed | None,
    lived: float,
    wall: float,
    zone: tzinfo | None,
) -> Followed | None:
    """What is known of the wish now. `lived` counts seconds monotonically."""
    if wish is None:
        return None
    ends = wish.ends(zone)
    if before is None or before.wish_id != wish.wish_id:
        if ends is None:
            before = Followed(wish.wish_id, math.inf, "")
        else:
            left = min(max(0.0, ends - wall), ends - wish.made)
            shown = clock_text(wall + left, zone, seen_at=wall)
            before = Followed(wish.wish_id, lived + left, shown)
    morning = wish.kind is Kind.TOMORROW and ends is not None and wall >= ends
    if lived < before.until and not morning:
        return before  # which may be over: a wall clock that goes back revives nothing
    return Followed(before.wish_id, before.until, before.shown, over=True)
