"""What a policy has to remember from one decision to the next: a frozen value. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import tzinfo

from foxden_agent.policy.settings import Policy
from foxden_agent.policy.thresholds import Latch
from foxden_agent.policy.timetable import Span, span
from foxden_agent.policy.values import Code, Facts, Seen
from foxden_agent.policy.wishes import Followed, Wish, follow

_MOST_STEP = 10.0  # seconds of the clock per look
_WINDOW = 10.0  # seconds over which taken memory is looked at
_MOST_SAMPLES = 24
SETTLED = 2.0  # seconds after the engine's end until readings of the card leave it out
_FREED = 10.0  # seconds until memory that the engine gave up is seen to be free (Ollama: up to 5)


@dataclass(frozen=True, slots=True)
class State:
    """The memory of one card's policy. `State()` is that of a card never seen.

    Holds are counted on `clock`, which goes on by ten seconds at most from one look to the next:
    an hour asleep, or without readings, is no hour of good readings. `lived` counts all seconds.
    """

    clock: float = 0.0
    lived: float = 0.0
    last: float | None = None  # monotonic seconds of the last look
    latches: Mapping[Code, Latch] = field(default_factory=dict)
    facts: Mapping[Code, Facts] = field(default_factory=dict)  # of the latches that are on
    wish: Followed | None = None
    hours: Span | None = None
    share: float = 1.0  # as it glides
    idle_since: float | None = -math.inf  # clock; None while the engine is busy
    own_memory: int | None = 0
    own_since: float = -math.inf  # clock since which `own_memory` is the same
    foreign_told: bool = False  # the driver tells each program's memory
    foreign: tuple[tuple[float, int], ...] = ()  # (clock, bytes) of the last ten seconds


@dataclass(frozen=True, slots=True)
class Moment:
    """One look: what is seen, what the owner allows and wishes, and the state brought up to now."""

    seen: Seen
    policy: Policy
    wish: Wish | None
    state: State
    zone: tzinfo | None
    foreign_memory: int | None  # bytes that others hold; None where it cannot be told now

    @property
    def is_cpu(self) -> bool:
        return self.seen.card.device == "cpu"

    @property
    def away(self) -> bool:
        """Nobody is known to have touched the PC for `away_after`."""
        idle = self.seen.machine.idle_seconds
        return idle is not None and idle >= self.policy.away_after

    @property
    def settled(self) -> bool:
        """The engine has been idle long enough for what the card tells to be of others alone."""
        return _settled(self.state)

    @property
    def budget(self) -> int | None:
        """Bytes of the card that the owner lets the engine hold; None for a CPU or if unknown."""
        total = self.seen.card.memory_total
        if total is None or self.is_cpu:
            return None
        return (self.policy.memory_away if self.away else self.policy.memory_in_use).of(total)


def moment(
    seen: Seen,
    policy: Policy,
    wish: Wish | None,
    now: float,
    state: State,
    zone: tzinfo | None,
) -> Moment:
    """Bring the state up to now, but for its latches and its share."""
    passed = 0.0 if state.last is None else max(0.0, now - state.last)
    clock = state.clock + min(passed, _MOST_STEP)
    lived = state.lived + passed
    wall = seen.machine.wall
    hours = state.hours
    if hours is None or not hours.holds(wall, policy.quiet_hours):
        hours = span(policy.quiet_hours, wall, zone)
    idle_since = None if seen.engine.busy else state.idle_since
    if not seen.engine.busy and idle_since is None:
        idle_since = clock
    own_since = state.own_since if seen.engine.memory == state.own_memory else clock
    state = replace(
        state,
        clock=clock,
        lived=lived,
        last=now,
        wish=follow(wish, state.wish, lived, wall, zone),
        hours=hours,
        idle_since=idle_since,
        own_memory=seen.engine.memory,
        own_since=own_since,
    )
    told = seen.card.foreign_memory is not None
    foreign = _foreign_memory(seen, state)
    kept = state.foreign if told == state.foreign_told and foreign is not None else ()
    recent = [sample for sample in kept if sample[0] > clock - _WINDOW]
    if foreign is not None:
        recent.append((clock, foreign))
    state = replace(state, foreign_told=told, foreign=tuple(recent[-_MOST_SAMPLES:]))
    return Moment(seen, policy, wish, state, zone, foreign)


def _foreign_memory(seen: Seen, state: State) -> int | None:
    """What others hold. Where the driver does not tell it program by program (WDDM), it is the
    rest beside our own: known only while the engine's own does not change."""
    card = seen.card
    if not card.present or card.foreign_memory is not None:
        return card.foreign_memory if card.present else None
    own = seen.engine.memory
    if own is None or not _settled(state) or state.clock - state.own_since < _FREED:
        return None
    if card.memory_total is not None and card.memory_free is not None:
        return max(0, card.memory_total - card.memory_free - own)
    return None if card.memory_used is None else max(0, card.memory_used - own)


def _settled(state: State) -> bool:
    return state.idle_since is not None and state.clock - state.idle_since >= SETTLED
