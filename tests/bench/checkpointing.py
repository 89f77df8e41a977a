"""What checkpoints cost a picture: the same batch with and without, in one real engine process.

With one torch thread: two that wait for one another burn processor time by how busy the machine is,
many times what is measured here. Beside other work even one strays by some per cent from batch to
batch: `checkpoint_cost_direct` asks the two threads that make a checkpoint for their own time.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from unittest import mock

from measuring import Row, certain, median, processor_seconds, quartiles

from foxden_agent.engine_client import EngineProcess
from foxden_agent.models import DEMO_MODEL
from foxden_proto.timers import Timers
from foxden_proto.v1.engine_pb2 import Batch, BatchItem, ModelSource
from foxden_proto.v1.generation_pb2 import ImageRequest

ROUNDS = 30
STEPS = 6
SIDE = 256  # pixels: steps as long as a real model's on a card
# UniPC keeps the most of all samplers: two model outputs and a sample beside the latents.
SAMPLER = "UniPC"


@dataclass(frozen=True)
class _Drawn:
    seconds: float  # of the processor, all of the engine's threads: others' load counts less
    checkpoints: int
    largest: int  # bytes


def _batch(checkpoints: bool) -> Batch:
    request = ImageRequest(
        model="foxden-demo",
        prompt="a red cube on a blue background",
        steps=STEPS,
        sampler=SAMPLER,
        schedule="automatic",
        guidance_scale=3.0,
        width=SIDE,
        height=SIDE,
        seed=7,
    )
    return Batch(
        model=ModelSource(name="foxden-demo", sha256="demo", path=str(DEMO_MODEL), family="sd1"),
        items=[BatchItem(item_id="0", request=request)],
        checkpoints=checkpoints,
    )


async def _draw(engine: EngineProcess, checkpoints: bool) -> _Drawn:
    sizes = [0]
    before = processor_seconds(engine.pid)
    async for event in engine.generate(_batch(checkpoints)):
        if event.HasField("checkpoint"):
            sizes.append(len(event.checkpoint.data))
    return _Drawn(processor_seconds(engine.pid) - before, len(sizes) - 1, max(sizes))


async def _measure() -> list[tuple[_Drawn, _Drawn]]:
    pairs = []
    with mock.patch.dict(os.environ, OMP_NUM_THREADS="1"):
        started = await EngineProcess.start("cpu", timers=Timers(), low_priority=True)
    async with started as engine:
        await _draw(engine, True)  # loads the model
        for number in range(ROUNDS):  # by turns: A B, B A
            first = await _draw(engine, number % 2 == 0)
            second = await _draw(engine, number % 2 == 1)
            pairs.append((first, second) if number % 2 == 0 else (second, first))
    return pairs


def run() -> list[Row]:
    pairs = asyncio.run(_measure())
    ratios = [100 * (with_.seconds / without.seconds - 1) for with_, without in pairs]
    step = 1000 * median([without.seconds for _, without in pairs]) / STEPS
    made = median([float(with_.checkpoints) for with_, _ in pairs])
    command = [sys.executable, __file__]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    direct = json.loads(subprocess.run(command, check=True, capture_output=True, env=env).stdout)
    return [
        Row(
            "checkpoint_cost_direct",
            100 * median(direct["costs"]) / direct["step"],
            "%",
            "<= 2",
            f"{1000 * median(direct['costs']):.2f} ms of the two threads that copy and pack one, "
            f"of a step of {1000 * direct['step']:.0f} ms, in processor time; half of "
            f"{len(direct['costs'])}: {quartiles([1000 * c for c in direct['costs']])} ms; without "
            "the way to the agent",
        ),
        Row(
            "checkpoint_cost",
            median(ratios),
            "%",
            "<= 2",
            f"{made:.0f} checkpoints in {STEPS} steps of {step:.0f} ms of one thread's processor "
            f"time ({SIDE}x{SIDE}, {SAMPLER}), {pairs[0][0].largest / 1024:.0f} KiB each; {ROUNDS} "
            f"pairs, half of {quartiles(ratios)}, the median with 95 % at {certain(ratios)}",
        ),
    ]


def direct() -> dict[str, object]:
    """Processor seconds of each checkpoint, and of a step without any, in this process."""
    from foxden_agent.engine import sampler_driver
    from foxden_agent.engine.diffusers_engine import DiffusersEngine
    from foxden_agent.engine.server import quiet_libraries

    quiet_libraries()
    costs: list[float] = []

    class Told(sampler_driver.Pace):
        _first = True  # of its batch: what the writer takes is told with the next one

        def cost(self, seconds: float) -> None:
            if not self._first:
                costs.append(seconds)
            self._first = False
            super().cost(seconds)

    engine, steps = DiffusersEngine("cpu", "bench"), []
    engine.generate(_batch(False), lambda _: None, set)
    with mock.patch.object(sampler_driver, "Pace", Told):
        for _ in range(5):
            begun = time.process_time()
            engine.generate(_batch(False), lambda _: None, set)
            steps.append((time.process_time() - begun) / STEPS)
            engine.generate(_batch(True), lambda _: None, set)
    return {"costs": costs, "step": median(steps)}


if __name__ == "__main__":
    print(json.dumps(direct()))
