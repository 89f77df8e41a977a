"""The embedded database: group commit on one thread, reads on another, nobody else.

SQLite before 3.51.3 can corrupt a database in WAL mode when two connections write or checkpoint
at the wrong moment. So there is exactly one read-write connection (see writer.py), the others are
opened read-only and are asked at the start whether they really can do neither, and a lock file
keeps other processes out. Then every version is safe to use.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.pool import NullPool

from foxden_broker.store.base import StoreError
from foxden_broker.store.database import Landed, translate
from foxden_broker.store.hot import Hot, Memory
from foxden_broker.store.lockfile import LockFile
from foxden_broker.store.writer import Writer

log = logging.getLogger(__name__)

T = TypeVar("T")

WAL_RESET_FIXED = (3, 51, 3)


class SqliteDatabase:
    """Embedded: group commit on one thread, reads on another."""

    def __init__(self, path: Path, migrate: Callable[[Connection], None]) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise translate(error) from error
        self._path = path
        self._lock = LockFile(path)
        self._writing = _sqlite_engine(path, readonly=False)
        self._reading = _sqlite_engine(path, readonly=True)
        self.memory = Memory()
        self._writer = Writer(self._writing, translate, self.memory)
        self._reader = ThreadPoolExecutor(1, "foxden-db-read")
        self._read_conn: Connection | None = None
        try:
            self._writer.run(migrate)  # first: a read-only connection can't open an empty database
            self._reader.submit(self._open_reader).result()
        except BaseException as error:
            self._close()
            raise translate(error) from error

    async def write(
        self,
        work: Callable[[Connection], T],
        landed: Landed[T] | None = None,
        hot: Hot[T] | None = None,
    ) -> T:
        return await self._writer.submit(work, hot)  # a commit here is never in doubt

    async def read(self, work: Callable[[Connection], T]) -> T:
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._reader, self._read, work)
        except RuntimeError as error:
            if self._read_conn is None:
                raise StoreError("The broker's database is closed.") from error
            raise

    async def snapshot(self, path: Path) -> None:
        await asyncio.to_thread(self._snapshot, path)

    async def close(self) -> None:
        await asyncio.to_thread(self._close)

    def _snapshot(self, path: Path) -> None:
        """On a connection of its own, so that reads go on. While it lasts the WAL only grows."""
        if path.exists():
            raise StoreError(f"{path} is there already: give the copy a name that is free.")
        half = path.with_name(path.name + ".half")
        try:
            half.unlink(missing_ok=True)
            with self._reading.connect() as conn, closing(sqlite3.connect(half)) as copy:
                raw = conn.connection.driver_connection
                assert isinstance(raw, sqlite3.Connection)
                raw.backup(copy)  # in one step: what it reads is one moment of the database
            with open(half, "rb+") as file:
                os.fsync(file.fileno())
            half.rename(path)
        except (sqlite3.Error, OSError) as error:
            half.unlink(missing_ok=True)
            raise translate(error) from error

    def _open_reader(self) -> None:
        self._read_conn = self._reading.connect()
        raw = self._read_conn.connection.driver_connection
        assert isinstance(raw, sqlite3.Connection)
        check_safe(raw, sqlite3.sqlite_version_info)

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


def check_safe(reader: sqlite3.Connection, version: tuple[int, int, int]) -> None:
    """Prove that the second connection can neither write nor checkpoint; with that, a `version`
    of SQLite that has the WAL-reset bug does no harm. Raises StoreError where it could."""
    text = ".".join(map(str, version))
    reader.execute("PRAGMA query_only = OFF")  # so that it is the file that refuses
    reader.execute("BEGIN")
    try:
        reader.execute("CREATE TABLE may_i_write (x)")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_READONLY:
            raise
    else:
        raise StoreError(
            f"SQLite {text} opened the broker's second connection for writing; that can corrupt "
            "the database. Use the Python of the Foxden installer, or a PostgreSQL database."
        )
    finally:
        reader.execute("ROLLBACK")
        reader.execute("PRAGMA query_only = ON")
    if version < WAL_RESET_FIXED:
        log.info(
            "SQLite %s has the WAL-reset bug (fixed in 3.51.3); it needs two connections that "
            "write or checkpoint, and this broker has one: nothing to do",
            text,
        )
