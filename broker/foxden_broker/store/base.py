"""What the broker asks of its store: one interface, one conformance suite, several databases.

Every method is one transaction. Every state change is guarded by the states it may start from
(`foxden_proto.states.sources`) and, once a lease exists, by its `lease_no`: a stale caller changes
nothing and is told so. `account_id` leads every key and every statement. Times are Unix
milliseconds and are passed in.

A job has a `revision`. Every change of one of its tasks raises it by one and stamps the task with
it, in the same transaction, so that a watcher can ask for "everything after revision r" without an
event log, also after a restart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from foxden_proto.link import LeaseKey
from foxden_proto.states import JobState, TaskEvent, TaskState

Lease = LeaseKey  # one lease of one image, as the link names it


class StoreError(Exception):
    """The database cannot do it: the text says what failed and what to do next."""


class StorageFull(StoreError):
    """The disk is full; nothing of the transaction was kept."""


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


@dataclass(frozen=True)
class Picture:
    """What is kept of a finished image; the bytes are a blob."""

    sha256: str
    size: int
    meta: bytes  # foxden.v1.Picture, serialised, complete


@dataclass(frozen=True)
class Attempt:
    lease_no: int
    card_id: str
    card_name: str
    outcome: str  # TaskEvent value that ended it; empty while it lasts
    reason: str
    started_ms: int
    ended_ms: int  # 0 while it lasts


@dataclass(frozen=True)
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
    picture: Picture | None = None
    attempts: tuple[Attempt, ...] = ()  # filled by `job(..., attempts=True)` and for decisions

    @property
    def lease(self) -> Lease:
        return Lease(self.job_id, self.index, self.lease_no)


@dataclass(frozen=True)
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
    repeated: bool = False  # the idempotency key was seen before: `job` is that job
    conflict: bool = False  # seen before with another request: nothing was stored


@dataclass(frozen=True)
class Assign:
    """A task that the scheduler gives to a card."""

    job_id: str
    index: int
    card_id: str
    card_name: str
    agent_id: str


@dataclass(frozen=True)
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
    total: int = field(default=0, compare=False)


# Given the task (with its attempts) whose lease ended badly, say how it goes on: FAIL or LOSE
# (back to the queue) or GIVE_UP. Called inside the transaction; must be quick and pure.
Decide = Callable[[Task], TaskEvent]


class Store(Protocol):
    """The broker's durable memory. All methods raise StoreError, or StorageFull."""

    async def close(self) -> None: ...

    # Accounts and tokens
    async def ensure_account(self, account_id: str, name: str, now_ms: int) -> None: ...
    async def accounts(self) -> Sequence[str]: ...
    async def add_token(self, token: Token) -> None: ...
    async def token(self, account_id: str, token_id: str) -> Token | None: ...
    async def tokens(self, account_id: str) -> Sequence[Token]: ...
    async def revoke_token(self, account_id: str, token_id: str, now_ms: int) -> Token | None: ...

    # Jobs, as clients see them
    async def submit(self, job: NewJob, *, key_window_ms: int) -> Submitted:
        """Store the job and its `count` queued tasks, unless its key was used by the same member
        within the window: then the earlier job is returned and nothing is stored."""
        ...

    async def job(self, account_id: str, job_id: str, *, attempts: bool = False) -> Job | None: ...
    async def changed_tasks(
        self, account_id: str, job_id: str, after_revision: int
    ) -> tuple[Job, tuple[Task, ...]] | None:
        """The job (without tasks) and its tasks stamped later than the revision, in that order."""
        ...

    async def jobs(
        self,
        account_id: str,
        *,
        member: str = "",
        state: JobState | None = None,
        before: str = "",
        limit: int = 50,
    ) -> JobPage: ...

    async def cancel(
        self, account_id: str, job_id: str, reason: str, now_ms: int
    ) -> Cancelled | None:
        """Cancel what is queued, mark the job, and name what a card still holds. Idempotent."""
        ...

    async def resolve(
        self, account_id: str, job_id: str, request: bytes, model_sha256: str
    ) -> bool:
        """Fill in the defaults of a job that came before the pool knew any model."""
        ...

    async def end_queued(
        self,
        account_id: str,
        tasks: Sequence[tuple[str, int]],
        event: TaskEvent,
        reason: str,
        now_ms: int,
    ) -> Sequence[Change]:
        """EXPIRE, GIVE_UP or CANCEL queued tasks; those no longer queued are left alone."""
        ...

    # Leases
    async def open_tasks(self, account_id: str) -> Sequence[tuple[Job, Task]]:
        """Every task that is queued or held, oldest job first: what a broker starts from."""
        ...

    async def assign(
        self, account_id: str, assigns: Sequence[Assign], now_ms: int
    ) -> Sequence[Change]:
        """Lease queued tasks, all in one transaction; those no longer queued are left out."""
        ...

    async def start(self, account_id: str, lease: Lease, now_ms: int) -> Change | None: ...
    async def finish(
        self, account_id: str, lease: Lease, picture: Picture, now_ms: int
    ) -> tuple[Change | None, bool]:
        """Accept the picture of a running task. The flag is true where it holds now, also when
        this very lease had delivered it before (a repeated frame)."""
        ...

    async def end_lease(
        self,
        account_id: str,
        lease: Lease,
        event: TaskEvent | Decide,
        reason: str,
        now_ms: int,
    ) -> Change | None:
        """End a lease without a picture: REFUSE, LOSE, FAIL, GIVE_UP, RELEASE, RELEASED, CANCEL or
        EXPIRE, or what `event` decides. Counts failures (FAIL, and GIVE_UP of a held task), losses
        (LOSE) and releases (RELEASE), closes the attempt with its reason. None: the lease is stale.

        Where the job's cancel was requested, a task that would go back to the queue is cancelled.
        """
        ...

    async def retry(self, account_id: str, job_id: str, now_ms: int) -> Sequence[Change]:
        """Queue the failed tasks of a job again, with their failures and losses set to 0."""
        ...

    # Agents and cards
    async def save_cards(
        self,
        account_id: str,
        agent_id: str,
        agent_name: str,
        agent_version: str,
        cards: Sequence[tuple[str, bytes]],
        now_ms: int,
    ) -> None:
        """Remember an agent's cards (card_id, CardInfo); cards it no longer has are forgotten."""
        ...

    async def cards(self, account_id: str) -> Sequence[CardRow]: ...

    # Uploads
    async def add_upload(self, upload: Upload) -> None: ...
    async def upload(self, account_id: str, upload_id: str) -> Upload | None: ...
