"""Run with the stand-in NVML: reads cards when told to, or watches them by itself.

nvml_reading.py read cuda:0 cuda:1 < {"at": 0, "own": [111]} per line
nvml_reading.py watch cuda:0       one line per reading; one of stdin ends it
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from dataclasses import asdict
from itertools import pairwise

from foxden_agent.readings import CardReadings, Readings
from foxden_agent.watching.choose import watching
from foxden_agent.watching.devices import CudaDevice
from foxden_agent.watching.nvml import NvmlCards
from foxden_agent.watching.watcher import WatchSettings

_WARMING = 4  # readings: new processes are looked up by name, three times each


def as_json(cards: tuple[CardReadings, ...]) -> str:
    return json.dumps([asdict(card) for card in cards], default=sorted)


def read(devices: list[CudaDevice]) -> None:
    cards = NvmlCards(devices)
    for line in sys.stdin:
        asked = json.loads(line)
        print(as_json(cards.read(asked["at"], frozenset(asked.get("own", ())))), flush=True)


async def watch(devices: list[CudaDevice]) -> None:
    def deliver(readings: Readings) -> None:
        print(as_json(readings.cards), flush=True)

    settings = WatchSettings(interval=0.05, patience=0.02, stall=0.3, driver_retry=0.1)
    await watching(devices, deliver, settings=settings).run()


async def cost(readings: int, devices: list[CudaDevice]) -> None:
    """Processor seconds of this process for so many readings, with all that is read beside."""
    enough = asyncio.Event()
    spent: list[float] = []

    def deliver(read: Readings) -> None:
        assert all(card.present for card in read.cards)
        spent.append(time.process_time())
        if len(spent) > _WARMING + readings:
            enough.set()

    listed = frozenset({"witcher3.exe", "blender", "another game"})
    running = asyncio.create_task(watching(devices, deliver, listed_programs=lambda: listed).run())
    await enough.wait()
    running.cancel()
    counted = spent[_WARMING:]
    print(json.dumps([after - before for before, after in pairwise(counted)]), flush=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    match sys.argv[1:]:
        case ["read", *names]:
            read([CudaDevice(name) for name in names])
        case ["watch", *names]:
            asyncio.run(watch([CudaDevice(name) for name in names]))
        case ["cost", number, *names]:
            asyncio.run(cost(int(number), [CudaDevice(name) for name in names]))
