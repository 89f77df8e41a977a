"""The engine of one card: there when it is needed, started again when it died."""

from __future__ import annotations

import asyncio
import logging
import random
import time

from foxden_agent.backoff import delays
from foxden_agent.engine_client import EngineFailed, EngineProcess
from foxden_proto.timers import Timers
from foxden_proto.v1.engine_pb2 import EngineDescription

log = logging.getLogger(__name__)

_HEALTHY_SECONDS = 60.0  # an engine that lived this long may be replaced at once


class CardEngine:
    """Holds the engine process of one device. `ready` makes one where there is none."""

    def __init__(self, device: str, timers: Timers) -> None:
        self.device = device
        self.description = EngineDescription()
        self._timers = timers
        self._process: EngineProcess | None = None
        self._started = 0.0
        self._pauses = delays(0.5, 60.0, random.Random())

    async def ready(self) -> EngineProcess:
        """A living engine that has described itself. Raises EngineFailed."""
        if self._process is not None and self._process.alive:
            return self._process
        await self.kill()
        self._started = time.monotonic()
        process = await EngineProcess.start(self.device, timers=self._timers, low_priority=True)
        self._process = process
        self.description = await process.describe()
        return process

    async def stop(self, item_id: str) -> None:
        """Stop an image at its next step. An engine that cannot be told is dead or dying."""
        if self._process is not None:
            try:
                await self._process.stop([item_id])
            except EngineFailed as error:
                log.warning("the engine could not be told to stop: %s", error)

    async def replace(self) -> None:
        """Kill a dead, silent or useless engine; wait a moment where that happens often."""
        await self.kill()
        if time.monotonic() - self._started >= _HEALTHY_SECONDS:
            self._pauses = delays(0.5, 60.0, random.Random())
        else:
            await asyncio.sleep(next(self._pauses))

    async def kill(self) -> None:
        """Give the card's memory back at once."""
        if self._process is not None:
            process, self._process = self._process, None
            await process.kill()
