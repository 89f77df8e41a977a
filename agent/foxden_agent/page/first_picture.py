"""The first run's test picture: the real engine draws with the demo model. Kept in memory alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from foxden_agent.card_engine import demo_batch
from foxden_agent.engine_client import EngineProcess
from foxden_agent.engine_errors import EngineFailed
from foxden_proto.timers import Timers

_STEPS = 20

Told = Callable[[int, int], None]  # steps done, of how many; (0, 0) while the engine starts


async def draw(device: str, timers: Timers, tell: Told, python: Path) -> bytes:
    """A PNG of 64 pixels; takes some seconds, most of them for torch. `python` is the one that has
    torch. Raises EngineFailed.

    The engine is gone when this returns, whatever happened.
    """
    tell(0, 0)
    batch = demo_batch("a red cube on a blue background", steps=_STEPS, guidance_scale=4.0, seed=7)
    png = b""
    async with await EngineProcess.start(
        device, timers=timers, low_priority=True, python=python
    ) as engine:
        async for event in engine.generate(batch):
            match event.WhichOneof("event"):
                case "step":
                    tell(event.step.step, event.step.steps)
                case "picture":
                    png = event.picture.png
    if not png:
        raise EngineFailed("the engine ended without a picture")
    return png
