"""`Store` on a SQL database: each method hands one use case to the database as one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from foxden_broker.store import cards as card_rows
from foxden_broker.store import jobs as job_rows
from foxden_broker.store import leases as lease_rows
from foxden_broker.store import tokens as token_rows
from foxden_broker.store import uploads as upload_rows
from foxden_broker.store.base import (
    Assign,
    Cancelled,
    CardRow,
    Change,
    Decide,
    Job,
    JobPage,
    Lease,
    NewJob,
    Picture,
    Submitted,
    Task,
    Token,
    Upload,
)
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

    async def close(self) -> None:
        await self._close()

    # Accounts and tokens

    async def ensure_account(self, account_id: str, name: str, now_ms: int) -> None:
        await self._write(lambda conn: token_rows.ensure_account(conn, account_id, name, now_ms))

    async def accounts(self) -> Sequence[str]:
        return await self._read(token_rows.accounts)

    async def add_token(self, token: Token) -> None:
        await self._write(lambda conn: token_rows.add(conn, token))

    async def token(self, account_id: str, token_id: str) -> Token | None:
        return await self._read(lambda conn: token_rows.get(conn, account_id, token_id))

    async def tokens(self, account_id: str) -> Sequence[Token]:
        return await self._read(lambda conn: token_rows.of_account(conn, account_id))

    async def revoke_token(self, account_id: str, token_id: str, now_ms: int) -> Token | None:
        return await self._write(lambda conn: token_rows.revoke(conn, account_id, token_id, now_ms))

    # Jobs

    async def submit(self, job: NewJob, *, key_window_ms: int) -> Submitted:
        return await self._write(lambda conn: job_rows.submit(conn, job, key_window_ms))

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
        return await self._write(
            lambda conn: job_rows.cancel(conn, account_id, job_id, reason, now_ms)
        )

    async def resolve(
        self, account_id: str, job_id: str, request: bytes, model_sha256: str
    ) -> bool:
        return await self._write(
            lambda conn: job_rows.resolve(conn, account_id, job_id, request, model_sha256)
        )

    async def end_queued(
        self,
        account_id: str,
        tasks: Sequence[tuple[str, int]],
        event: TaskEvent,
        reason: str,
        now_ms: int,
    ) -> Sequence[Change]:
        return await self._write(
            lambda conn: job_rows.end_queued(conn, account_id, tasks, event, reason, now_ms)
        )

    # Leases

    async def open_tasks(self, account_id: str) -> Sequence[tuple[Job, Task]]:
        return await self._read(lambda conn: lease_rows.open_tasks(conn, account_id))

    async def assign(
        self, account_id: str, assigns: Sequence[Assign], now_ms: int
    ) -> Sequence[Change]:
        return await self._write(lambda conn: lease_rows.assign(conn, account_id, assigns, now_ms))

    async def start(self, account_id: str, lease: Lease, now_ms: int) -> Change | None:
        return await self._write(lambda conn: lease_rows.start(conn, account_id, lease, now_ms))

    async def finish(
        self, account_id: str, lease: Lease, picture: Picture, now_ms: int
    ) -> tuple[Change | None, bool]:
        return await self._write(
            lambda conn: lease_rows.finish(conn, account_id, lease, picture, now_ms)
        )

    async def end_lease(
        self,
        account_id: str,
        lease: Lease,
        event: TaskEvent | Decide,
        reason: str,
        now_ms: int,
    ) -> Change | None:
        return await self._write(
            lambda conn: lease_rows.end_lease(conn, account_id, lease, event, reason, now_ms)
        )

    async def retry(self, account_id: str, job_id: str, now_ms: int) -> Sequence[Change]:
        return await self._write(lambda conn: lease_rows.retry(conn, account_id, job_id, now_ms))

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

    # Uploads

    async def add_upload(self, upload: Upload) -> None:
        await self._write(lambda conn: upload_rows.add(conn, upload))

    async def upload(self, account_id: str, upload_id: str) -> Upload | None:
        return await self._read(lambda conn: upload_rows.get(conn, account_id, upload_id))
