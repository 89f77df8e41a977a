"""What a pool is made of: its cards, its open jobs, and who holds which image."""

from __future__ import annotations

from dataclasses import dataclass, field

from foxden_broker.scheduler.facts import CardFacts, Kind
from foxden_broker.store.base import Lease, Task
from foxden_proto.v1 import pool_pb2
from foxden_proto.v1.generation_pb2 import ImageRequest

_WORKING = frozenset({pool_pb2.MODE_READY, pool_pb2.MODE_DUTY_CYCLED})


@dataclass
class PoolCard:
    """A card as it was last described, and how it is now."""

    info: pool_pb2.CardInfo
    agent_id: str
    agent_name: str
    agent_version: str
    last_seen_ms: int
    online: bool = False
    mode: pool_pb2.Mode.ValueType = pool_pb2.MODE_READY
    reasons: tuple[str, ...] = ()
    readings: pool_pb2.CardReadings = field(default_factory=pool_pb2.CardReadings)
    standing: str = ""  # what an administrator decided: "", "cordoned" or "draining"

    @property
    def works(self) -> bool:
        """Whether it takes new images."""
        return self.online and self.mode in _WORKING and not self.standing

    @property
    def why_not(self) -> str:
        """Why it takes none although it is online, in words for people."""
        return ", ".join([*filter(None, [self.standing]), *self.reasons]) or "paused"

    @property
    def facts(self) -> CardFacts:
        """Cards of one class, such as two RTX 4070, start from the same estimates."""
        info = self.info
        named = info.name.rpartition(" in ")[0] or info.name  # "RTX 4070 in kitchen-pc"
        named = f"{named} {info.device.partition(':')[0]}"
        return CardFacts(info.card_id, named, info.memory_total, max(1, info.most_together))


@dataclass(slots=True)
class OpenJob:
    """A job with images that wait or run. A hundred thousand of them may wait, so it is small: the
    request is kept as the store has it, and read when somebody asks for it."""

    job_id: str
    member: str
    request_bytes: bytes
    priority: int
    created_ms: int
    deadline_ms: int
    resolved: bool  # the model is known and every default filled in
    kind: Kind
    cancelled: bool = False
    waiting: set[int] = field(default_factory=set)
    held: int = 0  # images that a card has, or that are on their way through the store to one
    resumes: dict[int, int] | None = None  # steps of the checkpoints that images go on from

    @property
    def request(self) -> ImageRequest:
        return ImageRequest.FromString(self.request_bytes)

    def image_request(self, index: int) -> ImageRequest:
        """The request of one image: the job's, with the image's own seed."""
        request = self.request
        request.seed += index
        return request


@dataclass
class Held:
    """A lease that a card has."""

    lease: Lease
    card_id: str
    agent_id: str
    started: bool
    deadline: float  # monotonic seconds after which it is taken away
    releasing: bool = False  # the owner takes the card back; the last checkpoint may follow
    restored: bool = False  # from before this broker began to plan
    batch: int = 1  # images that ride through the card together, this one included
    started_at: float = 0.0  # monotonic seconds; 0: not known
    puts: list[str] = field(default_factory=list)  # sha256 of pictures that were sent for it
    task: Task | None = None  # as it was when it was leased

    @property
    def resumed(self) -> bool:
        """Whether it was given with a checkpoint to go on from."""
        return self.task is not None and self.task.checkpoint is not None
