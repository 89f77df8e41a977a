"""SDK clients in one process: many jobs in flight, each submitted, watched and fetched.

    python sim_clients.py '{"url": ..., "token": ...}'

For each line of JSON it reads (`{"in_flight": 120, "seconds": 10}`, or with `"per_second": 20`
jobs that come by themselves), it answers with one of what came of it. Ends with its input.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from foxden.client import AsyncClient


@dataclass
class Figures:
    done: int = 0
    bytes: int = 0
    failed: int = 0
    first_failure: str = ""
    seconds: list[float] = field(default_factory=list)  # submit until the bytes are here


class Clients:
    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._clients = [
            AsyncClient(settings["url"], settings["token"])
            for _ in range(settings.get("clients", 4))
        ]
        self._random = random.Random(settings.get("seed", 0))

    async def measure(self, order: dict[str, Any]) -> dict[str, Any]:
        """Jobs for so many seconds. Counted are those that end within them; what is in flight
        at the end is waited for, uncounted."""
        figures = Figures()
        end = time.monotonic() + order["seconds"]
        if "per_second" in order:
            await self._arriving(figures, order["per_second"], end)
        else:
            workers = [self._keep_asking(figures, n, end) for n in range(order["in_flight"])]
            await asyncio.gather(*workers)
        return vars(figures)

    async def _keep_asking(self, figures: Figures, number: int, end: float) -> None:
        while time.monotonic() < end:
            await self._one(figures, number, end)

    async def _arriving(self, figures: Figures, per_second: float, end: float) -> None:
        asked = []
        while (now := time.monotonic()) < end:
            asked.append(asyncio.ensure_future(self._one(figures, len(asked), float("inf"))))
            await asyncio.sleep(self._random.expovariate(per_second))
        del now
        await asyncio.gather(*asked)

    async def _one(self, figures: Figures, number: int, end: float) -> None:
        client = self._clients[number % len(self._clients)]
        begun = time.monotonic()
        try:
            job = await client.submit(f"at {begun:.6f}", priority=self._settings["priority"])
            result = await job.result()
        except Exception as error:
            figures.failed += 1
            figures.first_failure = figures.first_failure or repr(error)
            await asyncio.sleep(0.1)
            return
        now = time.monotonic()
        if now <= end:
            figures.done += 1
            figures.bytes += len(result[0].data)
            figures.seconds.append(now - begun)

    async def close(self) -> None:
        await asyncio.gather(*(client.close() for client in self._clients))


async def main(settings: dict[str, Any]) -> None:
    clients = Clients(settings)
    print(json.dumps({"pid": os.getpid()}), flush=True)
    loop = asyncio.get_running_loop()
    while line := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
        print(json.dumps(await clients.measure(json.loads(line))), flush=True)
    await clients.close()


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
