"""How soon a card draws with another model, and a new engine at all, against diffusers by hand.

`models.py FOLDER_A FOLDER_B` is the other side of the switch, in a process of its own: it has drawn
with A, and is to draw with B.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROUNDS = 3
STEPS, SIDE = 3, 64  # a small picture: the step counts, but what is compared is the loading
# What a script can have of the engine's heap (engine/heap.py): glibc's own variables for it.
_KEEPING = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(1024**3),
    "MALLOC_TRIM_THRESHOLD_": str(2**62),
}


def run_switch() -> list[Any]:
    """Two random Stable Diffusion 1.5 in float16 files, 2 GB each on disk; minutes."""
    from measuring import ROOT, Row, mean_difference, median

    sys.path.insert(0, str(ROOT / "tests" / "gpu"))
    with tempfile.TemporaryDirectory(prefix="foxden-bench-") as folder:
        a, b = Path(folder) / "a", Path(folder) / "b"
        # In a process of its own: a builder's memory would stay with us.
        build = f"import gpu_check, pathlib; gpu_check.build_model(pathlib.Path({str(a)!r}))"
        gpu = str(ROOT / "tests" / "gpu")
        subprocess.run(
            [sys.executable, "-c", build], check=True, stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": gpu},
        )  # fmt: skip
        shutil.copytree(a, b, copy_function=os.link)  # the same bytes under other names

        def by_hand(**environment: str) -> dict[str, Any]:
            command = [sys.executable, __file__, str(a), str(b)]
            env = {**os.environ, **environment}
            done = subprocess.run(command, check=True, capture_output=True, text=True, env=env)
            answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
            return answer

        sides = [lambda: asyncio.run(_ours(a, b)), by_hand, lambda: by_hand(**_KEEPING)]
        by_hand()  # fills the file cache
        rounds = []
        for number in range(ROUNDS):  # by turns: A B C, C B A
            order = range(3) if number % 2 == 0 else range(2, -1, -1)
            answers = {which: sides[which]() for which in order}
            rounds.append([answers[which] for which in range(3)])
    for ours, *others in rounds:
        for other in others:
            assert mean_difference(_pixels(ours), _pixels(other)) < 2, "not the same picture"

    def of(key: str, other: int) -> tuple[float, float, float]:
        ratio = median([one[0][key] / one[other][key] for one in rounds])
        mine, others = [one[0][key] for one in rounds], [one[other][key] for one in rounds]
        return ratio, median(mine), median(others)

    (wall, ours_s, library), (load, ours_load, library_load) = of("seconds", 1), of("load", 1)
    (cpu, cpu_ours, cpu_library), (kept, _, cpu_kept) = of("cpu", 1), of("cpu", 2)
    every = ", ".join(f"{one[0]['seconds'] / one[1]['seconds']:.2f}" for one in rounds)
    what = f"random Stable Diffusion 1.5, float16 files in the file cache, {SIDE} px"
    return [
        Row(
            "model_switch",
            wall,
            "x",
            "<= 0.6",
            f"{what}: from the word to put A out to the end of B's first step, {ours_s:.1f} s "
            f"and {library:.1f} s, of which loading {ours_load:.1f} and {library_load:.1f} "
            f"({load:.2f} x); every pair: {every}",
        ),
        Row(
            "model_switch_cpu",
            cpu,
            "x",
            "",
            f"the same in processor time: {cpu_ours:.1f} s and {cpu_library:.1f} s",
        ),
        Row(
            "model_switch_same_heap_cpu",
            kept,
            "x",
            "",
            f"against a script whose C library keeps what it frees as well: {cpu_kept:.1f} s",
        ),
    ]


def _pixels(answer: dict[str, Any]) -> bytes:
    return base64.b64decode(answer["pixels"])


def run_start() -> list[Any]:
    """From nothing to the end of the first step, demo model."""
    from measuring import Row, interleaved, median, processor_seconds

    def bare() -> tuple[float, float]:
        begun = time.perf_counter()
        plain = str(Path(__file__).with_name("plain.py"))
        with subprocess.Popen(
            [sys.executable, plain, "first"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == b"step"
            took = time.perf_counter() - begun, processor_seconds(process.pid)
            process.kill()
        return took

    interleaved(1, _engine_start, bare)
    pairs = interleaved(2 * ROUNDS + 1, _engine_start, bare)

    def of(which: int) -> tuple[float, str]:
        mine, others = [one[which] for one, _ in pairs], [other[which] for _, other in pairs]
        ratio = median([a / b for a, b in zip(mine, others, strict=True)])
        return ratio, f"{median(mine):.1f} s and {median(others):.1f} s"

    (wall, seconds), (cpu, processor) = of(0), of(1)
    what = f"demo model, {len(pairs)} pairs"
    return [
        Row("engine_start", wall, "x", "<= 1.3", f"{seconds}, {what}"),
        Row("engine_start_cpu", cpu, "x", "", f"the same in processor time: {processor}"),
    ]


def _engine_start() -> tuple[float, float]:
    from measuring import processor_seconds

    from foxden_agent.engine_client import EngineProcess
    from foxden_agent.models import DEMO_MODEL

    async def first_step() -> tuple[float, float]:
        begun = time.perf_counter()
        async with await EngineProcess.start("cpu", low_priority=True) as engine:
            async for event in engine.generate(_batch(DEMO_MODEL)):
                if event.HasField("step"):
                    return time.perf_counter() - begun, processor_seconds(engine.pid)
        raise AssertionError("no step")

    return asyncio.run(first_step())


def _batch(folder: Path) -> Any:
    from foxden_proto.v1.engine_pb2 import Batch, BatchItem, ModelSource
    from foxden_proto.v1.generation_pb2 import ImageRequest

    request = ImageRequest(
        model=folder.name,
        prompt="a red cube",
        steps=STEPS,
        sampler="Euler",
        schedule="automatic",
        guidance_scale=7.0,
        width=SIDE,
        height=SIDE,
        seed=1,
    )
    source = ModelSource(name=folder.name, sha256=folder.name, path=str(folder))
    return Batch(model=source, items=[BatchItem(item_id="0", request=request)])


async def _ours(a: Path, b: Path) -> dict[str, Any]:
    """A real engine process, told what the agent tells it when a model has to make room."""
    import io

    from measuring import processor_seconds
    from PIL import Image

    from foxden_agent.engine_client import EngineProcess
    from foxden_proto.v1.pool_pb2 import TIER_DISK

    async with await EngineProcess.start("cpu", low_priority=True) as engine:
        async for _ in engine.generate(_batch(a)):
            pass
        begun, cpu = time.perf_counter(), processor_seconds(engine.pid)
        await engine.unload([a.name], TIER_DISK)
        await engine.load(_batch(b).model)
        loaded = time.perf_counter()
        answer: dict[str, Any] = {"load": loaded - begun}
        async for event in engine.generate(_batch(b)):
            if event.HasField("step") and "seconds" not in answer:
                answer["seconds"] = time.perf_counter() - begun
                answer["cpu"] = processor_seconds(engine.pid) - cpu
            elif event.HasField("picture"):
                image = Image.open(io.BytesIO(event.picture.png)).convert("RGB")
                answer["pixels"] = base64.b64encode(image.tobytes()).decode()
    return answer


def _by_hand(a: Path, b: Path) -> dict[str, Any]:
    import torch
    from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline

    from foxden_agent.engine.server import quiet_libraries

    quiet_libraries()
    ends: list[tuple[float, float]] = []

    def load(folder: Path) -> Any:
        options = {"safety_checker": None, "requires_safety_checker": False}
        pipe = StableDiffusionPipeline.from_pretrained(
            str(folder), dtype=torch.float32, use_safetensors=True, local_files_only=True, **options
        )
        pipe.set_progress_bar_config(disable=True)
        pipe.scheduler = EulerDiscreteScheduler.from_config(
            pipe.scheduler.config, timestep_spacing="linspace"
        )
        return pipe

    def after(*_: Any) -> dict[str, Any]:
        ends.append((time.perf_counter(), time.process_time()))
        return {}

    def draw(pipe: Any) -> Any:
        return pipe(
            "a red cube",
            num_inference_steps=STEPS,
            guidance_scale=7.0,
            width=SIDE,
            height=SIDE,
            generator=torch.Generator().manual_seed(1),
            callback_on_step_end=after,
        ).images[0]

    pipe = load(a)
    draw(pipe)
    ends.clear()
    begun, cpu = time.perf_counter(), time.process_time()
    pipe = None
    gc.collect()
    pipe = load(b)
    loaded = time.perf_counter()
    pixels = base64.b64encode(draw(pipe).convert("RGB").tobytes()).decode()
    wall, processor = ends[0]
    answer = {"seconds": wall - begun, "load": loaded - begun, "cpu": processor - cpu}
    return answer | {"pixels": pixels}


if __name__ == "__main__":
    from foxden_agent.engine.__main__ import _ENVIRONMENT

    os.environ.update(_ENVIRONMENT)
    if hasattr(os, "nice"):
        os.nice(10)
    print(json.dumps(_by_hand(Path(sys.argv[1]), Path(sys.argv[2]))))
