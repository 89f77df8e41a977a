"""Group commit: one thread, one connection, one fsync for all that waits.

A commit with `synchronous=FULL` costs an fsync whatever it holds, so the thread takes every
closure that waits, runs each inside a savepoint, commits once, and only then tells the callers.
Nobody hears of success before it is on the disk.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine

from foxden_broker.store.base import StoreError

T = TypeVar("T")

MOST_PER_COMMIT = 256


@dataclass
class _Pending:
    work: Callable[[Connection], Any]
    loop: asyncio.AbstractEventLoop | None
    tell: Callable[[_Pending], None]  # on that loop; without one on the writer's thread
    result: Any = None
    error: BaseException | None = None


class Writer:
    """`submit` from an event loop, `run` from a thread; `close` finishes what was submitted."""

    def __init__(self, engine: Engine, translate: Callable[[BaseException], BaseException]) -> None:
        self._engine = engine
        self._translate = translate
        self._queue: queue.SimpleQueue[_Pending | None] = queue.SimpleQueue()
        self._gate = threading.Lock()  # nothing may be queued behind the None that ends the thread
        self._closed = False
        self._conn: Connection | None = None
        self._thread = threading.Thread(target=self._loop, name="foxden-db-write", daemon=True)
        self._thread.start()

    async def submit(self, work: Callable[[Connection], T]) -> T:
        """Run the closure and wait until it is durable. A caller who is cancelled stops waiting;
        what it asked for may still be committed."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def resolve(done: _Pending) -> None:
            if future.done():
                return
            if done.error is not None:
                future.set_exception(done.error)
            else:
                future.set_result(done.result)

        self._put(_Pending(work, loop, resolve))
        return await future

    def run(self, work: Callable[[Connection], T]) -> T:
        future: Future[T] = Future()

        def tell(done: _Pending) -> None:
            if done.error is not None:
                future.set_exception(done.error)
            else:
                future.set_result(done.result)

        self._put(_Pending(work, None, tell))
        return future.result()

    def close(self) -> None:
        with self._gate:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()

    def _put(self, pending: _Pending) -> None:
        with self._gate:
            if self._closed:
                raise StoreError("The broker's database is closed.")
            self._queue.put(pending)

    def _loop(self) -> None:
        ending = False
        while not ending:
            batch: list[_Pending] = []
            first = self._queue.get()
            while first is not None:
                batch.append(first)
                if len(batch) == MOST_PER_COMMIT:
                    break
                try:
                    first = self._queue.get_nowait()
                except queue.Empty:
                    break
            else:
                ending = True
            if batch:
                self._commit(batch)
        if self._conn is not None:
            self._conn.close()

    def _commit(self, batch: list[_Pending]) -> None:
        try:
            if self._conn is None:
                self._conn = self._engine.connect()
            with self._conn.begin():
                raw = self._conn.connection.driver_connection
                assert isinstance(raw, sqlite3.Connection)
                for pending in batch:
                    self._one(self._conn, raw, pending)
        except BaseException as error:  # noqa: BLE001  every caller is told
            translated = self._translate(error)
            for pending in batch:
                if pending.error is None:
                    pending.error = translated
            self._recover()
        _tell(batch)

    def _one(self, conn: Connection, raw: sqlite3.Connection, pending: _Pending) -> None:
        raw.execute("SAVEPOINT one")
        try:
            pending.result = pending.work(conn)
        except BaseException as error:
            pending.error = self._translate(error)
            if not raw.in_transaction:
                # A full disk or an I/O error made SQLite roll back everything, also what the
                # closures before this one wrote: none of them may be told that it is stored.
                raise
            raw.execute("ROLLBACK TO one")
        raw.execute("RELEASE one")

    def _recover(self) -> None:
        """After a failed commit the connection may be in any state: start with a new one."""
        conn, self._conn = self._conn, None
        if conn is not None:
            try:
                conn.close()
            except Exception:  # noqa: BLE001  it is thrown away
                conn.invalidate()


def _tell(batch: list[_Pending]) -> None:
    """Wake each event loop once, whatever number of its callers wait: waking costs a system call
    and a fight for the interpreter."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Pending]] = {}
    for pending in batch:
        if pending.loop is None:
            pending.tell(pending)
        else:
            by_loop.setdefault(pending.loop, []).append(pending)
    for loop, some in by_loop.items():
        # RuntimeError: the loop is closed, nobody is left to tell.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(_tell_all, some)


def _tell_all(some: list[_Pending]) -> None:
    for pending in some:
        pending.tell(pending)
