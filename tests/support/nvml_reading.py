"""Run with the stand-in NVML: reads cards when told to, or watches them by itself.

nvml_reading.py read cuda:0 cuda:1 < {"at": 0, "own": [111]} per line
nvml_reading.py watch cuda:0       one line per reading; one of stdin ends it
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from dataclasses import asdict

from foxden_agent.readings import CardReadings, Readings
from foxden_agent.watching.choose import watcher
from foxden_agent.watching.devices import CudaDevice
from foxden_agent.watching.nvml import NvmlCards
from foxden_agent.watching.watcher import WatchSettings


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
    await watcher(devices, deliver, settings=settings).run()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    chosen = [CudaDevice(device) for device in sys.argv[2:]]
    if sys.argv[1] == "read":
        read(chosen)
    else:
        asyncio.run(watch(chosen))
