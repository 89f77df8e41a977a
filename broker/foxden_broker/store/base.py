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
from pathlib import Path
from typing import Protocol

from foxden_broker.store.records import (
    STANDINGS,
    Agent,
    Assign,
    Attempt,
    Cancelled,
    CardRow,
    Change,
    Checkpoint,
    Enrolled,
    Job,
    JobPage,
    JoinLink,
    Lease,
    LeaseLost,
    NewJob,
    Picture,
    Quota,
    Replica,
    SchedulingLease,
    StorageFull,
    StoreError,
    Submitted,
    Task,
    Token,
    Upload,
    Usage,
)
from foxden_proto.states import JobState, TaskEvent

__all__ = [
    "STANDINGS",
    "Agent",
    "Assign",
    "Attempt",
    "Cancelled",
    "CardRow",
    "Change",
    "Checkpoint",
    "Decide",
    "Enrolled",
    "Job",
    "JobPage",
    "JoinLink",
    "Lease",
    "LeaseLost",
    "NewJob",
    "Picture",
    "Quota",
    "Replica",
    "SchedulingLease",
    "StorageFull",
    "Store",
    "StoreError",
    "Submitted",
    "Task",
    "Token",
    "Upload",
    "Usage",
]

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
    async def account_name(self, account_id: str) -> str:
        """For people; empty for an account that is not there."""
        ...

    # Joining
    async def add_join_link(self, link: JoinLink) -> None: ...
    async def join_link(self, account_id: str, link_id: str) -> JoinLink | None: ...
    async def join_links(self, account_id: str) -> Sequence[JoinLink]: ...
    async def revoke_join_link(
        self, account_id: str, link_id: str, now_ms: int
    ) -> JoinLink | None: ...
    async def enrol(self, agent: Agent, now_ms: int) -> Enrolled:
        """Take one use of the link `agent.link_id` and keep the agent, in one transaction: of two
        who come at once for the last use one gets it. A key that is enrolled already is the same
        agent as before, and takes no use, also where the link is over by now.

        Refused where the link is unknown, expired, revoked or used up, where this key was
        revoked, or the agent_id that came by this link, and where the agent_id is taken: another
        key that works is enrolled for it, or an agent with a token has cards by it. Whether the
        caller has the link's secret is not looked at here."""
        ...

    async def agent(self, account_id: str, agent_id: str) -> Agent | None: ...
    async def agents(self, account_id: str) -> Sequence[Agent]: ...
    async def approve_agent(self, account_id: str, agent_id: str, now_ms: int) -> Agent | None:
        """The agent after it; a second approval keeps the time of the first."""
        ...

    async def revoke_agent(self, account_id: str, agent_id: str, now_ms: int) -> Agent | None:
        """Its key is of no use from now on. Its row stays, to say so."""
        ...

    async def forget_agent(self, account_id: str, agent_id: str, public_key: bytes) -> bool:
        """Delete the agent with this key, and the cards it told of. False: there is none, or it
        was revoked: that row stays, to say so."""
        ...

    # Jobs, as clients see them
    async def submit(self, job: NewJob, *, key_window_ms: int) -> Submitted:
        """Store the job and its `count` queued tasks, unless its key was used by the same member
        within the window: then the earlier job is returned and nothing is stored.

        Raises StoreError for a job_id that is taken by another job.
        """
        ...

    async def submitted(self, job: NewJob, *, key_window_ms: int) -> Submitted | None:
        """What `submit` would answer to a job whose key was used before; None where it would
        store it. Nothing is written."""
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
    async def open_tasks(
        self, account_id: str, *, created_after_ms: int = 0
    ) -> Sequence[tuple[Job, Task]]:
        """Every task that is queued or held, oldest job first: what a broker starts from.

        With `created_after_ms`, only of jobs created later: what polling asks.
        """
        ...

    async def assign(
        self,
        account_id: str,
        assigns: Sequence[Assign],
        now_ms: int,
        *,
        epoch: int | None = None,
    ) -> Sequence[Change]:
        """Lease queued tasks, all in one transaction; those no longer queued are left out.

        With `epoch`: raises LeaseLost, and nothing is written, unless the account's scheduling
        lease still has it.
        """
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
        *,
        checkpoint: Checkpoint | None = None,
        forget_checkpoint: bool = False,
    ) -> Change | None:
        """End a lease without a picture: REFUSE, LOSE, FAIL, GIVE_UP, RELEASE, RELEASED, CANCEL or
        EXPIRE, or what `event` decides. Counts failures (FAIL, and GIVE_UP of a held task), losses
        (LOSE) and releases (RELEASE), closes the attempt with its reason. None: the lease is stale.

        Where the job's cancel was requested, a task that would go back to the queue is cancelled.

        A task that goes back to the queue keeps its checkpoint, or gets `checkpoint` where that is
        of a later step, unless the engine failed on it (FAIL) or `forget_checkpoint` says so.
        """
        ...

    async def keep_checkpoints(
        self, account_id: str, told: Sequence[tuple[Lease, Checkpoint]]
    ) -> Sequence[Checkpoint]:
        """Remember from where these images can be gone on with; each replaces an older one. Those
        whose lease is stale, or that are no later than what is kept, are left out. The revision
        of their jobs stays: nobody watches for this. Returns the checkpoints they replaced."""
        ...

    async def retry(
        self, account_id: str, job_id: str, now_ms: int, *, epoch: int | None = None
    ) -> Sequence[Change]:
        """Queue the failed tasks of a job again, with their failures and losses set to 0. A job
        in history comes back to the hot tables, unless there is nothing to retry.

        With `epoch`: raises LeaseLost, as `assign` does.
        """
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
    async def set_card_standing(
        self, account_id: str, card_id: str, standing: str, now_ms: int
    ) -> bool:
        """Set one of STANDINGS (ValueError for another word); `save_cards` keeps it. False: the
        account has no such card."""
        ...

    async def forget_card(self, account_id: str, card_id: str) -> bool:
        """Remove a card for good, standing included; it comes back if its agent tells of it."""
        ...

    # Uploads
    async def add_upload(self, upload: Upload) -> None: ...
    async def upload(self, account_id: str, upload_id: str) -> Upload | None: ...

    # Members
    async def set_quota(self, account_id: str, quota: Quota, now_ms: int) -> None: ...
    async def quotas(self, account_id: str) -> Sequence[Quota]: ...
    async def usage(
        self, account_id: str, *, member: str = "", first_day: str, last_day: str
    ) -> Sequence[Usage]:
        """By day, then member, both days included; empty days are left out. Attempts that still
        run are not in it."""
        ...

    # Several brokers on one database
    async def lease_account(
        self, account_id: str, replica_id: str, now_ms: int, until_ms: int
    ) -> SchedulingLease | None:
        """Take a lease that is free or expired (epoch + 1), or extend one's own (same epoch, also
        where it expired and nobody took it). None: it is another's. Of two callers at once one
        wins. A replica_id is of one run of one process."""
        ...

    async def leave_account(self, account_id: str, replica_id: str, epoch: int) -> None:
        """Give it up at a clean stop, so that another need not wait. Not one's own: nothing."""
        ...

    async def scheduling_lease(self, account_id: str) -> SchedulingLease | None: ...
    async def save_replica(self, replica: Replica) -> None: ...
    async def replicas(self, seen_after_ms: int) -> Sequence[Replica]: ...
    async def forget_replica(self, replica_id: str) -> None: ...
    async def secret(self, name: str, candidate: bytes) -> bytes:
        """The secret that all replicas share: the first candidate ever given for the name."""
        ...

    # Keeping the hot tables small
    async def archive(self, account_id: str, ended_before_ms: int, limit: int) -> int:
        """Move ended jobs to history, oldest first, and count what they used: one transaction.

        `job`, `jobs`, `changed_tasks`, `cancel` and `retry` find them there. Returns how many."""
        ...

    async def sweep_results(
        self,
        account_id: str,
        *,
        ended_before_ms: int,
        most_bytes: int,
        limit: int,
        now_ms: int,
    ) -> Sequence[str]:
        """Forget the pictures of jobs in history that ended before, and of the oldest beyond
        `most_bytes` for the account's pictures and uploads together (0: no limit); and uploads
        not used since. `limit` jobs and uploads at most: call again while something comes back.

        Returns the sha256 of blobs that nothing of the account refers to any more. A reference
        made at this very moment can't be seen: ask `referred` before a blob is deleted, and don't
        delete one that was put (or put again) a short time ago."""
        ...

    async def referred(self, account_id: str, sha256s: Sequence[str]) -> frozenset[str]:
        """Those of the given blobs that a picture, an upload or the checkpoint of an image that
        has not ended still refers to."""
        ...

    async def sweep_keys(self, account_id: str, used_before_ms: int, limit: int) -> int:
        """Forget idempotency keys that are past their window. Returns how many."""
        ...

    async def forget_history(self, account_id: str, ended_before_ms: int, limit: int) -> int:
        """Forget jobs in history whose pictures were swept, oldest first; `usage` stays.
        Returns how many."""
        ...

    async def snapshot(self, path: Path) -> None:
        """Write a consistent copy of a running SQLite database to a path that must not exist.
        StoreError on PostgreSQL, with what to do there instead."""
        ...
