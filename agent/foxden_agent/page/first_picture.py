"""The first run's test picture: the real engine draws with the demo model. Kept in memory alone."""

from __future__ import annotations

from collections.abc import Callable

from foxden_agent.engine_client import EngineFailed, EngineProcess
from foxden_agent.models import DEMO_MODEL
from foxden_proto.timers import Timers
from foxden_proto.v1.engine_pb2 import Batch, BatchItem, ModelSource
from foxden_proto.v1.generation_pb2 import ImageRequest

_STEPS = 20

Told = Callable[[int, int], None]  # steps done, of how many; (0, 0) while the engine starts


async def draw(device: str, timers: Timers, tell: Told) -> bytes:
    """A PNG of 64 pixels; takes some seconds, most of them for torch. Raises EngineFailed.

    The engine is gone when this returns, whatever happened.
    """
    tell(0, 0)
    request = ImageRequest(
        model=DEMO_MODEL.name,
        prompt="a red cube on a blue background",
        steps=_STEPS,
        sampler="Euler",
        schedule="automatic",
        guidance_scale=4.0,
        width=64,
        height=64,
        seed=7,
    )
    source = ModelSource(name=DEMO_MODEL.name, path=str(DEMO_MODEL), family="sd1")
    batch = Batch(model=source, items=[BatchItem(item_id="first picture", request=request)])
    png = b""
    async with await EngineProcess.start(device, timers=timers, low_priority=True) as engine:
        async for event in engine.generate(batch):
            match event.WhichOneof("event"):
                case "step":
                    tell(event.step.step, event.step.steps)
                case "picture":
                    png = event.picture.png
    if not png:
        raise EngineFailed("the engine ended without a picture")
    return png
