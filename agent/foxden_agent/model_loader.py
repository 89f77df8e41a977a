"""Brings models into a card's engine and puts others out: carries out what model_cache decides."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

import psutil

from foxden_agent import model_cache
from foxden_agent.engine_client import EngineProcess
from foxden_agent.engine_errors import EngineDied, EngineFailed, EngineRefused
from foxden_agent.model_cache import ModelCache
from foxden_agent.model_files import ModelFilesChanged, what_changed
from foxden_agent.models import LocalModel
from foxden_agent.placement import Placement
from foxden_proto.timers import Timers
from foxden_proto.v1.engine_pb2 import EngineMeasured, LoadResponse, ModelSource
from foxden_proto.v1.pool_pb2 import TIER_DISK, TIER_RAM, TIER_VRAM, Tier

log = logging.getLogger(__name__)

_LOOKS = 20  # at the free memory, in timers.memory_back seconds


def source(local: LocalModel) -> ModelSource:
    """A model as the engine is told of it."""
    model = local.model
    return ModelSource(
        name=model.name, sha256=model.sha256, path=str(local.path), family=model.family
    )


class ModelLoader:
    """Of one card. `free_memory` tells bytes of the device that nobody uses, None where that is not
    known; `owner_present` whether the owner uses the machine now, so that nothing is prefetched."""

    def __init__(
        self,
        device: str,
        timers: Timers,
        *,
        free_memory: Callable[[], int | None] | None = None,
        owner_present: Callable[[], bool] = lambda: False,
        ram_share: float = model_cache.RAM_SHARE,
    ) -> None:
        self.cache = ModelCache()
        # Told of each model that was brought to the card: sha256, seconds, and from where.
        self.on_loaded: Callable[[str, float, Tier.ValueType], None] = lambda *_: None
        self.free_memory = free_memory or (_free_ram if device == "cpu" else lambda: None)
        self.owner_present = owner_present
        self._cpu = device == "cpu"
        self._timers = timers
        self._ram_share = ram_share
        self._bytes: dict[str, int] = {}  # that models really took
        self._prefetching: asyncio.Task[None] | None = None

    async def ready(
        self, engine: EngineProcess, local: LocalModel, placement: Placement | None = None
    ) -> None:
        """The model lies on the card as `placement` says when this returns, and there is the room
        that drawing takes. None leaves it to the engine. Raises EngineFailed."""
        sha256, now = local.model.sha256, time.monotonic()
        _require_unchanged(local)
        self.cache.history.used(sha256, now)
        await self._make_room(engine, local, placement, now)
        if self.cache.lies_as(sha256, placement):
            return
        # Its bytes count for nothing from here on: the engine lays it out anew.
        self.cache.gone((sha256,), self.cache.tier(sha256))
        message = placement.message() if placement is not None else None
        try:
            answer = await engine.load(source(local), message, size=local.model.size)
        except EngineRefused as error:
            # Out of memory it has put out everything; of a broken model it has kept nothing.
            if error.out_of_memory:
                self.cache.engine_gone()
            else:
                self.cache.gone((sha256,))
            raise
        self._arrived(sha256, answer, TIER_VRAM, placement)
        if answer.seconds > 0:
            self.on_loaded(sha256, answer.seconds, answer.came_from)

    async def put_out_others(self, engine: EngineProcess, local: LocalModel) -> bool:
        """Leave the card to this model alone. False: it was alone already. Raises EngineFailed."""
        others = [one for one in self.cache.in_vram if one != local.model.sha256]
        if not self.beside(local):
            return False
        log.info("all other models leave the card for %s", local.model.name)
        await self._put_out(engine, others)
        return True

    def beside(self, local: LocalModel) -> int:
        """Bytes of other models that lie on the card."""
        return sum(
            size for sha256, size in self.cache.in_vram.items() if sha256 != local.model.sha256
        )

    def prefetch(self, engine: EngineProcess, local: LocalModel) -> None:
        """Bring the model into RAM while the card draws, one at a time, if there is room for it.

        Returns at once. What goes wrong here is said again when the model is needed.
        """
        sha256 = local.model.sha256
        if self.cache.tier(sha256) != TIER_DISK or self.owner_present():
            return
        if self._prefetching is not None and not self._prefetching.done():
            return
        if not self._fits_ram(local.model.size):
            log.info("model %s is not fetched ahead: RAM is short", local.model.name)
            return
        self._prefetching = asyncio.create_task(
            self._prefetch(engine, local), name=f"prefetch {local.model.name}"
        )

    def loaded_by_itself(
        self, local: LocalModel, measured: EngineMeasured, placement: Placement | None = None
    ) -> None:
        """The engine had to load it for a batch after all: it had put it out for want of room."""
        sha256, seconds = local.model.sha256, measured.load_seconds
        self.cache.brought(sha256, self._expected_bytes(local), TIER_VRAM, placement)
        self.cache.history.loaded(sha256, seconds, measured.came_from)
        self.on_loaded(sha256, seconds, measured.came_from)

    def explained(self, error: EngineFailed, local: LocalModel) -> EngineFailed:
        """The failure itself, or that the model's files changed, where that is behind it."""
        about = isinstance(error, EngineRefused) and error.about_the_model
        if about or (isinstance(error, EngineDied) and error.file_changed):
            changed = what_changed(local)
            if changed is not None:
                return ModelFilesChanged(local.model.name, changed)
        return error

    def engine_gone(self) -> None:
        """The engine ended, and all that was in its memory with it."""
        self.cache.engine_gone()
        if self._prefetching is not None:
            self._prefetching.cancel()
            self._prefetching = None

    async def _make_room(
        self, engine: EngineProcess, local: LocalModel, placement: Placement | None, now: float
    ) -> None:
        sha256 = local.model.sha256
        if (placement is not None and placement.offload) or self.cache.offloaded:
            # It lies on its card alone, and the engine puts out the others, or it, by itself.
            others = [one for one in self.cache.in_vram if one != sha256]
            if others:
                await self._put_out(engine, others)
            return
        free = self.free_memory()
        if free is None:
            return  # the engine sees for itself, and puts out what was used longest ago
        wanted = int(model_cache.NEEDS * self._expected_bytes(local))
        if placement is not None and not placement.cpu:
            wanted = max(wanted, placement.need)
        out = model_cache.make_room(
            wanted - self.cache.in_vram.get(sha256, 0),
            self.cache.in_vram,
            free,
            now,
            self.cache.history,
            keep=(sha256,),
        )
        if out:
            freed = sum(self.cache.in_vram[model] for model in out)
            await self._put_out(engine, out)
            await self._memory_back(free, freed)

    async def _put_out(self, engine: EngineProcess, models: Sequence[str]) -> None:
        """Off the card, what is missed least first; the others wait in RAM, as far as there is
        room."""
        for model in reversed(models):
            size = self.cache.in_vram[model]
            to = TIER_RAM if size and self._fits_ram(size) else TIER_DISK
            await engine.unload([model], to)
            self.cache.gone((model,), to)

    async def _memory_back(self, before: int, freed: int) -> None:
        """Until the driver shows what was freed: a load on a stale figure would go astray."""
        if self._cpu:
            return  # no driver between: the engine has it, and keeps it for what it loads next
        for _ in range(_LOOKS):
            free = self.free_memory()
            if free is None or model_cache.memory_is_back(before, free, freed):
                return
            await asyncio.sleep(self._timers.memory_back / _LOOKS)
        log.warning("memory that was freed is not seen as free; it is loaded all the same")

    def _fits_ram(self, size: int) -> bool:
        memory = psutil.virtual_memory()
        waiting = sum(self.cache.in_ram.values())
        budget = model_cache.ram_budget(memory.total, memory.available, waiting, self._ram_share)
        return waiting + size <= budget

    async def _prefetch(self, engine: EngineProcess, local: LocalModel) -> None:
        try:
            _require_unchanged(local)
            answer = await engine.load(source(local), tier=TIER_RAM, size=local.model.size)
        except EngineFailed as error:
            log.info("model %s was not fetched ahead: %s", local.model.name, error)
            return
        # Meanwhile it may have been needed: then it is on the card.
        if answer.memory and self.cache.tier(local.model.sha256) == TIER_DISK:
            self.cache.brought(local.model.sha256, answer.memory, TIER_RAM)

    def _arrived(
        self,
        sha256: str,
        answer: LoadResponse,
        tier: Tier.ValueType,
        placement: Placement | None = None,
    ) -> None:
        self._bytes[sha256] = answer.memory
        self.cache.brought(sha256, answer.memory, tier, placement)
        self.cache.history.loaded(sha256, answer.seconds, answer.came_from)

    def _expected_bytes(self, local: LocalModel) -> int:
        # Most files are half precision, and a CPU computes in single.
        guess = local.model.size * (2 if self._cpu else 1)
        return self._bytes.get(local.model.sha256, guess)


def _require_unchanged(local: LocalModel) -> None:
    changed = what_changed(local)
    if changed is not None:
        raise ModelFilesChanged(local.model.name, changed)


def _free_ram() -> int:
    return int(psutil.virtual_memory().available)
