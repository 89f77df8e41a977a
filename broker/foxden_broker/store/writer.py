"""Group commit on SQLite: one thread, one connection, one fsync for all that waits.

A commit with `synchronous=FULL` costs an fsync whatever it holds, so the thread takes every
closure that waits, runs each inside a savepoint, commits once, and only then tells the callers.
Nobody hears of success before it is on the disk.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine

from foxden_broker.store.database import rows_of, write_one
from foxden_broker.store.grouping import Grouping, Pending
from foxden_broker.store.hot import Entry, Hot, Key, Memory, Missed, Row, Way

T = TypeVar("T")

Work = Callable[[Connection], T]


class Writer:
    """`submit` from an event loop, `run` from a thread; `close` finishes what was submitted."""

    def __init__(
        self, engine: Engine, translate: Callable[[BaseException], BaseException], memory: Memory
    ) -> None:
        self._engine = engine
        self._translate = translate
        self._memory = memory
        self._conn: Connection | None = None
        self._group = Grouping("foxden-db-write", self._commit, self._end)

    async def submit(self, work: Work[T], hot: Hot[T] | None = None) -> T:
        """Run the closure, `hot` first where there is one, and wait until it is durable. A caller
        who is cancelled stops waiting; what it asked for may still be committed."""
        result: T = await self._group.submit((work, hot))
        return result

    def run(self, work: Work[T]) -> T:
        result: T = self._group.run((work, None))
        return result

    def close(self) -> None:
        self._group.close()

    def _end(self) -> None:
        if self._conn is not None:
            self._conn.close()

    def _commit(self, batch: list[Pending]) -> None:
        changed: dict[Key, Entry] = {}
        try:
            if self._conn is None:
                self._conn = self._engine.connect()
            with self._conn.begin():
                raw = self._conn.connection.driver_connection
                assert isinstance(raw, sqlite3.Connection)
                for pending in batch:
                    self._one(self._conn, raw, pending, changed)
        except BaseException as error:  # noqa: BLE001  every caller is told
            self._memory.forget(changed)
            translated = self._translate(error)
            for pending in batch:
                if pending.error is None:
                    pending.error = translated
            self._recover()
        else:
            self._memory.keep(changed)

    def _one(
        self,
        conn: Connection,
        raw: sqlite3.Connection,
        pending: Pending,
        changed: dict[Key, Entry],
    ) -> None:
        work, hot = pending.work
        raw.execute("SAVEPOINT one")
        try:
            if hot is None or not self._hot(conn, hot, pending, changed):
                pending.result = work(conn)
        except BaseException as error:
            pending.error = self._translate(error)
            if not raw.in_transaction:
                # A full disk or an I/O error made SQLite roll back everything, also what the
                # closures before this one wrote: none of them may be told that it is stored.
                raise
            raw.execute("ROLLBACK TO one")
        raw.execute("RELEASE one")

    def _hot(
        self, conn: Connection, hot: Hot[Any], pending: Pending, changed: dict[Key, Entry]
    ) -> bool:
        way = AtOnce(conn, self._memory, changed)
        try:
            pending.result = hot(way)
        except Missed:
            if way.wrote:
                conn.connection.driver_connection.execute("ROLLBACK TO one")  # type: ignore[union-attr]
            return False
        changed |= way.changed
        return True

    def _recover(self) -> None:
        """After a failed commit the connection may be in any state: start with a new one."""
        conn, self._conn = self._conn, None
        if conn is not None:
            try:
                conn.close()
            except Exception:  # noqa: BLE001  it is thrown away
                conn.invalidate()


class AtOnce(Way):
    """Each write is made at once, and Missed raised at once."""

    dialect = "sqlite"

    def __init__(self, conn: Connection, memory: Memory, before: dict[Key, Entry]) -> None:
        super().__init__(memory, before)
        self._conn = conn
        self.wrote = False

    def demand(self, statement: Any, values: Row, answer: Any) -> None:
        rows = rows_of(self._conn, statement, values)
        if not rows or rows[0][0] != answer:
            raise Missed

    def write(
        self, job_id: str, statements: Sequence[Any], rows: Sequence[Row], counts: Sequence[int]
    ) -> None:
        for statement, row, count in zip(statements, rows, counts, strict=True):
            touched = write_one(self._conn, statement, row)
            self.wrote = self.wrote or touched > 0
            if touched != count:
                raise Missed
