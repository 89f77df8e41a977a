"""A thread that takes all that waits at once, so that one commit serves many callers."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from foxden_broker.store.base import StoreError

MOST_PER_COMMIT = 256


@dataclass
class Pending:
    """What one caller asked for, and the answer that it waits for: `result`, or `error`."""

    work: Any  # what `commit` understands
    loop: asyncio.AbstractEventLoop | None
    tell: Callable[[Pending], None]  # on that loop; without one on the group's thread
    result: Any = None
    error: BaseException | None = None


class Grouping:
    """`submit` from an event loop, `run` from a thread; `close` finishes what was submitted.

    `commit` gets 1 to MOST_PER_COMMIT of them in the order they came, and gives each its result or
    its error; it must not raise. `ended` runs last, on the same thread.
    """

    def __init__(
        self, name: str, commit: Callable[[list[Pending]], None], ended: Callable[[], None]
    ) -> None:
        self._commit, self._ended = commit, ended
        self._queue: queue.SimpleQueue[Pending | None] = queue.SimpleQueue()
        self._gate = threading.Lock()  # nothing may be queued behind the None that ends the thread
        self._closed = False
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)
        self._thread.start()

    async def submit(self, work: Any) -> Any:
        """Wait until it is durable. A caller who is cancelled stops waiting; what it asked for
        may still be committed."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def resolve(done: Pending) -> None:
            if future.done():
                return
            if done.error is not None:
                future.set_exception(done.error)
            else:
                future.set_result(done.result)

        self._put(Pending(work, loop, resolve))
        return await future

    def run(self, work: Any) -> Any:
        future: Future[Any] = Future()

        def tell(done: Pending) -> None:
            if done.error is not None:
                future.set_exception(done.error)
            else:
                future.set_result(done.result)

        self._put(Pending(work, None, tell))
        return future.result()

    def close(self) -> None:
        with self._gate:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()

    def _put(self, pending: Pending) -> None:
        with self._gate:
            if self._closed:
                raise StoreError("The broker's database is closed.")
            self._queue.put(pending)

    def _loop(self) -> None:
        ending = False
        while not ending:
            batch: list[Pending] = []
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
                _tell(batch)
        self._ended()


def _tell(batch: list[Pending]) -> None:
    """Wake each event loop once, whatever number of its callers wait: waking costs a system call
    and a fight for the interpreter."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Pending]] = {}
    for pending in batch:
        if pending.loop is None:
            pending.tell(pending)
        else:
            by_loop.setdefault(pending.loop, []).append(pending)
    for loop, some in by_loop.items():
        # RuntimeError: the loop is closed, nobody is left to tell.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(_tell_all, some)


def _tell_all(some: list[Pending]) -> None:
    for pending in some:
        pending.tell(pending)
