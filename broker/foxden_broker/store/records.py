"""What a store takes and gives back: plain records, and its errors. Times are Unix milliseconds."""

from __future__ import annotations

from dataclasses import dataclass, field

from foxden_proto.join_links import Refusal
from foxden_proto.link import LeaseKey
from foxden_proto.states import JobState, TaskEvent, TaskState

Lease = LeaseKey  # one lease of one image, as the link names it


class StoreError(Exception):
    """The database cannot do it: the text says what failed and what to do next."""


class StorageFull(StoreError):
    """The disk is full; nothing of the transaction was kept."""


class LeaseLost(StoreError):
    """Another replica plans for this account now; nothing was written."""


@dataclass(frozen=True)
class Token:
    account_id: str
    token_id: str
    secret_sha256: bytes
    member: str
    scopes: frozenset[str]
    created_ms: int
    expires_ms: int = 0  # 0: never
    revoked_ms: int = 0  # 0: not revoked


@dataclass(frozen=True)
class JoinLink:
    """What lets machines join an account; its secret is kept as a hash alone."""

    account_id: str
    link_id: str
    secret_sha256: bytes
    uses: int  # agents it can let in
    used: int
    approve: bool  # each of them waits for an administrator's yes
    member: str  # who made it
    created_ms: int
    expires_ms: int
    revoked_ms: int = 0  # 0: not revoked


@dataclass(frozen=True)
class Agent:
    """An agent that has joined with a key of its own. Its private half never left its machine."""

    account_id: str
    agent_id: str
    public_key: bytes  # Ed25519, 32 bytes
    audience: str  # what it knows the broker by; part of all that it signs
    name: str
    version: str
    cards: tuple[str, ...]  # their names, as told when it joined
    joined_from: str  # network address
    link_id: str
    joined_ms: int
    approved_ms: int = 0  # 0: it waits for an administrator's yes
    revoked_ms: int = 0  # 0: not revoked


@dataclass(frozen=True)
class Enrolled:
    """What became of an enrolment."""

    agent: Agent | None  # None: it was refused
    refusal: Refusal | None = None
    again: bool = False  # the same key was enrolled before; no use was taken


@dataclass(frozen=True)
class NewJob:
    account_id: str
    job_id: str
    member: str
    request: bytes  # ImageRequest, serialised; with the seed, and resolved where the model is known
    model_sha256: str  # empty while no card has told what models there are
    count: int
    priority: int  # foxden.v1.Priority
    created_ms: int
    deadline_ms: int = 0  # 0: none
    idempotency_key: str = ""
    request_digest: bytes = b""  # of what the client sent, to tell a retry from a clash of keys
    uploads: tuple[str, ...] = ()  # upload_ids the request needs: their time starts anew


@dataclass(frozen=True, slots=True)
class Picture:
    """What is kept of a finished image; the bytes are a blob."""

    sha256: str
    size: int
    meta: bytes  # foxden.v1.Picture, serialised, complete


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """From where an image can be gone on with; the bytes are a blob. Forgotten when it ends."""

    sha256: str
    size: int
    step: int  # model calls of the sampler that are behind it, 1 or more


@dataclass(frozen=True, slots=True)
class Attempt:
    lease_no: int
    card_id: str
    card_name: str
    outcome: str  # TaskEvent value that ended it; empty while it lasts
    reason: str
    started_ms: int
    ended_ms: int  # 0 while it lasts


@dataclass(frozen=True, slots=True)
class Task:
    job_id: str
    index: int
    state: TaskState
    lease_no: int
    card_id: str  # the card it is on, or was on last
    card_name: str
    agent_id: str
    reason: str
    failures: int
    losses: int
    releases: int
    revision: int
    leased_ms: int  # of the latest lease
    started_ms: int
    ended_ms: int
    checkpoint: Checkpoint | None = None  # the newest that a card has told of
    picture: Picture | None = None
    attempts: tuple[Attempt, ...] = ()  # filled by `job(..., attempts=True)` and for decisions

    @property
    def lease(self) -> Lease:
        return Lease(self.job_id, self.index, self.lease_no)


@dataclass(frozen=True, slots=True)
class Job:
    account_id: str
    job_id: str
    member: str
    request: bytes
    model_sha256: str
    count: int
    priority: int
    state: JobState
    revision: int
    created_ms: int
    ended_ms: int
    deadline_ms: int
    cancel_requested: bool
    reason: str
    done: int  # images finished
    tasks: tuple[Task, ...] = ()  # by index; empty in listings


@dataclass(frozen=True)
class Submitted:
    job: Job
    # The idempotency key was seen before, with another job_id: `job` is that job. Never true of
    # the caller's own job, also where its commit had to be asked for twice.
    repeated: bool = False
    conflict: bool = False  # seen before with another request: nothing was stored


@dataclass(frozen=True)
class Assign:
    """A task that the scheduler gives to a card."""

    job_id: str
    index: int
    card_id: str
    card_name: str
    agent_id: str
    batch: int = 1  # images that ride through the card together, this one included, for `usage`


@dataclass(frozen=True, slots=True)
class Change:
    """One accepted change of one task."""

    task: Task  # after the change
    event: TaskEvent
    job_state: JobState  # after the change
    revision: int


@dataclass(frozen=True)
class Cancelled:
    job: Job  # after the call, with tasks
    changes: tuple[Change, ...]  # tasks that were queued and are cancelled now
    running: tuple[Task, ...]  # tasks a card holds: it has to be told


@dataclass(frozen=True)
class CardRow:
    """A card as its agent last described it; kept while it is away."""

    account_id: str
    card_id: str
    agent_id: str
    agent_name: str
    agent_version: str
    info: bytes  # foxden.v1.CardInfo, serialised
    last_seen_ms: int
    standing: str = ""  # one of STANDINGS; what an administrator decided


STANDINGS = ("", "cordoned", "draining")


@dataclass(frozen=True)
class Upload:
    account_id: str
    upload_id: str
    sha256: str
    size: int
    media_type: str
    created_ms: int


@dataclass(frozen=True)
class JobPage:
    jobs: tuple[Job, ...]  # newest first, without tasks
    next_before: str = ""  # pass as `before` for the next page; empty: no more
    total: int = field(default=0, compare=False)  # exact up to 10,000


@dataclass(frozen=True)
class SchedulingLease:
    """Which replica plans for an account. The epoch grows each time another one takes over."""

    account_id: str
    replica_id: str  # empty: given up
    epoch: int
    until_ms: int


@dataclass(frozen=True)
class Replica:
    replica_id: str
    address: str  # host:port at which its peers dial its gRPC door
    ca_pem: str  # of the certificate there; empty: system's roots, or no TLS
    version: str
    seen_ms: int


@dataclass(frozen=True)
class Quota:
    """A member's limits; 0 means: none of its own."""

    member: str
    most_queued: int
    most_running: int
    gpu_seconds_per_day: float


@dataclass(frozen=True)
class Usage:
    """What a member used on one day (UTC, of the attempt's end)."""

    member: str
    day: str  # 2026-11-22
    images: int  # finished
    gpu_ms: (
        int  # cards held from start to end, also where it failed or was released; a batch shares
    )
