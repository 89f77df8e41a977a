"""The loop: who answers, who is slow, who hangs, who fails."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foxden_agent.readings import CardReadings, MachineReadings, Readings
from foxden_agent.watching.watcher import Watcher, WatchSettings, next_due

QUICK = WatchSettings(interval=0.01, patience=0.05, stall=0.3)
NEVER = 60.0


class Cards:
    """A driver that can be held up, or told to fail."""

    def __init__(self, *devices: str) -> None:
        self.devices = devices
        self.flows = threading.Event()
        self.flows.set()
        self.permits: threading.Semaphore | None = None  # one for each answer
        self.error: Exception | None = None
        self.reads = 0
        self.thread = ""

    def read(self, at: float) -> Sequence[CardReadings]:
        self.reads += 1
        self.thread = threading.current_thread().name
        self.flows.wait(NEVER)
        if self.permits is not None:
            self.permits.acquire(timeout=NEVER)
        if self.error is not None:
            raise self.error
        return [CardReadings(device, at, temperature=50) for device in self.devices]


class AMachine:
    def __init__(self) -> None:
        self.flows = threading.Event()
        self.flows.set()

    def read(self, at: float, wall: float) -> MachineReadings:
        self.flows.wait(NEVER)
        return MachineReadings(at, wall, full_screen="doom")


class Heard:
    """What a watcher delivers, for a test to wait for."""

    def __init__(self) -> None:
        self.all: list[Readings] = []
        self._more = asyncio.Condition()
        self._wakes: set[asyncio.Task[None]] = set()

    def __call__(self, readings: Readings) -> None:
        self.all.append(readings)
        task = asyncio.ensure_future(self._wake())
        self._wakes.add(task)
        task.add_done_callback(self._wakes.discard)

    async def _wake(self) -> None:
        async with self._more:
            self._more.notify_all()

    async def until(self, fits: Callable[[Readings], bool]) -> Readings:
        """The next delivery that fits."""
        seen = len(self.all)
        async with asyncio.timeout(20):
            while True:
                for readings in self.all[seen:]:
                    seen += 1
                    if fits(readings):
                        return readings
                async with self._more:
                    if seen == len(self.all):
                        await self._more.wait()


@asynccontextmanager
async def watching(watcher: Watcher) -> AsyncIterator[None]:
    task = asyncio.create_task(watcher.run())
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_cards_and_machine_are_delivered_in_the_order_asked_for() -> None:
    heard = Heard()
    nvidia, cpu = Cards("cuda:0", "cuda:1"), Cards("cpu")
    order = ["cuda:0", "cpu", "cuda:1"]
    watcher = Watcher([nvidia, cpu], AMachine(), heard, QUICK, order=order)
    async with watching(watcher):
        read = await heard.until(lambda readings: len(heard.all) >= 3)
    assert [card.device for card in read.cards] == order
    assert all(card.present and card.temperature == 50 for card in read.cards)
    assert read.machine.full_screen == "doom"
    assert {card.at for card in read.cards} == {read.machine.at}
    assert watcher.latest is heard.all[-1]
    ats = [readings.machine.at for readings in heard.all]
    assert ats == sorted(set(ats))
    assert nvidia.thread == "readings of cuda:0, cuda:1"


async def test_driver_hangs_others_go_on_and_it_comes_back_by_itself(caplog) -> None:
    heard = Heard()
    nvidia, cpu = Cards("cuda:0"), Cards("cpu")
    async with watching(Watcher([nvidia, cpu], AMachine(), heard, QUICK)):
        await heard.until(lambda readings: readings.card("cuda:0").present)
        nvidia.flows.clear()
        gone = await heard.until(lambda readings: not readings.card("cuda:0").present)
        assert "cuda:0 have not come" in gone.card("cuda:0").problem
        assert gone.card("cuda:0").temperature is None
        assert gone.card("cpu").present
        reads, cpu_reads = nvidia.reads, cpu.reads
        await heard.until(lambda readings: cpu.reads >= cpu_reads + 3)
        assert nvidia.reads == reads  # one question at a time
        nvidia.flows.set()
        back = await heard.until(lambda readings: readings.card("cuda:0").present)
    assert back.card("cuda:0").at == back.machine.at  # not the answer that came too late
    assert [r.levelno for r in caplog.records].count(logging.WARNING) == 1


async def test_driver_is_slower_than_patience_its_last_answer_is_delivered_again() -> None:
    heard = Heard()
    slow, cpu = Cards("cuda:0"), Cards("cpu")
    settings = WatchSettings(interval=0.01, patience=0.02, stall=NEVER)
    async with watching(Watcher([slow, cpu], AMachine(), heard, settings)):
        first = await heard.until(lambda readings: True)
        slow.flows.clear()
        kept = first.card("cuda:0").at
        # One more answer may have been under way.
        older = await heard.until(lambda readings: readings.machine.at > readings.cards[0].at)
        assert older.card("cuda:0").at >= kept
        assert older.card("cuda:0").present
        slow.flows.set()


async def test_driver_never_answered_nothing_is_delivered_before_it_is_given_up() -> None:
    heard = Heard()
    nvidia = Cards("cuda:0")
    nvidia.flows.clear()
    async with watching(Watcher([nvidia], AMachine(), heard, QUICK)):
        first = await heard.until(lambda readings: True)
        assert not first.card("cuda:0").present
        nvidia.flows.set()


async def test_answer_that_came_too_late_is_no_sign_of_life() -> None:
    heard = Heard()
    nvidia = Cards("cuda:0")
    nvidia.permits = threading.Semaphore(0)
    async with watching(Watcher([nvidia], AMachine(), heard, QUICK)):
        await heard.until(lambda readings: not readings.card("cuda:0").present)
        nvidia.permits.release()  # and the next one waits again
        await heard.until(lambda readings: nvidia.reads == 2)
        seen = len(heard.all)
        await heard.until(lambda readings: len(heard.all) >= seen + 3)
        nvidia.permits.release(100_000)
    assert not any(readings.card("cuda:0").present for readings in heard.all[: seen + 3])


async def test_reading_raises_the_card_is_away_with_the_reason_until_it_works(caplog) -> None:
    heard = Heard()
    nvidia = Cards("cuda:0")
    nvidia.error = OSError("the bus is on fire")
    async with watching(Watcher([nvidia], AMachine(), heard, QUICK)):
        gone = await heard.until(lambda readings: nvidia.reads >= 3)
        assert not gone.card("cuda:0").present
        assert "the bus is on fire" in gone.card("cuda:0").problem
        nvidia.error = None
        await heard.until(lambda readings: readings.card("cuda:0").present)
    assert [r.levelno for r in caplog.records].count(logging.WARNING) == 1


async def test_machine_hangs_its_readings_are_none_and_the_cards_go_on() -> None:
    heard = Heard()
    machine = AMachine()
    async with watching(Watcher([Cards("cpu")], machine, heard, QUICK)):
        await heard.until(lambda readings: readings.machine.full_screen == "doom")
        machine.flows.clear()
        gone = await heard.until(lambda readings: readings.machine.full_screen is None)
        assert gone.card("cpu").present
        assert gone.machine.at == gone.card("cpu").at
        machine.flows.set()
        await heard.until(lambda readings: readings.machine.full_screen == "doom")


async def test_delivery_raises_the_loop_ends_with_it() -> None:
    def broken(readings: Readings) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(Watcher([Cards("cpu")], AMachine(), broken, QUICK).run(), 20)


def test_card_that_was_not_asked_for_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        Readings(MachineReadings(0, 0), ()).card("cuda:7")


@given(st.floats(0, 1e6), st.floats(0, 1e5), st.floats(0.01, 100), st.integers(0, 3))
def test_next_reading_is_due_on_the_grid_and_never_twice(
    due: float, late: float, interval: float, more: int
) -> None:
    following = next_due(due, due + late, interval)
    assert following >= due + late - 1e-6
    assert following >= due + interval * 0.999
    assert following <= due + late + interval * 1.001
    steps = (following - due) / interval
    assert abs(steps - round(steps)) < 1e-3
