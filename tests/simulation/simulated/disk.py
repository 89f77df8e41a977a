"""The broker's disk: the real store's statements on SQLite in memory, and pictures by sha256.

The disk outlives brokers. A write is committed some time after it was asked for and answered some
time after that, and a crash may fall anywhere between; it may fail before anything is written, and,
as on a database behind a network, after it was (the caller then hears an error all the same).
Triggers refuse what must never happen, whatever code asks for it.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import sqlite3
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.pool import StaticPool

from foxden_broker.blobs import BlobMismatch, BlobMissing, BlobTooBig
from foxden_broker.store.base import Change, StorageFull, StoreError
from foxden_broker.store.database import translate
from foxden_broker.store.hot import Entry, Hot, Key, Memory, Missed
from foxden_broker.store.migrate import migrate
from foxden_broker.store.writer import AtOnce
from foxden_proto.limits import CHUNK_BYTES
from simulated.clock import Process

T = TypeVar("T")

# Each names an invariant; SQLite refuses the statement that would break it.
_TRIGGERS = (
    """CREATE TRIGGER ended_is_final BEFORE UPDATE ON task
       WHEN OLD.state IN ('done', 'cancelled', 'expired') AND NEW.state <> OLD.state
       BEGIN SELECT RAISE(ABORT, 'INVARIANT an ended image changed'); END""",
    """CREATE TRIGGER lease_no_grows BEFORE UPDATE ON task WHEN NEW.lease_no < OLD.lease_no
       BEGIN SELECT RAISE(ABORT, 'INVARIANT a lease_no fell'); END""",
    """CREATE TRIGGER revision_grows BEFORE UPDATE ON job WHEN NEW.revision < OLD.revision
       BEGIN SELECT RAISE(ABORT, 'INVARIANT a revision fell'); END""",
    """CREATE TRIGGER one_live_lease BEFORE INSERT ON attempt
       WHEN EXISTS (SELECT 1 FROM attempt WHERE account_id = NEW.account_id AND outcome = ''
                    AND job_id = NEW.job_id AND idx = NEW.idx)
       BEGIN SELECT RAISE(ABORT, 'INVARIANT two live leases of one image'); END""",
    """CREATE TRIGGER pictures_stay BEFORE UPDATE ON picture
       BEGIN SELECT RAISE(ABORT, 'INVARIANT an accepted picture changed'); END""",
)


@dataclass
class DiskFaults:
    """How the disk misbehaves just now."""

    full: bool = False
    fail: float = 0.0  # the share of writes that fail with nothing written
    ambiguous: float = 0.0  # the share of writes that are done, and whose caller hears an error
    slow: float = 1.0  # times as long as usual


@cache
def _template() -> sqlite3.Connection:
    """An empty, migrated database, copied for each seed."""
    raw = sqlite3.connect(":memory:")
    engine = _engine(raw)
    with engine.begin() as conn:
        migrate(conn)
    for trigger in _TRIGGERS:
        raw.execute(trigger)
    return raw


def _engine(raw: sqlite3.Connection) -> Any:
    engine = create_engine("sqlite://", creator=lambda: raw, poolclass=StaticPool)
    raw.isolation_level = None

    @event.listens_for(engine, "begin")
    def begin(conn: Connection) -> None:
        conn.exec_driver_sql("BEGIN")

    return engine


class Disk:
    """What is left when a broker dies."""

    def __init__(
        self,
        draw: random.Random,
        violated: Callable[[str], None],
        note: Callable[[str], None],
    ) -> None:
        self.raw = sqlite3.connect(":memory:")
        _template().backup(self.raw)
        self._conn = _engine(self.raw).connect()
        self.draw = draw
        self.faults = DiskFaults()
        self.in_order = draw.random() < 0.4  # one writer (SQLite), or several connections
        self.blobs: dict[str, bytes] = {}
        self.writes = 0
        self._violated, self.note = violated, note

    def transact(self, work: Callable[[Connection], T]) -> T:
        return self.write(work, None, Memory())[0]

    def write(
        self, work: Callable[[Connection], T], hot: Hot[T] | None, memory: Memory
    ) -> tuple[T, dict[Key, Entry]]:
        """The result, and what is to be remembered once its caller hears of it. As the real writer
        has it, the short way is tried first, and leaves nothing where it misses."""
        try:
            with self._conn.begin():
                way = AtOnce(self._conn, memory, {})
                if hot is not None:
                    self._conn.exec_driver_sql("SAVEPOINT one")
                    try:
                        return hot(way), way.changed
                    except Missed:
                        self._conn.exec_driver_sql("ROLLBACK TO one")
                return work(self._conn), {}
        except Exception as error:
            if "INVARIANT" in str(error) or isinstance(error, AssertionError):
                self._violated(str(error).splitlines()[0])
            raise translate(error) from error

    def seconds(self) -> float:
        return self.draw.expovariate(1 / 0.004) * self.faults.slow


class SimulatedDatabase:
    """One broker's connections to the disk: `foxden_broker.store.database.Database`."""

    def __init__(self, disk: Disk, process: Process) -> None:
        self._disk, self._process = disk, process
        self._last = {"write": 0.0, "read": 0.0}
        self.memory = Memory()  # this broker's: it dies with it

    async def write(
        self,
        work: Callable[[Connection], T],
        landed: object = None,
        hot: Hot[T] | None = None,
    ) -> T:
        """`landed` is never asked: a database whose answer got lost may stay away for long."""
        return await self._do("write", work, hot)

    async def read(self, work: Callable[[Connection], T]) -> T:
        return await self._do("read", work)

    async def snapshot(self, path: Path) -> None:
        raise StoreError("The simulated disk makes no copies.")

    async def close(self) -> None: ...

    def _do(
        self, kind: str, work: Callable[[Connection], T], hot: Hot[T] | None = None
    ) -> asyncio.Future[T]:
        """By timers and no task: a caller who is cancelled does not stop what it asked for."""
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[T] = loop.create_future()
        disk = self._disk
        at = loop.time() + disk.seconds()
        if disk.in_order:
            at = self._last[kind] = max(at, self._last[kind] + 1e-6)

        def answer(result: Any, error: Exception | None) -> None:
            if self._process.alive and not answered.done():
                if error is not None:
                    answered.set_exception(error)
                else:
                    answered.set_result(result)

        def commit() -> None:
            if not self._process.alive:
                return
            result, error = None, self._refusal(kind)
            if error is None:
                try:
                    result, changed = disk.write(work, hot, self.memory)
                    disk.writes += kind == "write"
                except Exception as raised:
                    error = raised
                else:
                    if kind == "write" and disk.draw.random() < disk.faults.ambiguous:
                        error = StoreError("The connection to the database broke. Try again.")
                        self.memory.forget(changed)
                    else:
                        self.memory.keep(changed)
            if kind == "write":
                name = work.__qualname__.split(".")[1]
                disk.note(f"store {name}: {_brief(result)} {error or ''}")
            loop.call_later(disk.seconds() / 2, answer, result, error)

        loop.call_at(at, commit)
        return answered

    def _refusal(self, kind: str) -> Exception | None:
        faults = self._disk.faults
        if kind == "write" and faults.full:
            return StorageFull("The disk is full. Free some space.")
        if faults.fail and self._disk.draw.random() < faults.fail:
            return StoreError("The database does not answer. Try again.")
        return None


def _brief(result: Any) -> str:
    """What a write came to: changes of images."""
    found = result if isinstance(result, tuple) else (result,)
    words = []
    for one in found:
        if isinstance(one, Change):
            task = one.task
            lease = f"{task.job_id}/{task.index}/{task.lease_no}"
            words.append(f"{lease} {one.event.value} on {task.card_id}")
        elif one is None or isinstance(one, bool):
            words.append(str(one))
    return ", ".join(words)


class SimulatedBlobs:
    """`foxden_broker.blobs.BlobStore` on the disk: whole, or not there."""

    def __init__(self, disk: Disk, process: Process) -> None:
        self._disk, self._process = disk, process

    async def put(
        self,
        chunks: AsyncIterator[bytes],
        *,
        limit: int,
        expect_sha256: str | None = None,
        expect_size: int | None = None,
    ) -> tuple[str, int]:
        data = b"".join([chunk async for chunk in chunks])
        sha256 = hashlib.sha256(data).hexdigest()
        if len(data) > limit:
            raise BlobTooBig(limit)
        if expect_sha256 not in (None, sha256):
            raise BlobMismatch("sha256", expect_sha256, sha256)
        if expect_size not in (None, len(data)):
            raise BlobMismatch("size", expect_size, len(data))
        await asyncio.sleep(self._disk.seconds())
        if self._disk.faults.full:
            raise StorageFull("The disk is full. Free some space.")
        if self._process.alive:
            self._disk.blobs[sha256] = data
        await asyncio.sleep(self._disk.seconds() / 2)
        return sha256, len(data)

    async def read(self, sha256: str) -> AsyncIterator[bytes]:
        await asyncio.sleep(self._disk.seconds())
        if sha256 not in self._disk.blobs:
            raise BlobMissing(sha256)
        data = self._disk.blobs[sha256]
        for at in range(0, len(data), CHUNK_BYTES):
            yield data[at : at + CHUNK_BYTES]

    async def size(self, sha256: str) -> int | None:
        data = self._disk.blobs.get(sha256)
        return None if data is None else len(data)

    async def delete(self, sha256: str) -> bool:
        return self._disk.blobs.pop(sha256, None) is not None
