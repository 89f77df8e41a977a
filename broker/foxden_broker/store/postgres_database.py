"""The shared database: every closure is a transaction on one of a few threads.

A connection that breaks (the server restarts, an administrator ends it, the network fails) is
replaced, and the closure runs again, for a few seconds. That is safe where the transaction
certainly was not committed. Where the answer to COMMIT was lost, nobody knows: then the use case
looks first whether its rows are there (`landed`), and waits by a lock for a transaction that the
server may still be ending.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, exc, func, select, text
from sqlalchemy.engine import URL

from foxden_broker.store.base import StoreError
from foxden_broker.store.database import Landed, is_postgres_error, translate
from foxden_broker.store.hot import Hot, Memory, Missed
from foxden_broker.store.postgres_groups import LOCK_MS, Groups

log = logging.getLogger(__name__)

T = TypeVar("T")

THREADS = 4
CLASH_TRIES = 8
LOST_SECONDS = 8.0  # how long a lost server is asked again
MIGRATION_TRIES = 20
STATEMENT_MS = 30_000
# A broker that is suspended inside a transaction keeps its locks: no other could take over.
IDLE_MS = 5_000
_MIGRATION_LOCK = 0x466F7864656E  # "Foxden"; replicas that start together migrate one by one
_CLASHED = {"40001", "40P01"}  # serialisation failure, deadlock: rolled back, try again
_LOCK_TIMEOUT = "55P03"
# Ended by an administrator, crashed, starting or stopping; too many connections for now.
_LOST = {"57P01", "57P02", "57P03", "57P05", "25P03", "53300"}
_NETWORK = {
    "connect_timeout": 5,
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,  # ms
    "application_name": "foxden-broker",
}
_SERVER = {
    "statement_timeout": STATEMENT_MS,
    "idle_in_transaction_session_timeout": IDLE_MS,
}


class _InDoubt(Exception):
    """COMMIT was sent and its answer lost; holds what the closure had returned."""

    def __init__(self, result: object) -> None:
        self.result = result


class PostgresDatabase:
    """Several brokers may share it. What the URL sets itself is left alone."""

    def __init__(self, url: URL, migrate: Callable[[Connection], None]) -> None:
        set_here = {name: value for name, value in _NETWORK.items() if name not in url.query}
        if "options" not in url.query:
            settings = (f"-c {name}={value}" for name, value in _SERVER.items())
            set_here["options"] = " ".join(settings)
        try:
            self._engine = create_engine(
                url, pool_size=THREADS, max_overflow=0, connect_args=set_here
            )
            self._reading = create_engine(
                url, pool_size=THREADS, max_overflow=0, connect_args=set_here
            )
            self._grouped = create_engine(url, pool_size=1, max_overflow=0, connect_args=set_here)
        except ModuleNotFoundError as error:
            raise StoreError(
                "PostgreSQL needs the driver psycopg: pip install 'psycopg[binary]'."
            ) from error
        event.listen(self._reading, "connect", _only_reads)
        event.listen(self._grouped, "connect", _wait_for_locks_briefly)
        self._threads = ThreadPoolExecutor(THREADS, "foxden-db")
        self._closing = threading.Event()
        self._kept = _Kept()
        self.memory = Memory()
        self._groups = Groups(self._grouped, self.memory, _is_lost)
        try:
            self._migrate(migrate)
        except BaseException:
            self._close()
            raise

    async def write(
        self,
        work: Callable[[Connection], T],
        landed: Landed[T] | None = None,
        hot: Hot[T] | None = None,
    ) -> T:
        doubt = None
        if hot is not None:
            try:
                return await self._groups.submit(hot)
            except Missed as missed:
                doubt = _InDoubt(missed.doubt) if missed.in_doubt else None
        return await self._on_thread(self._engine, work, landed, doubt)

    async def read(self, work: Callable[[Connection], T]) -> T:
        return await self._on_thread(self._reading, work, None)

    async def snapshot(self, path: Path) -> None:
        raise StoreError(
            "A PostgreSQL database is backed up with its own tools: run "
            "pg_dump --format=custom --file=foxden.dump and the broker's database URL."
        )

    async def close(self) -> None:
        await asyncio.to_thread(self._close)

    async def _on_thread(
        self,
        engine: Engine,
        work: Callable[[Connection], T],
        landed: Landed[T] | None,
        doubt: _InDoubt | None = None,
    ) -> T:
        if self._closing.is_set():
            raise StoreError("The broker's database is closed.")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._threads, self._transact, engine, work, landed, doubt
        )

    def _transact(
        self,
        engine: Engine,
        work: Callable[[Connection], T],
        landed: Landed[T] | None,
        doubt: _InDoubt | None,
    ) -> T:
        clashes = 0
        until = time.monotonic() + LOST_SECONDS
        wait = 0.02
        while True:
            try:
                with self._kept.connection(engine) as conn:
                    return _once(conn, work, landed, doubt)
            except _InDoubt as lost:
                doubt, cause = lost, lost.__cause__
            except Exception as error:
                if _is(error, _CLASHED):
                    clashes += 1
                    if clashes < CLASH_TRIES:
                        continue
                if not _is_lost(error):
                    raise translate(error) from error
                cause = error
            if time.monotonic() + wait > until or self._closing.wait(wait * random.uniform(0.5, 1)):
                break
            wait = min(1.0, wait * 2)
        assert cause is not None
        if doubt is None:
            raise translate(cause) from cause
        raise StoreError(
            "The connection to the broker's database broke in the middle of a commit and did not "
            "come back: what was asked for may be stored or not. Look before asking again."
        ) from cause

    def _migrate(self, migrate: Callable[[Connection], None]) -> None:
        """A lock of the session, not of a transaction: some steps must run outside of one."""
        try:
            with self._engine.connect() as conn:
                conn.execute(text("SET statement_timeout = 0"))
                conn.execute(text("SET idle_in_transaction_session_timeout = 0"))
                _take_turn(conn)
                try:
                    _migrate_patiently(conn, migrate)
                finally:
                    conn.rollback()
                    # Ends the session, and with it the lock and the settings.
                    conn.detach()
        except Exception as error:
            raise translate(error) from error

    def _close(self) -> None:
        self._closing.set()
        self._groups.close()
        self._threads.shutdown()
        self._kept.close()
        self._engine.dispose()
        self._reading.dispose()
        self._grouped.dispose()


class _Kept:
    """Each thread's connections, from one transaction to the next: to hand one back to a pool and
    take it out again costs as much as a statement. One that an error came from is handed back,
    which resets it, or ends it where it is broken."""

    def __init__(self) -> None:
        self._mine = threading.local()
        self._all: list[dict[Engine, Connection]] = []

    @contextmanager
    def connection(self, engine: Engine) -> Iterator[Connection]:
        kept: dict[Engine, Connection] | None = getattr(self._mine, "kept", None)
        if kept is None:
            kept = self._mine.kept = {}
            self._all.append(kept)
        if engine not in kept:
            kept[engine] = engine.connect()
        try:
            yield kept[engine]
        except BaseException:
            with suppress(Exception):
                kept.pop(engine).close()
            raise

    def close(self) -> None:
        """When no thread works any more."""
        for kept in self._all:
            for conn in kept.values():
                with suppress(Exception):
                    conn.close()
            kept.clear()


def _only_reads(raw: Any, _record: Any) -> None:
    """One snapshot for all statements of a transaction. Told with its BEGIN, at no cost."""
    from psycopg import IsolationLevel

    raw.isolation_level = IsolationLevel.REPEATABLE_READ
    raw.read_only = True


def _wait_for_locks_briefly(raw: Any, _record: Any) -> None:
    raw.execute(f"SET lock_timeout = {LOCK_MS}")
    raw.commit()


def _once(
    conn: Connection,
    work: Callable[[Connection], T],
    landed: Landed[T] | None,
    doubt: _InDoubt | None,
) -> T:
    """One try. Raises _InDoubt where the commit may or may not have been made."""
    with conn.begin() as transaction:
        if doubt is not None and landed is not None:
            before: Any = doubt.result
            if landed(conn, before):
                result: T = before
                return result
        result = work(conn)
        try:
            transaction.commit()
        except Exception as error:
            if _is_lost(error):
                raise _InDoubt(result) from error
            raise
    return result


def _take_turn(conn: Connection) -> None:
    """Asks again and again instead of waiting inside of a statement: an index that is built
    CONCURRENTLY waits for every older statement to end, and so the two would wait for each other.
    """
    while not conn.execute(select(func.pg_try_advisory_lock(_MIGRATION_LOCK))).scalar():
        conn.commit()
        time.sleep(random.uniform(0.05, 0.2))
    conn.commit()


def _migrate_patiently(conn: Connection, migrate: Callable[[Connection], None]) -> None:
    """A step that changes a table gives up soon where others are using it, and is tried again."""
    for left in reversed(range(MIGRATION_TRIES)):
        try:
            migrate(conn)
            conn.commit()
            return
        except exc.DBAPIError as error:
            conn.rollback()
            if not left or not _is(error, {_LOCK_TIMEOUT}):
                raise
            log.info("the database is in use, its new tables have to wait a moment")
            time.sleep(random.uniform(0.2, 1))


def _is(error: BaseException, states: set[str]) -> bool:
    return getattr(getattr(error, "orig", None) or error, "sqlstate", None) in states


def _is_lost(error: BaseException) -> bool:
    """Whether the connection is gone, and a new one may help."""
    cause = getattr(error, "orig", None) or error
    if not is_postgres_error(cause):
        return False
    state = getattr(cause, "sqlstate", None)
    if state is None:  # the driver's own: no answer, or no connection
        return type(cause).__name__ in ("OperationalError", "ConnectionTimeout")
    return state in _LOST or state.startswith("08")
