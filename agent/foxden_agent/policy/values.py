"""What a decision is made of, and what it is: values alone."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from foxden_agent.readings import CardReadings, MachineReadings
from foxden_proto.v1 import pool_pb2

Mode: TypeAlias = pool_pb2.Mode.ValueType

# From the one that leaves the card most work to the one that leaves it none. What the owner said
# stands above what was guessed from readings.
SEVERITY: tuple[Mode, ...] = (
    pool_pb2.MODE_READY,
    pool_pb2.MODE_DUTY_CYCLED,
    pool_pb2.MODE_DRAINING,
    pool_pb2.MODE_QUIET_HOURS,
    pool_pb2.MODE_HOT,
    pool_pb2.MODE_GAMING,
    pool_pb2.MODE_PAUSED,
    pool_pb2.MODE_BROKEN,
)


class Code(Enum):
    """What a reason is about. The texts are in sentences.py."""

    CARD_GONE = "card_gone"
    ENGINE_BROKEN = "engine_broken"
    OWNER = "owner"  # paused by hand, until resumed by hand
    OWNER_RESTART = "owner_restart"
    OWNER_UNTIL = "owner_until"
    BATTERY = "battery"
    USER_HERE = "user_here"
    USER_UNSEEN = "user_unseen"
    MEMORY_NEEDED = "memory_needed"
    OVER_BUDGET = "over_budget"
    PROGRAM = "program"
    FULL_SCREEN = "full_screen"
    FOREIGN_USE = "foreign_use"
    MEMORY_TAKEN = "memory_taken"
    HOT = "hot"
    QUIET_HOURS = "quiet_hours"
    STARTING = "starting"
    FINISHING = "finishing"
    WARM = "warm"


Facts: TypeAlias = tuple[tuple[str, str | float], ...]

# They change with every reading: a heartbeat tells them, a frame of their own would be chatter.
_PASSING = frozenset({"temperature", "memory", "share", "use", "left"})


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a card may not do all it could. Facts: texts, degrees, bytes, shares of 1, seconds.

    The fact `left` means that the cause is over, and how many seconds it is waited for still.
    """

    code: Code
    facts: Facts = ()

    @property
    def lasting(self) -> tuple[Code, Facts]:
        """The reason without what changes from reading to reading."""
        return self.code, tuple(fact for fact in self.facts if fact[0] not in _PASSING)


@dataclass(frozen=True, slots=True)
class Decision:
    """What a card may do now."""

    mode: Mode = pool_pb2.MODE_READY
    reasons: tuple[Reason, ...] = ()  # the strongest first; empty exactly where the mode is ready
    share: float = 1.0  # of the time that the engine may work, in steps of 0.05; 0: not at all
    take_work: bool = True  # whether new work may be taken
    give_back: bool = False  # whether running work is given back at once
    memory_limit: int | None = None  # bytes of the card that the engine may hold; None: not known
    next_look: float = 0.0  # monotonic seconds by which to decide again, also without new readings

    @property
    def headline(self) -> tuple[object, ...]:
        """What is worth a frame of its own where it changes: all but passing figures."""
        lasting = tuple(reason.lasting for reason in self.reasons)
        return self.mode, self.take_work, self.give_back, lasting

    def differs(self, other: Decision | None) -> bool:
        """Whether the card's worker has to do something else than after `other`."""
        if other is None:
            return True
        return (self.headline, self.share) != (other.headline, other.share)


@dataclass(frozen=True, slots=True)
class EngineUse:
    """What our own engine does with the card: what readings of the whole card have to leave out."""

    busy: bool = False  # it draws or loads
    memory: int | None = 0  # bytes of the card that it holds; None: not known; 0: no engine
    broken: str = ""  # the worker's word for why it can draw nothing; empty while it can


@dataclass(frozen=True, slots=True)
class Seen:
    """All that is looked at for one card at one moment."""

    card: CardReadings
    machine: MachineReadings
    engine: EngineUse = EngineUse()
    foreign_use: float | None = None  # share of the card others draw with, where it is told apart
