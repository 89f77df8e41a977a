"""The whole of it on this machine, and a recording in its place."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import psutil

from foxden_agent.readings import Readings
from foxden_agent.watching.choose import watching
from foxden_agent.watching.devices import CudaDevice
from foxden_agent.watching.recorder import Recorder
from foxden_agent.watching.recording import Recording
from foxden_agent.watching.watcher import WatchSettings

DEVICES = [CudaDevice("cpu"), CudaDevice("mps")]


async def first(path: Path | None = None, replay: Recording | None = None) -> Readings:
    """The first readings; those of the machine are recorded at the path."""
    heard: asyncio.Future[Readings] = asyncio.get_running_loop().create_future()
    record = Recorder(path) if path else None

    def deliver(readings: Readings) -> None:
        if record:
            record(readings)
        if not heard.done():
            heard.set_result(readings)

    settings = WatchSettings(interval=0.05, stall=20)
    task = asyncio.create_task(watching(DEVICES, deliver, settings=settings, replay=replay).run())
    try:
        return await asyncio.wait_for(heard, 30)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_this_machine_is_read_recorded_and_replayed(tmp_path: Path) -> None:
    read = await first(tmp_path / "r")
    assert [card.device for card in read.cards] == ["cpu", "mps"]
    assert read.card("cpu").memory_total == psutil.virtual_memory().total
    assert read.card("mps").memory_total is None
    again = await first(replay=Recording(tmp_path / "r"))
    assert again.card("cpu").memory_used == read.card("cpu").memory_used
    assert again.machine.memory_free == read.machine.memory_free
    assert abs(again.machine.wall - read.machine.wall) < 0.01
