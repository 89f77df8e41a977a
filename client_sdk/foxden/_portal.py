"""From blocking code into one event loop on a background thread.

All blocking clients of a process share it: grpc.aio is at its best with one loop, and a thread
per client buys nothing.

Threads do not survive a fork, and the one that polls for grpc.aio is started once per process: in
a child of a process that has used it, a call would wait for ever. Such a call is refused.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from foxden.errors import FoxdenError

T = TypeVar("T")

_UNWIND_SECONDS = 1.0
_POLL_SECONDS = 0.5  # Windows tells a waiting main thread of Ctrl-C only between two waits


class Portal:
    """A running event loop that other threads hand coroutines to."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="foxden", daemon=True)
        self._thread.start()

    def start(self, coroutine: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise RuntimeError(
                "a blocking Foxden call was made from Foxden's own event loop: use AsyncClient"
            )
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine and wait for it; it is cancelled where the waiting is interrupted."""
        ended = threading.Event()

        async def run() -> T:
            try:
                return await coroutine
            finally:
                ended.set()

        future = self.start(run())
        try:
            return wait(future)
        except BaseException:
            # Whoever interrupted goes on to close what the coroutine uses (an async generator
            # that still runs cannot be closed), so it must be at its end by then.
            if future.cancel():
                ended.wait(_UNWIND_SECONDS)
            raise


def wait(future: concurrent.futures.Future[T], seconds: float | None = None) -> T:
    """The future's result, open to Ctrl-C while it waits. Raises TimeoutError after `seconds`."""
    if seconds is not None:
        return future.result(seconds)
    while not concurrent.futures.wait([future], timeout=_POLL_SECONDS).done:
        pass
    return future.result()


_lock = threading.Lock()
_portal: Portal | None = None


def portal() -> Portal:
    """This process's portal. Raises FoxdenError in a fork of a process that had one."""
    global _portal
    with _lock:
        if _portal is None:
            _portal = Portal()
    if _portal.pid != os.getpid():
        raise FoxdenError(
            "this process was forked from one that had already called Foxden, and its connection "
            "does not survive that: make the first call after the fork, or start processes with "
            'multiprocessing.get_context("spawn")'
        )
    return _portal


def usable() -> bool:
    """Whether this process has a portal; a fork only has the memory of one."""
    return _portal is not None and _portal.pid == os.getpid()


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()  # the parent's may have been held by a thread that is not here


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
