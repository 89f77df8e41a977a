"""Databases: where a closure over a connection runs, and all that differs between the engines.

No other file asks which engine it talks to. `open_database` picks one by URL:

- SQLite: one writer thread with the only read-write connection (see writer.py), and one reader
  thread whose connection is opened read-only. SQLite before 3.51.3 can corrupt a database in WAL
  mode when two connections write or checkpoint at the wrong moment, so the second connection
  must never be able to do either, and a lock file keeps other processes out.
- PostgreSQL: a few threads with a connection each.
"""

from __future__ import annotations

import asyncio
import errno
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, Engine, Table, create_engine, event, exc, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.pool import NullPool

from foxden_broker.store.base import StorageFull, StoreError
from foxden_broker.store.lockfile import LockFile
from foxden_broker.store.writer import Writer

T = TypeVar("T")

POSTGRES_THREADS = 4
POSTGRES_TRIES = 5
_MIGRATION_LOCK = 0x466F7864656E  # "Foxden"; replicas that start together migrate one by one
_PG_FULL = {"53100"}
_PG_TRY_AGAIN = {"40001", "40P01"}  # serialisation failure, deadlock


class Database(Protocol):
    """Runs a closure in a transaction of its own; an exception rolls that closure back."""

    async def write(self, work: Callable[[Connection], T]) -> T: ...
    async def read(self, work: Callable[[Connection], T]) -> T: ...
    async def close(self) -> None: ...


def open_database(url: str, migrate: Callable[[Connection], None]) -> Database:
    """Open (and create, and migrate) a database. Blocks; call it from a thread.

    `sqlite:////absolute/path`, a plain path, or `postgresql://…`.
    """
    parsed = make_url(url) if "://" in url else URL.create("sqlite", database=url)
    if parsed.get_backend_name() == "sqlite":
        if not parsed.database or parsed.database == ":memory:":
            raise StoreError("The broker needs a database file: give sqlite:////path/to/foxden.db.")
        return SqliteDatabase(Path(parsed.database), migrate)
    if parsed.get_backend_name() == "postgresql":
        return PostgresDatabase(parsed.set(drivername="postgresql+psycopg"), migrate)
    raise StoreError(
        f"Foxden stores in SQLite or PostgreSQL, not in {parsed.get_backend_name()!r}: "
        "give a sqlite:// or postgresql:// URL."
    )


def upsert(dialect: str, table: Table) -> Any:
    """INSERT with `.on_conflict_do_update` and `.on_conflict_do_nothing`, for `dialect.name`."""
    if dialect == "sqlite":
        return sqlite.insert(table)
    return postgresql.insert(table)


def translate(error: BaseException) -> BaseException:
    """The error a caller of the store sees: ours for the database's, anything else unchanged."""
    if not isinstance(error, exc.SQLAlchemyError | sqlite3.Error | OSError):
        return error
    cause = getattr(error, "orig", None) or error
    code = getattr(cause, "sqlite_errorcode", None)
    if (
        (code is not None and code & 0xFF == sqlite3.SQLITE_FULL)
        or getattr(cause, "sqlstate", None) in _PG_FULL
        or getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    ):
        return StorageFull(
            "The disk of the broker's database is full; nothing was stored. "
            "Free some space there and try again."
        )
    text = str(cause).strip().splitlines()
    return StoreError(
        f"The broker's database failed: {text[0] if text else type(cause).__name__}. "
        "Look at the broker's disk and log, then try again."
    )


class SqliteDatabase:
    """Embedded: group commit on one thread, reads on another."""

    def __init__(self, path: Path, migrate: Callable[[Connection], None]) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise translate(error) from error
        self._lock = LockFile(path)
        self._writing = _sqlite_engine(path, readonly=False)
        self._reading = _sqlite_engine(path, readonly=True)
        self._writer = Writer(self._writing, translate)
        self._reader = ThreadPoolExecutor(1, "foxden-db-read")
        self._read_conn: Connection | None = None
        try:
            self._writer.run(migrate)  # first: a read-only connection can't open an empty database
            self._reader.submit(self._open_reader).result()
        except BaseException as error:
            self._close()
            raise translate(error) from error

    async def write(self, work: Callable[[Connection], T]) -> T:
        return await self._writer.submit(work)

    async def read(self, work: Callable[[Connection], T]) -> T:
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._reader, self._read, work)
        except RuntimeError as error:
            if self._read_conn is None:
                raise StoreError("The broker's database is closed.") from error
            raise

    async def close(self) -> None:
        await asyncio.to_thread(self._close)

    def _open_reader(self) -> None:
        self._read_conn = self._reading.connect()

    def _read(self, work: Callable[[Connection], T]) -> T:
        assert self._read_conn is not None
        try:
            with self._read_conn.begin():
                return work(self._read_conn)
        except Exception as error:
            raise translate(error) from error

    def _close_reader(self) -> None:
        if self._read_conn is not None:
            self._read_conn.close()
            self._read_conn = None

    def _close(self) -> None:
        # The reader first: the connection that closes last checkpoints, and that is the writer.
        try:
            self._reader.submit(self._close_reader).result()
        except RuntimeError:
            return  # closed before
        self._reader.shutdown()
        self._writer.close()
        self._lock.release()


def _sqlite_engine(path: Path, *, readonly: bool) -> Engine:
    if readonly:
        database = f"{path.absolute().as_uri()}?mode=ro"
        url = URL.create("sqlite", database=database, query={"uri": "true"})
    else:
        url = URL.create("sqlite", database=str(path))
    engine = create_engine(url, poolclass=NullPool)

    @event.listens_for(engine, "connect")
    def set_up(raw: Any, _record: Any) -> None:
        raw.isolation_level = None  # transactions begin where `begin` below says, nowhere else
        raw.execute("PRAGMA busy_timeout = 10000")
        if readonly:
            raw.execute("PRAGMA query_only = ON")
        else:
            raw.execute("PRAGMA journal_mode = WAL").fetchall()
            raw.execute("PRAGMA synchronous = FULL")
            raw.execute("PRAGMA mmap_size = 0").fetchall()

    @event.listens_for(engine, "begin")
    def begin(conn: Connection) -> None:
        conn.exec_driver_sql("BEGIN" if readonly else "BEGIN IMMEDIATE")

    return engine


class PostgresDatabase:
    """Shared: every closure is a transaction on one of a few threads."""

    def __init__(self, url: URL, migrate: Callable[[Connection], None]) -> None:
        try:
            self._engine = create_engine(
                url, pool_size=POSTGRES_THREADS, max_overflow=0, pool_pre_ping=True
            )
        except ModuleNotFoundError as error:
            raise StoreError(
                "PostgreSQL needs the driver psycopg: pip install 'psycopg[binary]'."
            ) from error
        self._threads = ThreadPoolExecutor(POSTGRES_THREADS, "foxden-db")

        def locked(conn: Connection) -> None:
            conn.execute(select(func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
            migrate(conn)

        try:
            self._transact(locked)
        except BaseException:
            self._close()
            raise

    async def write(self, work: Callable[[Connection], T]) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._transact, work)

    read = write

    async def close(self) -> None:
        await asyncio.to_thread(self._close)

    def _transact(self, work: Callable[[Connection], T]) -> T:
        for left in reversed(range(POSTGRES_TRIES)):
            try:
                with self._engine.begin() as conn:
                    return work(conn)
            except exc.DBAPIError as error:
                if left and getattr(error.orig, "sqlstate", None) in _PG_TRY_AGAIN:
                    continue
                raise translate(error) from error
            except Exception as error:
                raise translate(error) from error
        raise AssertionError("unreachable")

    def _close(self) -> None:
        self._threads.shutdown()
        self._engine.dispose()
