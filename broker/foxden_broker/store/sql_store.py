"""`Store` on a SQL database: each method hands one use case to the database as one transaction.

Where a commit is in doubt (PostgreSQL only: the connection broke while its answer was awaited),
methods that give something new say with a second function whether it landed. All others may
simply run twice: setting, extending, revoking and forgetting say the same the second time, and
what `archive` and `sweep_results` had taken is not there any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from foxden_broker.store import agents as agent_rows
from foxden_broker.store import cards as card_rows
from foxden_broker.store import history, hot, sweeps
from foxden_broker.store import jobs as job_rows
from foxden_broker.store import leases as lease_rows
from foxden_broker.store import replicas as replica_rows
from foxden_broker.store import tokens as token_rows
from foxden_broker.store import uploads as upload_rows
from foxden_broker.store import usage as usage_rows
from foxden_broker.store.base import (
    Agent,
    Assign,
    Cancelled,
    CardRow,
    Change,
    Checkpoint,
    Decide,
    Enrolled,
    Job,
    JobPage,
    JoinLink,
    Lease,
    NewJob,
    Picture,
    Quota,
    Replica,
    SchedulingLease,
    Submitted,
    Task,
    Token,
    Upload,
    Usage,
)
from foxden_broker.store.changes import are_there
from foxden_broker.store.database import Database, open_database
from foxden_broker.store.migrate import migrate
from foxden_proto.states import JobState, TaskEvent


async def open_store(url: str) -> SqlStore:
    """Open the database, create or migrate its tables, and take hold of it.

    `url`: a path or `sqlite:////path/to/foxden.db`, or `postgresql://user@host/name`.
    Raises StoreError where that can't be done, or another broker holds the SQLite file.
    """
    return SqlStore(await asyncio.to_thread(open_database, url, migrate))


class SqlStore:
    """See `foxden_broker.store.base.Store`, which this implements."""

    def __init__(self, database: Database) -> None:
        self._write = database.write
        self._read = database.read
        self._close = database.close
        self._snapshot = database.snapshot
        self._memory = database.memory

    async def close(self) -> None:
        await self._close()

    # Accounts and tokens

    async def ensure_account(self, account_id: str, name: str, now_ms: int) -> None:
        await self._write(lambda conn: token_rows.ensure_account(conn, account_id, name, now_ms))

    async def accounts(self) -> Sequence[str]:
        return await self._read(token_rows.accounts)

    async def add_token(self, token: Token) -> None:
        await self._write(
            lambda conn: token_rows.add(conn, token),
            lambda conn, _: token_rows.was_added(conn, token),
        )

    async def token(self, account_id: str, token_id: str) -> Token | None:
        return await self._read(lambda conn: token_rows.get(conn, account_id, token_id))

    async def tokens(self, account_id: str) -> Sequence[Token]:
        return await self._read(lambda conn: token_rows.of_account(conn, account_id))

    async def revoke_token(self, account_id: str, token_id: str, now_ms: int) -> Token | None:
        return await self._write(lambda conn: token_rows.revoke(conn, account_id, token_id, now_ms))

    async def account_name(self, account_id: str) -> str:
        return await self._read(lambda conn: token_rows.account_name(conn, account_id))

    # Joining

    async def add_join_link(self, link: JoinLink) -> None:
        await self._write(
            lambda conn: agent_rows.add_link(conn, link),
            lambda conn, _: agent_rows.link_was_added(conn, link),
        )

    async def join_link(self, account_id: str, link_id: str) -> JoinLink | None:
        return await self._read(lambda conn: agent_rows.get_link(conn, account_id, link_id))

    async def join_links(self, account_id: str) -> Sequence[JoinLink]:
        return await self._read(lambda conn: agent_rows.links(conn, account_id))

    async def revoke_join_link(self, account_id: str, link_id: str, now_ms: int) -> JoinLink | None:
        return await self._write(
            lambda conn: agent_rows.revoke_link(conn, account_id, link_id, now_ms)
        )

    async def enrol(self, agent: Agent, now_ms: int) -> Enrolled:
        return await self._write(
            lambda conn: agent_rows.enrol(conn, agent, now_ms),
            lambda conn, result: agent_rows.was_enrolled(conn, agent, result),
        )

    async def agent(self, account_id: str, agent_id: str) -> Agent | None:
        return await self._read(lambda conn: agent_rows.get(conn, account_id, agent_id))

    async def agents(self, account_id: str) -> Sequence[Agent]:
        return await self._read(lambda conn: agent_rows.of_account(conn, account_id))

    async def approve_agent(self, account_id: str, agent_id: str, now_ms: int) -> Agent | None:
        return await self._write(
            lambda conn: agent_rows.approve(conn, account_id, agent_id, now_ms)
        )

    async def revoke_agent(self, account_id: str, agent_id: str, now_ms: int) -> Agent | None:
        return await self._write(lambda conn: agent_rows.revoke(conn, account_id, agent_id, now_ms))

    async def forget_agent(self, account_id: str, agent_id: str, public_key: bytes) -> bool:
        return await self._write(
            lambda conn: agent_rows.forget(conn, account_id, agent_id, public_key)
        )

    # Jobs

    async def submit(self, job: NewJob, *, key_window_ms: int) -> Submitted:
        return await self._write(
            lambda conn: job_rows.submit(conn, job, key_window_ms),
            lambda conn, result: job_rows.was_submitted(conn, job, result),
            lambda way: hot.submit(way, job, key_window_ms),
        )

    async def submitted(self, job: NewJob, *, key_window_ms: int) -> Submitted | None:
        return await self._read(lambda conn: job_rows.submitted(conn, job, key_window_ms))

    async def job(self, account_id: str, job_id: str, *, attempts: bool = False) -> Job | None:
        return await self._read(lambda conn: job_rows.get(conn, account_id, job_id, attempts))

    async def changed_tasks(
        self, account_id: str, job_id: str, after_revision: int
    ) -> tuple[Job, tuple[Task, ...]] | None:
        return await self._read(
            lambda conn: job_rows.changed_tasks(conn, account_id, job_id, after_revision)
        )

    async def jobs(
        self,
        account_id: str,
        *,
        member: str = "",
        state: JobState | None = None,
        before: str = "",
        limit: int = 50,
    ) -> JobPage:
        return await self._read(
            lambda conn: job_rows.listing(conn, account_id, member, state, before, limit)
        )

    async def cancel(
        self, account_id: str, job_id: str, reason: str, now_ms: int
    ) -> Cancelled | None:
        self._memory.forget([(account_id, job_id)])
        return await self._write(
            lambda conn: job_rows.cancel(conn, account_id, job_id, reason, now_ms),
            lambda conn, done: are_there(conn, account_id, done.changes if done else ()),
        )

    async def resolve(
        self, account_id: str, job_id: str, request: bytes, model_sha256: str
    ) -> bool:
        return await self._write(
            lambda conn: job_rows.resolve(conn, account_id, job_id, request, model_sha256),
            lambda conn, _: job_rows.was_resolved(conn, account_id, job_id, request, model_sha256),
        )

    async def end_queued(
        self,
        account_id: str,
        tasks: Sequence[tuple[str, int]],
        event: TaskEvent,
        reason: str,
        now_ms: int,
    ) -> Sequence[Change]:
        self._memory.forget((account_id, job_id) for job_id, _ in tasks)
        return await self._write(
            lambda conn: job_rows.end_queued(conn, account_id, tasks, event, reason, now_ms),
            lambda conn, changes: are_there(conn, account_id, changes),
        )

    # Leases

    async def open_tasks(
        self, account_id: str, *, created_after_ms: int = 0
    ) -> Sequence[tuple[Job, Task]]:
        found = await self._read(
            lambda conn: lease_rows.open_tasks(conn, account_id, created_after_ms)
        )
        self._memory.learn(hot.as_read(found))
        return found

    async def assign(
        self,
        account_id: str,
        assigns: Sequence[Assign],
        now_ms: int,
        *,
        epoch: int | None = None,
    ) -> Sequence[Change]:
        return await self._write(
            lambda conn: lease_rows.assign(conn, account_id, assigns, now_ms, epoch),
            lambda conn, changes: are_there(conn, account_id, changes),
            lambda way: hot.assign(way, account_id, assigns, now_ms, epoch),
        )

    async def start(self, account_id: str, lease: Lease, now_ms: int) -> Change | None:
        return await self._write(
            lambda conn: lease_rows.start(conn, account_id, lease, now_ms),
            lambda conn, change: are_there(conn, account_id, _if_any(change)),
            lambda way: hot.start(way, account_id, lease, now_ms),
        )

    async def finish(
        self, account_id: str, lease: Lease, picture: Picture, now_ms: int
    ) -> tuple[Change | None, bool]:
        return await self._write(
            lambda conn: lease_rows.finish(conn, account_id, lease, picture, now_ms),
            lambda conn, result: are_there(conn, account_id, _if_any(result[0])),
            lambda way: hot.finish(way, account_id, lease, picture, now_ms),
        )

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
        self._memory.forget([(account_id, lease.job_id)])
        return await self._write(
            lambda conn: lease_rows.end_lease(
                conn, account_id, lease, event, reason, now_ms, checkpoint, forget_checkpoint
            ),
            lambda conn, change: are_there(conn, account_id, _if_any(change)),
        )

    async def keep_checkpoints(
        self, account_id: str, told: Sequence[tuple[Lease, Checkpoint]]
    ) -> Sequence[Checkpoint]:
        keys = [(account_id, lease.job_id) for lease, _ in told]
        self._memory.forget(keys)
        replaced = await self._write(
            lambda conn: lease_rows.keep_checkpoints(conn, account_id, told)
        )
        self._memory.forget(keys)  # again: a write that was under way has remembered it as it was
        return replaced

    async def retry(
        self, account_id: str, job_id: str, now_ms: int, *, epoch: int | None = None
    ) -> Sequence[Change]:
        self._memory.forget([(account_id, job_id)])
        return await self._write(
            lambda conn: lease_rows.retry(conn, account_id, job_id, now_ms, epoch),
            lambda conn, changes: are_there(conn, account_id, changes),
        )

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
        await self._write(
            lambda conn: card_rows.save(
                conn, account_id, agent_id, agent_name, agent_version, cards, now_ms
            )
        )

    async def cards(self, account_id: str) -> Sequence[CardRow]:
        return await self._read(lambda conn: card_rows.of_account(conn, account_id))

    async def set_card_standing(
        self, account_id: str, card_id: str, standing: str, now_ms: int
    ) -> bool:
        return await self._write(
            lambda conn: card_rows.set_standing(conn, account_id, card_id, standing)
        )

    async def forget_card(self, account_id: str, card_id: str) -> bool:
        return await self._write(
            lambda conn: card_rows.forget(conn, account_id, card_id),
            lambda conn, was_there: card_rows.forget(conn, account_id, card_id) or was_there,
        )

    # Uploads

    async def add_upload(self, upload: Upload) -> None:
        await self._write(
            lambda conn: upload_rows.add(conn, upload),
            lambda conn, _: upload_rows.was_added(conn, upload),
        )

    async def upload(self, account_id: str, upload_id: str) -> Upload | None:
        return await self._read(lambda conn: upload_rows.get(conn, account_id, upload_id))

    # Members

    async def set_quota(self, account_id: str, quota: Quota, now_ms: int) -> None:
        await self._write(lambda conn: usage_rows.set_quota(conn, account_id, quota, now_ms))

    async def quotas(self, account_id: str) -> Sequence[Quota]:
        return await self._read(lambda conn: usage_rows.quotas(conn, account_id))

    async def usage(
        self, account_id: str, *, member: str = "", first_day: str, last_day: str
    ) -> Sequence[Usage]:
        return await self._read(
            lambda conn: usage_rows.between(conn, account_id, member, first_day, last_day)
        )

    # Several brokers

    async def lease_account(
        self, account_id: str, replica_id: str, now_ms: int, until_ms: int
    ) -> SchedulingLease | None:
        return await self._write(
            lambda conn: replica_rows.lease_account(conn, account_id, replica_id, now_ms, until_ms)
        )

    async def leave_account(self, account_id: str, replica_id: str, epoch: int) -> None:
        await self._write(
            lambda conn: replica_rows.leave_account(conn, account_id, replica_id, epoch)
        )

    async def scheduling_lease(self, account_id: str) -> SchedulingLease | None:
        return await self._read(lambda conn: replica_rows.current(conn, account_id))

    async def save_replica(self, replica: Replica) -> None:
        await self._write(lambda conn: replica_rows.save_replica(conn, replica))

    async def replicas(self, seen_after_ms: int) -> Sequence[Replica]:
        return await self._read(lambda conn: replica_rows.replicas(conn, seen_after_ms))

    async def forget_replica(self, replica_id: str) -> None:
        await self._write(lambda conn: replica_rows.forget_replica(conn, replica_id))

    async def secret(self, name: str, candidate: bytes) -> bytes:
        return await self._write(lambda conn: replica_rows.shared_secret(conn, name, candidate))

    # Keeping the hot tables small

    async def archive(self, account_id: str, ended_before_ms: int, limit: int) -> int:
        return await self._write(
            lambda conn: history.archive(conn, account_id, ended_before_ms, limit)
        )

    async def sweep_results(
        self,
        account_id: str,
        *,
        ended_before_ms: int,
        most_bytes: int,
        limit: int,
        now_ms: int,
    ) -> Sequence[str]:
        return await self._write(
            lambda conn: sweeps.results(conn, account_id, ended_before_ms, most_bytes, limit)
        )

    async def referred(self, account_id: str, sha256s: Sequence[str]) -> frozenset[str]:
        return await self._read(lambda conn: sweeps.referred(conn, account_id, sha256s))

    async def sweep_keys(self, account_id: str, used_before_ms: int, limit: int) -> int:
        return await self._write(lambda conn: sweeps.keys(conn, account_id, used_before_ms, limit))

    async def forget_history(self, account_id: str, ended_before_ms: int, limit: int) -> int:
        return await self._write(
            lambda conn: history.forget(conn, account_id, ended_before_ms, limit)
        )

    async def snapshot(self, path: Path) -> None:
        await self._snapshot(path)


def _if_any(change: Change | None) -> tuple[Change, ...]:
    return () if change is None else (change,)
