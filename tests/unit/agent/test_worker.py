"""What a card's worker does with its engine, whose far end is played here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

from foxden_agent.engine_client import EngineRefused
from foxden_agent.models import LocalModel
from foxden_agent.worker import CardWorker
from foxden_proto.link import LeaseKey
from foxden_proto.v1 import link_pb2 as pb
from foxden_proto.v1.engine_pb2 import Batch, EngineEvent, EnginePicture, EngineStage, EngineStopped
from foxden_proto.v1.generation_pb2 import ImageRequest
from foxden_proto.v1.pool_pb2 import Model


class Engine:
    """Refuses a batch while an earlier one is not drained, as the real one does."""

    def __init__(self) -> None:
        self.description = SimpleNamespace(versions="test")
        self.busy = False
        self.stopped: set[str] = set()
        self.drawing = asyncio.Event()
        self.told = asyncio.Event()

    async def ready(self) -> Engine:
        return self

    async def stop(self, item_id: str) -> None:
        self.stopped.add(item_id)
        self.told.set()

    async def kill(self) -> None: ...

    async def generate(self, batch: Batch) -> AsyncIterator[EngineEvent]:
        if self.busy:
            raise EngineRefused("the engine is drawing another batch", retryable=True)
        self.busy = True
        yield EngineEvent(stage=EngineStage(stage="denoising"))
        (item,) = batch.items
        if item.request.prompt == "slow":
            self.drawing.set()
            await self.told.wait()
        if item.item_id in self.stopped:
            yield EngineEvent(stopped=EngineStopped(item_id=item.item_id))
        else:
            yield EngineEvent(picture=EnginePicture(item_id=item.item_id, png=b"png"))
        self.busy = False


class Link:
    def __init__(self) -> None:
        self.outcomes: asyncio.Queue[tuple[LeaseKey, Any]] = asyncio.Queue()

    def outcome(self, key: LeaseKey, result: Any) -> None:
        self.outcomes.put_nowait((key, result))

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


class Pictures:
    async def put(self, *_: object, **__: object) -> Any:
        return SimpleNamespace(sha256="a" * 64, size=3, receipt="signed")


def task(key: LeaseKey, prompt: str) -> pb.AssignedTask:
    request = ImageRequest(prompt=prompt, model="dream", model_sha256="d" * 64)
    return pb.AssignedTask(lease=key.message(), request=request)


async def test_image_behind_a_stopped_one_is_not_refused_by_an_engine_that_drains() -> None:
    engine, link = Engine(), Link()
    local: Any = SimpleNamespace(
        model=Model(name="dream", sha256="d" * 64, family="sd15"), path="/models/dream"
    )
    models: dict[str, LocalModel] = {"d" * 64: local}
    parts: tuple[Any, ...] = (engine, models, link, Pictures())
    worker = CardWorker("card", "cpu", *parts, flush=lambda: None)
    first, second = LeaseKey("job", 0, 1), LeaseKey("job", 1, 1)
    worker.assign(pb.Assignment(tasks=[task(first, "slow"), task(second, "quick")]))
    running = asyncio.create_task(worker.run())
    async with asyncio.timeout(10):
        await engine.drawing.wait()
        worker.stop(first)
        ends = dict([await link.outcomes.get(), await link.outcomes.get()])
    running.cancel()
    await asyncio.wait([running])
    assert isinstance(ends[first], pb.TaskStopped)
    assert isinstance(ends[second], pb.TaskFinished)
