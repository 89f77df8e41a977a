"""The values that go into the scheduler and come out of it. Times are seconds of one clock that the
caller chooses; the scheduler never reads a clock itself."""

from __future__ import annotations

import enum
import math
from collections.abc import Hashable
from dataclasses import dataclass, field

from foxden_proto.sizes import size_class

Image = tuple[str, int]  # (job_id, index)
# (model sha256, sampler, schedule, class of its size in pixels): what decides who can run it
Need = tuple[str, str, str, int]
Size = tuple[int, int]  # (width, height)

INTERACTIVE, NORMAL, BULK = 1, 2, 3  # foxden.v1.Priority; smaller goes first


@dataclass(frozen=True)
class Kind:
    """What images must share to ride in one batch. `rest` is whatever else must be equal."""

    model: str  # sha256
    width: int  # pixels
    height: int
    steps: int
    sampler: str = ""
    schedule: str = ""
    guidance: float = 0.0
    model_bytes: int = 0  # of its files; 0: unknown
    rest: Hashable = ()
    need: Need = field(init=False, compare=False, repr=False)
    size: Size = field(init=False, compare=False, repr=False)
    work: float = field(init=False, compare=False, repr=False)  # steps x pixels
    _hash: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        put = object.__setattr__
        pixels = size_class(self.width * self.height)
        put(self, "need", (self.model, self.sampler, self.schedule, pixels))
        put(self, "size", (self.width, self.height))
        put(self, "work", float(max(1, self.steps) * max(1, self.width) * max(1, self.height)))
        same = (self.model, self.width, self.height, self.steps, self.sampler, self.schedule)
        put(self, "_hash", hash((same, self.guidance, self.rest)))

    def __hash__(self) -> int:  # it is a dictionary key in every step of a plan
        return self._hash


@dataclass(frozen=True, slots=True)
class JobFacts:
    """A job as the scheduler needs it."""

    job_id: str
    member: str
    kind: Kind
    created: float  # seconds
    priority: int = NORMAL
    deadline: float = math.inf  # seconds; nothing is started that cannot be done by then


@dataclass(frozen=True)
class CardFacts:
    """A card as it describes itself."""

    card_id: str
    card_class: str  # cards of one class start from the same estimates, e.g. "RTX 4070"
    memory: int = 0  # bytes
    most_together: int = 1  # images in one batch, whatever they are; see State(together=...)


class Outcome(enum.Enum):
    """How a card's hold on an image ended."""

    DONE = "done"
    FAILED = "failed"  # the engine refused it or crashed on it
    LOST = "lost"  # the link broke while it ran
    RELEASED = "released"  # the owner came first
    REFUSED = "refused"  # the card did not take it, or it never reached the card
    STOPPED = "stopped"  # cancelled


@dataclass(frozen=True)
class Give:
    """Lease these images to this card, in one Assignment. They share one Kind.

    `staged`: the card still runs a batch; these follow it."""

    card_id: str
    images: tuple[Image, ...]
    model: str
    staged: bool = False


@dataclass(frozen=True)
class Preempt:
    """Ask this card to release these images, all of the one batch that it draws, with their
    checkpoints: more urgent work waits for it."""

    card_id: str
    images: tuple[Image, ...]
    reason: str


@dataclass(frozen=True)
class Expire:
    """End this waiting image as expired: it cannot be done by its deadline any more."""

    job_id: str
    index: int
    reason: str


Action = Give | Expire


@dataclass(frozen=True)
class Plan:
    """What to do now, and when to plan again if nothing happens before."""

    actions: tuple[Action, ...]
    wake_at: float = math.inf
    backlog_seconds: float = 0.0  # work that waits, spread over all cards that accept work
    preempts: tuple[Preempt, ...] = ()  # beside the actions; may be left undone
    wants_allotments: bool = False  # deep enough for the linear programme (backlog.py)
