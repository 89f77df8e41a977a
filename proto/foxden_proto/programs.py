"""What the long-running programs share: loops with names, and when to stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

log = logging.getLogger(__name__)

Loop = tuple[str, Coroutine[Any, Any, None]]


class Restarts:
    """When a program that died may start again: soon, then later, then not at all."""

    def __init__(self, most: int = 5, window: float = 60.0) -> None:
        self._most, self._window = most, window
        self._deaths: list[float] = []

    def delay(self, now: float) -> float | None:
        """Seconds to wait after a death at `now`; None after `most` of them in a window."""
        self._deaths = [at for at in self._deaths if now - at < self._window] + [now]
        if len(self._deaths) >= self._most:
            return None
        return 0.5 * 2.0 ** (len(self._deaths) - 1)


async def started_again(
    run: Callable[[], Awaitable[None]],
    restarts: Restarts,
    final: tuple[type[Exception], ...],
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Run it until it returns, and start it again where it dies of something unforeseen.

    Raises what no new start can mend (`final`) at once, and anything else once `restarts` says
    that it has been too often.
    """
    while True:
        try:
            return await run()
        except final:
            raise
        except Exception as error:
            pause = restarts.delay(clock())
            if pause is None:
                raise
            log.exception("died of a %s; started again in %.1f s", type(error).__name__, pause)
        await sleep(pause)


@asynccontextmanager
async def watched(loops: Sequence[Loop]) -> AsyncIterator[asyncio.Future[None]]:
    """Run the loops by name until the context ends; then cancel them and wait for their ends.

    None of them may end by itself: the future fails with the exception of the first that does.
    """
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    tasks = [asyncio.create_task(loop, name=name) for name, loop in loops]

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and not failed.done():
            failed.set_exception(task.exception() or RuntimeError(f"{task.get_name()} returned"))
            failed.exception()  # seen: the program may be stopping for another reason

    for task in tasks:
        task.add_done_callback(ended)
    try:
        yield failed
    finally:
        if not failed.done():
            failed.cancel()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until_stopped(
    failed: asyncio.Future[None], *, supervised: bool, also: asyncio.Event | None = None
) -> None:
    """Until a signal to stop, the end of a supervisor's pipe, `also`, or the death of a loop.

    Raises what the loop died of. With `supervised`, standard input is a pipe from the supervisor:
    one that is killed with -9 cannot say so, but its end of the pipe closes.
    """
    stop = also or asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError):  # Windows: Ctrl-C raises KeyboardInterrupt instead
            loop.add_signal_handler(number, stop.set)
    if supervised:
        _stop_at_end_of_input(loop, stop)
    waiter = asyncio.ensure_future(stop.wait())
    both: set[asyncio.Future[Any]] = {waiter, failed}
    await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    waiter.cancel()
    if failed.done():
        failed.result()


def _stop_at_end_of_input(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    def read() -> None:
        # Not sys.stdin: Python aborts at exit where a thread still holds its lock.
        while os.read(0, 4096):
            pass
        with suppress(RuntimeError):  # the loop is closed: it is over anyway
            loop.call_soon_threadsafe(stop.set)

    threading.Thread(target=read, name="stdin", daemon=True).start()
