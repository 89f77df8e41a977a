"""One reading a second of every card and of the machine, delivered to a callback."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from foxden_agent import clock
from foxden_agent.readings import CardReadings, MachineReadings, Readings
from foxden_agent.watching.reader import Reader

log = logging.getLogger(__name__)

T = TypeVar("T")
Deliver = Callable[[Readings], None]
_AGAIN = "Foxden asks again by itself; restart the PC if it stays."


class Watching(Protocol):
    """What the rest of the agent knows of a watcher, or of a player in its place."""

    latest: Readings | None  # what was delivered last

    async def run(self) -> None:
        """Deliver readings until it is cancelled. Never returns by itself."""
        ...


@dataclass(frozen=True)
class WatchSettings:
    """How often is read. Durations in seconds; they are no protocol timers and never scaled."""

    interval: float = 1.0  # between readings
    patience: float = 0.5  # for an answer, before what was last read is delivered once more
    stall: float = 3.0  # without an answer: the card is said not to be present
    driver_retry: float = 5.0  # between starts of a driver that fails; grows to a minute


class CardSource(Protocol):
    """Cards that one driver answers for. `read` may block and runs on a thread."""

    @property
    def devices(self) -> Sequence[str]: ...

    def read(self, at: float) -> Sequence[CardReadings]:
        """One reading per device, in that order."""
        ...


class MachineSource(Protocol):
    """The machine and its user. `read` may block and runs on a thread."""

    def read(self, at: float, wall: float) -> MachineReadings: ...


class Watcher:
    """Reads its sources side by side, each on its own thread."""

    def __init__(
        self,
        cards: Sequence[CardSource],
        machine: MachineSource,
        deliver: Deliver,
        settings: WatchSettings | None = None,
        *,
        order: Sequence[str] = (),
        clock: Callable[[], float] = clock.now,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`order`: of the devices in what is delivered; empty: as the sources have them."""
        self.latest: Readings | None = None
        self._settings = settings or WatchSettings()
        self._cards = [
            _Asked[Sequence[CardReadings]](f"readings of {', '.join(source.devices)}")
            for source in cards
        ]
        self._sources = list(cards)
        self._machine = _Asked[MachineReadings]("readings of the machine")
        self._machine_source = machine
        self._everybody: list[_Asked[Any]] = [*self._cards, self._machine]
        self._deliver = deliver
        self._order = list(order) or [device for source in cards for device in source.devices]
        self._clock = clock
        self._wall = wall

    async def run(self) -> None:
        """Read and deliver until cancelled. A delivery that raises ends it."""
        due = self._clock()
        try:
            while True:
                readings = await self._read()
                if readings is not None:
                    self.latest = readings
                    self._deliver(readings)
                due = next_due(due, self._clock(), self._settings.interval)
                await asyncio.sleep(max(0.0, due - self._clock()))
        finally:
            for asked in self._everybody:
                asked.reader.close()

    async def _read(self) -> Readings | None:
        """None: somebody has not answered at all yet, but may still."""
        at, wall, stall = self._clock(), self._wall(), self._settings.stall
        waiting: list[asyncio.Future[Any]] = [
            asked.ask(partial(source.read, at), at, stall)
            for asked, source in zip(self._cards, self._sources, strict=True)
        ]
        waiting.append(self._machine.ask(partial(self._machine_source.read, at, wall), at, stall))
        await asyncio.wait(waiting, timeout=self._settings.patience)
        now = self._clock()
        for asked in self._everybody:
            asked.settle(now, stall)
            if asked.last is None and not asked.problem:
                return None
        told: dict[str, CardReadings] = {}
        for asked, source in zip(self._cards, self._sources, strict=True):
            told.update((reading.device, reading) for reading in asked.last or ())
            for device in source.devices:
                if device not in told:
                    told[device] = CardReadings(device, at, present=False, problem=asked.problem)
        machine = self._machine.last or MachineReadings(at, wall)
        if machine.at != at:  # an older answer: the moment, at least, is known
            machine = replace(machine, at=at, wall=wall)
        return Readings(machine, tuple(told[device] for device in self._order))


class _Asked(Generic[T]):
    """A source's reader, what it last told, and why it tells nothing now."""

    def __init__(self, name: str) -> None:
        self.reader: Reader[T] = Reader(name)
        self.last: T | None = None
        self.problem = ""
        self._answer: asyncio.Future[T] | None = None
        self._asked_at = 0.0

    def ask(self, read: Callable[[], T], at: float, stall: float) -> asyncio.Future[T]:
        """Ask, unless the last question is still open."""
        self.settle(at, stall)
        if self._answer is None:
            self._answer = self.reader.ask(read)
            self._asked_at = at
        return self._answer

    def settle(self, now: float, stall: float) -> None:
        """Take in the answer, or the lack of one. An answer that came too late is no answer."""
        if self._answer is None:
            return
        late = now - self._asked_at >= stall
        if self._answer.done():
            error = self._answer.exception()
            if error is not None:
                self._fails(f"The {self.reader.name} failed ({error!r}). {_AGAIN}", error)
            elif not late:
                self.last = self._answer.result()
                if self.problem:
                    log.info("the %s are back", self.reader.name)
                self.problem = ""
            self._answer = None
        elif late:
            self._fails(f"The {self.reader.name} have not come for {stall:.0f} s. {_AGAIN}")

    def _fails(self, problem: str, error: BaseException | None = None) -> None:
        self.last = None
        if problem != self.problem:
            log.warning("%s", problem, exc_info=error)
        self.problem = problem


def next_due(due: float, now: float, interval: float) -> float:
    """When the next reading is due: on the grid, without making up for those that were missed."""
    return due + interval * max(1, math.ceil((now - due) / interval))
