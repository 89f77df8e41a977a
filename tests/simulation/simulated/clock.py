"""Simulated time and seeded chance: an event loop that never waits, and what replaces the clocks.

The loop jumps to its next timer when nothing is ready, so that an hour of a pool takes about a
second; nothing in it sleeps, starts a thread or opens a socket. One seed decides everything: the
clocks, `random`, `secrets` and `uuid` of the program draw from it while the simulation runs.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from typing import Any
from unittest import mock

from foxden_agent import clock

EPOCH = 1_800_000_000.0  # the wall clock at the start, Unix seconds
_MOST_WITHOUT_TIME = 200_000  # rounds of the loop at one moment: something spins


class Stuck(Exception):
    """Nothing can ever happen again, or something spins without time passing."""


class Process:
    """Tasks that live and die together, as those of a program do.

    One that was killed is cut off from the world first (`alive` is False: what it still says or
    writes while its tasks unwind goes nowhere), so that unwinding does nothing kill -9 would not.
    """

    def __init__(self, name: str, machine: Any = None) -> None:
        self.name = name
        self.machine = machine  # what the replaced parts of its program reach through CURRENT
        self.alive = True
        self.tasks: dict[asyncio.Task[Any], None] = {}

    def start(self, coro: Any, name: str) -> asyncio.Task[Any]:
        context = copy_context()
        context.run(CURRENT.set, self)
        return asyncio.get_running_loop().create_task(coro, name=name, context=context)

    async def kill(self) -> None:
        self.alive = False
        await self.end()

    async def end(self) -> None:
        """Cancel every task, and wait until all have ended."""
        for _ in range(1000):
            if not self.tasks:
                return
            for task in list(self.tasks):
                task.cancel()
            await asyncio.sleep(0.01)
        raise Stuck(f"{self.name} cannot be ended: {list(self.tasks)}")


CURRENT: ContextVar[Process | None] = ContextVar("process", default=None)


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop whose time is a number."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 1000.0
        self._clock_resolution = 1e-9
        self._selector = self  # asked by the base class once per round
        self._rounds = 0
        self.set_task_factory(self._make_task)

    def time(self) -> float:
        return self._now

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise Stuck("nothing is ready and nothing is timed")
        if timeout > 0:
            self._now += timeout
            self._rounds = 0
        self._rounds += 1
        if self._rounds > 1000:  # programs take time: what is due in a nanosecond comes due
            self._now += 1e-6
        if self._rounds > _MOST_WITHOUT_TIME:
            raise Stuck(f"something spins at {self._now:.3f} s")
        return []

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        """At once, in this thread."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def _process_events(self, event_list: list[Any]) -> None: ...
    def _write_to_self(self) -> None: ...

    @staticmethod
    def _make_task(loop: Any, coro: Any, **named: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, **named)
        context = named.get("context")
        process = CURRENT.get() if context is None else context.get(CURRENT)
        if process is not None:
            process.tasks[task] = None
            task.add_done_callback(lambda done: process.tasks.pop(done, None))
        return task


class Wall:
    """The wall clock of all machines, which somebody sets."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self.ahead = 0.0  # seconds

    def time(self) -> float:
        return EPOCH + self._loop.time() + self.ahead


@contextmanager
def seeded(seed: int, loop: VirtualLoop, wall: Wall) -> Iterator[None]:
    """Clocks and chance of everything that runs come from the simulation."""
    source = random.Random(f"chance {seed}")

    class Seeded(random.Random):
        def __init__(self, x: Any = None) -> None:
            super().__init__(source.getrandbits(64) if x is None else x)

    before = random.getstate()
    random.seed(f"module {seed}")
    with (
        mock.patch.object(time, "monotonic", loop.time),
        mock.patch.object(clock, "now", loop.time),
        mock.patch.object(time, "time", wall.time),
        mock.patch.object(random, "Random", Seeded),
        mock.patch.object(random, "_urandom", source.randbytes),
        mock.patch.object(os, "urandom", source.randbytes),
    ):
        yield
    random.setstate(before)
