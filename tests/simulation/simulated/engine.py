"""An engine that takes simulated seconds, and crashes, hangs or refuses as told.

Its pictures begin like a PNG and then say what they show, so that a picture which reached the wrong
job is seen.
"""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any

import grpc

from foxden_agent.engine_errors import EngineDied, EngineRefused, EngineSilent
from foxden_proto.v1.engine_pb2 import (
    Batch,
    Device,
    EngineCheckpoint,
    EngineDescription,
    EngineEvent,
    EnginePicture,
    EngineStage,
    EngineStep,
    EngineStopped,
    LoadResponse,
    ModelSource,
    Placement,
)
from foxden_proto.v1.generation_pb2 import ImageRequest
from foxden_proto.v1.pool_pb2 import TIER_DISK, TIER_RAM, TIER_VRAM, Sampler, Tier
from simulated.clock import CURRENT


@dataclass
class EngineFaults:
    """Chances per image."""

    crash: float = 0.0
    hang: float = 0.0
    refuse: float = 0.0  # with words that another card may do better
    stale: float = 0.0  # that checkpoints are of no use to it
    broken: bool = False  # every image fails on this machine's cards


def picture(request: ImageRequest) -> bytes:
    """What a request draws: its own prompt, model and seed, behind a PNG's header."""
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR"
    size = struct.pack(">II", request.width, request.height)
    words = f"{request.prompt}|{request.model_sha256}|{request.seed}"
    return head + size + b"\x08\x02\x00\x00\x00" + words.encode()


def checkpoint(request: ImageRequest, step: int) -> bytes:
    """What a request needs to go on from a step; of no use to any other."""
    words = f"{request.prompt}|{request.model_sha256}|{request.seed}|{step}"
    return words.encode()


class SimulatedEngine:
    """In the place of `foxden_agent.engine_client.EngineProcess`, which see."""

    pid = 1

    def __init__(self, machine: Any, device: str, timers: Any) -> None:
        self.machine, self.device, self._timers = machine, device, timers
        self.alive = True
        self._draw: random.Random = machine.draw
        self._stopped: set[str] = set()
        self._busy = False
        self._loaded = ""
        self._died = asyncio.Event()
        machine.engines[device] = self

    @classmethod
    async def start(
        cls, device: str, *, timers: Any, low_priority: bool, python: object = None
    ) -> SimulatedEngine:
        process = CURRENT.get()
        assert process is not None
        await asyncio.sleep(process.machine.draw.uniform(0.5, 3))
        device = "cuda:0" if device == "auto" else device
        return cls(process.machine, device, timers)

    async def describe(self) -> EngineDescription:
        self._alive()
        names = [f"cuda:{number}" for number in range(self.machine.cards)]
        devices = [Device(device=name, name="card", memory_total=8 << 30) for name in names]
        return EngineDescription(
            device=next(d for d in devices if d.device == self.device),
            devices=devices,
            samplers=[Sampler(name="Euler", schedules=["automatic"])],
            versions="simulated",
        )

    async def stop(self, item_ids: Iterable[str]) -> None:
        self._alive()
        self._stopped.update(item_ids)

    def die(self) -> None:
        self.alive = False
        self._died.set()

    async def kill(self) -> None:
        self.die()

    def _alive(self) -> None:
        if not self.alive:
            raise EngineDied(-9, "")

    async def _pass(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._died.wait()
        except TimeoutError:
            return
        self._alive()

    async def load(
        self,
        model: ModelSource,
        placement: Placement | None = None,
        tier: Tier.ValueType = TIER_VRAM,
        *,
        size: int = 0,
    ) -> LoadResponse:
        self._alive()
        if tier == TIER_RAM or self._loaded == model.sha256:
            return LoadResponse()
        seconds = self._draw.uniform(1, 12) * self.machine.pace
        await self._pass(seconds)
        self._loaded = model.sha256
        return LoadResponse(seconds=seconds, memory=1, came_from=TIER_DISK)

    async def unload(self, sha256s: Iterable[str], to: Tier.ValueType = TIER_DISK) -> None:
        self._alive()
        if self._loaded in set(sha256s):
            self._loaded = ""

    async def generate(self, batch: Batch) -> AsyncIterator[EngineEvent]:
        self._alive()
        if self._busy:
            raise EngineRefused("the engine draws another batch", grpc.StatusCode.ALREADY_EXISTS)
        self._busy = True
        try:
            async for event in self._generate(batch):
                yield event
        finally:
            self._busy = False

    async def _generate(self, batch: Batch) -> AsyncIterator[EngineEvent]:
        faults, draw = self.machine.engine_faults, self._draw
        if self._loaded != batch.model.sha256:
            yield EngineEvent(stage=EngineStage(stage="loading"))
            await self._pass(draw.uniform(1, 12) * self.machine.pace)
            self._loaded = batch.model.sha256
        yield EngineEvent(stage=EngineStage(stage="sampling"))
        items = list(batch.items)
        steps = items[0].request.steps
        (begun,) = {int(item.checkpoint.rpartition(b"|")[2] or 0) for item in items}
        for item in items:
            if begun and item.checkpoint != checkpoint(item.request, begun):
                self.machine.violated(f"{item.item_id} goes on from {item.checkpoint!r}")
        if begun and draw.random() < faults.stale:
            why = "this engine is of another version"
            raise EngineRefused(why, grpc.StatusCode.ABORTED)
        crash_at = draw.randint(0, steps) if draw.random() < faults.crash else -1
        hang_at = draw.randint(0, steps) if draw.random() < faults.hang else -1
        if faults.broken or draw.random() < faults.refuse:
            raise EngineRefused("out of memory", grpc.StatusCode.RESOURCE_EXHAUSTED)
        self.machine.note(f"draws {len(items)} from step {begun}")
        for step in range(begun + 1, steps + 1):
            await self._pass(draw.uniform(0.2, 0.6) * self.machine.pace)
            if step == crash_at:
                self.die()
            if step == hang_at:
                await self._pass(self._timers.engine_silent)
                raise EngineSilent(self._timers.engine_silent, "sampling")
            self._alive()
            for item in items if batch.checkpoints else ():
                data = checkpoint(item.request, step)
                told = EngineCheckpoint(item_id=item.item_id, step=step, data=data)
                yield EngineEvent(checkpoint=told)
            for item in [item for item in items if item.item_id in self._stopped]:
                items.remove(item)
                yield EngineEvent(stopped=EngineStopped(item_id=item.item_id))
            if not items:
                return
            yield EngineEvent(step=EngineStep(step=step, steps=steps))
        for item in items:
            yield EngineEvent(
                picture=EnginePicture(
                    item_id=item.item_id,
                    png=picture(item.request),
                    width=item.request.width,
                    height=item.request.height,
                    seconds=steps * 0.4 * self.machine.pace,
                    batch_size=len(batch.items),
                    placement="simulated",
                )
            )
