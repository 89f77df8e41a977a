"""The engine of one card: there when it is needed, replaced when it died or is of no use."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from foxden_agent.backoff import delays
from foxden_agent.engine_client import EngineProcess
from foxden_agent.engine_errors import EngineDied, EngineFailed, EngineRefused
from foxden_agent.engine_health import EngineHealth
from foxden_agent.model_loader import ModelLoader
from foxden_agent.models import DEMO_MODEL, LocalModel
from foxden_proto.timers import Timers
from foxden_proto.v1.engine_pb2 import Batch, BatchItem, EngineDescription, ModelSource
from foxden_proto.v1.generation_pb2 import ImageRequest

log = logging.getLogger(__name__)

_LONGEST_PAUSE = 5.0  # before a new engine; starting one takes about as long


class CardEngine:
    """Holds the engine process of one device. `ready` makes one where there is none."""

    def __init__(self, device: str, timers: Timers, python: Path | None = None) -> None:
        self.device = device
        self._python = python  # the engine's; None: this one
        self.description = EngineDescription()
        self.broken = ""  # why nothing can be drawn here now; empty while something can
        self.on_change: Callable[[], None] = lambda: None  # called when `broken` changes
        self.models = ModelLoader(device, timers)
        self.used_at = time.monotonic()  # when work came or ended last
        self._timers = timers
        self._share = 1.0
        self._process: EngineProcess | None = None
        self._ending: EngineProcess | None = None  # nobody's any more, but perhaps still there
        self._forget()

    async def ready(self) -> EngineProcess:
        """A living engine that has described itself. Raises EngineFailed."""
        self.used_at = time.monotonic()
        if self._process is not None and self._process.alive:
            return self._process
        await self.kill()
        process = await EngineProcess.start(
            self.device, timers=self._timers, low_priority=True, python=self._python
        )
        self._process = process
        try:
            self.description = await process.describe()
        except EngineFailed:
            await self.kill()  # alive or not: one that cannot say what it is draws nothing
            raise
        if self._share < 1.0:
            await self._tell_share()
        return process

    @property
    def running(self) -> bool:
        """Whether there is a process, and memory that it holds."""
        return self._process is not None and self._process.alive

    @property
    def pid(self) -> int | None:
        """Of the process that is there, or is just starting."""
        return self._process.pid if self._process is not None else None

    async def set_share(self, share: float) -> None:
        """Work so much of the time, 0 < share <= 1, now and in every engine to come."""
        if share == self._share:
            return
        self._share = share
        await self._tell_share()

    async def _tell_share(self) -> None:
        if self._process is not None and self._process.alive:
            try:
                await self._process.set_share(self._share)
            except EngineFailed as error:  # dead or dying: the next one is told at its start
                log.warning("the engine could not be told to rest: %s", error)

    async def stop(self, item_ids: Iterable[str]) -> None:
        """Stop images at their next step. An engine that cannot be told is dead or dying."""
        if self._process is not None:
            try:
                await self._process.stop(item_ids)
            except EngineFailed as error:
                log.warning("the engine could not be told to stop: %s", error)

    def drew(self) -> None:
        """A batch ended as it should."""
        self.used_at = time.monotonic()
        self._health.drew()

    def prefetch(self, local: LocalModel) -> None:
        """This model comes next: bring it into RAM beside what is drawn, if that does no harm."""
        if self._process is not None and self._process.alive:
            self.models.prefetch(self._process, local)

    async def mend(self, error: EngineFailed) -> bool:
        """Do what a failed call asks for: nothing, or another engine, after a pause.

        Where several were lost in a short time, a test picture shows whether the card is broken;
        then this says so in `broken` and lasts until one succeeds. True: the engine was replaced.
        """
        refused = error if isinstance(error, EngineRefused) else None
        if refused is not None and self._process is not None:  # it lives, and has said so
            if not (refused.unforeseen or refused.out_of_memory):
                return False
            if not self._health.answered_badly():
                return False
        log.error("the engine of %s is replaced: %s", self.device, error)
        await self.kill()
        if self._health.replaced(time.monotonic(), counts=_may_be_the_card(error)):
            await self._until_it_works()
        else:
            await asyncio.sleep(next(self._pauses))
        return True

    async def recover(self) -> None:
        """Go on with finding out whether a broken card works again, after a break."""
        await self._until_it_works()

    async def _until_it_works(self) -> None:
        """Draw a test picture; where it fails say so, and try again with growing pauses."""
        first, most = self._timers.engine_retry_first, self._timers.engine_retry_most
        for pause in delays(first, most, random.Random()):
            try:
                await self._draw_test_picture()
                break
            except EngineFailed as error:
                await self.kill()
                why = _needs_attention(error)
                log.error("%s is broken, next try in %.1f s: %s", self.device, pause, why)
                self._set_broken(why)
                await asyncio.sleep(pause)
        log.info("the engine of %s draws a test picture", self.device)
        self._forget()
        self._set_broken("")

    async def _draw_test_picture(self) -> None:
        """Raises EngineFailed where not even the demo model can be drawn with."""
        engine = await self.ready()
        smallest = demo_batch("a red cube", steps=1, guidance_scale=1.0, seed=0)
        try:
            async for _ in engine.generate(smallest):
                pass
        except EngineRefused as error:
            if error.unforeseen or error.out_of_memory:
                raise
            log.warning("the test picture went another way: %s", error)

    def _set_broken(self, why: str) -> None:
        if why != self.broken:
            self.broken = why
            self.on_change()

    def _forget(self) -> None:
        """Start counting afresh."""
        self._health = EngineHealth(self._timers.engine_retry_most)
        self._pauses = delays(0.5, _LONGEST_PAUSE, random.Random())

    async def end(self) -> None:
        """Give the memory back because nobody uses it; `ready` starts another process.

        What is not there any more is not handed out while it dies: work may come this moment.
        """
        self._ending, self._process = self._process, None
        self.models.engine_gone()
        if self._ending is not None:
            await self._ending.kill()
            self._ending = None

    async def kill(self) -> None:
        """Give the card's memory back at once."""
        self.models.engine_gone()
        if (ending := self._ending) is not None:
            await ending.kill()
        if (process := self._process) is not None:
            await process.kill()
            if self._process is process:  # kept until then: cancelled meanwhile, one kills again
                self._process = None


def _needs_attention(error: EngineFailed) -> str:
    # What is to be done comes first: what the engine said may be long, and is cut then.
    return (
        "needs attention: its engine fails again and again, also at a test picture; "
        f"run `foxden doctor`. Foxden tries again by itself. The engine's last word: {error}"
    )


def _may_be_the_card(error: EngineFailed) -> bool:
    """Whether a lost engine speaks against its card: the request or a file may explain it."""
    if isinstance(error, EngineRefused):
        return not error.out_of_memory
    return not (isinstance(error, EngineDied) and error.file_changed)


def demo_batch(prompt: str, *, steps: int, guidance_scale: float, seed: int) -> Batch:
    """One picture of 64 pixels with the demo model, which every installation has."""
    request = ImageRequest(
        model=DEMO_MODEL.name,
        prompt=prompt,
        steps=steps,
        sampler="Euler",
        schedule="automatic",
        guidance_scale=guidance_scale,
        width=64,
        height=64,
        seed=seed,
    )
    source = ModelSource(name=DEMO_MODEL.name, path=str(DEMO_MODEL), family="sd1")
    return Batch(model=source, items=[BatchItem(item_id="test picture", request=request)])
