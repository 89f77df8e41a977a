"""How soon a card draws with another model, and a new engine at all, against diffusers by hand.

`models.py ours|library FOLDER_A FOLDER_B` is one side of the switch, in a process of its own: it
has drawn with A, and is to draw with B.
"""

from __future__ import annotations

import asyncio
import contextlib
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
STEPS, SIDE = 5, 64  # a small picture: the step counts, but what is compared is the loading


def run_switch() -> list[Any]:
    """Two random Stable Diffusion 1.5 in float16 files, 2 GB each on disk; minutes."""
    from measuring import ROOT, Row, interleaved, median

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

        def side(which: str) -> dict[str, Any]:
            command = [sys.executable, __file__, which, str(a), str(b)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
            return answer

        side("library")  # fills the file cache
        pairs = interleaved(ROUNDS, lambda: side("ours"), lambda: side("library"))
    assert all(one["weights"] == other["weights"] for one, other in pairs), "not the same weights"

    def of(key: str) -> tuple[float, float, float]:
        ours, library = [one[key] for one, _ in pairs], [other[key] for _, other in pairs]
        ratio = median([one / other for one, other in zip(ours, library, strict=True)])
        return ratio, median(ours), median(library)

    (wall, ours, library), (cpu, cpu_ours, cpu_library) = of("seconds"), of("cpu")
    load, load_library = (
        median([p["load"] for p, _ in pairs]),
        median([q["load"] for _, q in pairs]),
    )
    return [
        Row(
            "model_switch",
            wall,
            "x",
            "<= 0.6",
            f"{ours:.1f} s and {library:.1f} s, of which loading {load:.1f} and {load_library:.1f}",
        ),
        Row(
            "model_switch_cpu",
            cpu,
            "x",
            "",
            f"CPU time {cpu_ours:.1f} s and {cpu_library:.1f} s; 3.4 GB of fresh memory each",
        ),
    ]


def run_start() -> list[Any]:
    """From nothing to the end of the first step, demo model."""
    from measuring import Row, interleaved, median

    def bare() -> float:
        begun = time.perf_counter()
        plain = str(Path(__file__).with_name("plain.py"))
        with subprocess.Popen(
            [sys.executable, plain, "first"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == b"step"
            seconds = time.perf_counter() - begun
            process.kill()
        return seconds

    interleaved(1, _engine_start, bare)
    pairs = interleaved(2 * ROUNDS + 1, _engine_start, bare)
    ours, theirs = median([one for one, _ in pairs]), median([other for _, other in pairs])
    ratio = median([one / other for one, other in pairs])
    return [Row("engine_start", ratio, "x", "<= 1.3", f"{ours:.1f} s and {theirs:.1f} s")]


def _engine_start() -> float:
    from foxden_agent.engine_client import EngineProcess
    from foxden_agent.models import DEMO_MODEL

    async def first_step() -> float:
        begun = time.perf_counter()
        async with await EngineProcess.start("cpu", low_priority=True) as engine:
            async for event in engine.generate(_batch(DEMO_MODEL)):
                if event.HasField("step"):
                    return time.perf_counter() - begun
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


class _Stop(Exception):
    pass


def ours(a: Path, b: Path) -> dict[str, Any]:
    from foxden_agent.engine.diffusers_engine import DiffusersEngine
    from foxden_agent.engine.errors import Stopped
    from foxden_agent.engine.server import quiet_libraries
    from foxden_proto.v1.pool_pb2 import TIER_DISK

    quiet_libraries()
    engine = DiffusersEngine("cpu", "bench")
    ends: list[float] = []
    stop: set[str] = set()

    def on_event(event: Any) -> None:
        if event.HasField("step"):
            ends.append(time.perf_counter())
            stop.add("0")

    def draw(folder: Path) -> None:
        stop.clear()
        with contextlib.suppress(Stopped):
            engine.generate(_batch(folder), on_event, lambda: stop)

    draw(a)
    begun, cpu = time.perf_counter(), time.process_time()
    engine.unload([a.name], TIER_DISK)
    engine.load(_batch(b).model)
    loaded = time.perf_counter()
    draw(b)
    took = ends[-1] - begun
    answer = {"seconds": took, "load": loaded - begun, "cpu": time.process_time() - cpu}
    return answer | {"weights": _fingerprint(engine._pipe)}


def library(a: Path, b: Path) -> dict[str, Any]:
    import torch
    from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline

    from foxden_agent.engine.server import quiet_libraries

    quiet_libraries()
    ends: list[float] = []

    def load(folder: Path) -> Any:
        options = {"safety_checker": None, "requires_safety_checker": False}
        pipe = StableDiffusionPipeline.from_pretrained(
            str(folder), dtype=torch.float32, use_safetensors=True, local_files_only=True, **options
        )
        pipe.set_progress_bar_config(disable=True)
        pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
        return pipe

    def after(*_: Any) -> Any:
        ends.append(time.perf_counter())
        raise _Stop

    def draw(pipe: Any) -> None:
        with contextlib.suppress(_Stop):
            pipe(
                "a red cube",
                num_inference_steps=STEPS,
                guidance_scale=7.0,
                width=SIDE,
                height=SIDE,
                generator=torch.Generator().manual_seed(1),
                callback_on_step_end=after,
            )

    pipe = load(a)
    draw(pipe)
    begun, cpu = time.perf_counter(), time.process_time()
    pipe = None
    gc.collect()
    pipe = load(b)
    loaded = time.perf_counter()
    draw(pipe)
    took = ends[-1] - begun
    answer = {"seconds": took, "load": loaded - begun, "cpu": time.process_time() - cpu}
    return answer | {"weights": _fingerprint(pipe)}


def _fingerprint(pipe: Any) -> str:
    import hashlib

    import torch

    told = hashlib.sha256()
    for part in ("unet", "vae", "text_encoder"):
        for name, tensor in sorted(getattr(pipe, part).state_dict().items()):
            some = tensor.flatten()[:4096].contiguous().view(torch.uint8)
            told.update(f"{part} {name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            told.update(some.numpy().tobytes())
    return told.hexdigest()


if __name__ == "__main__":
    from foxden_agent.engine.__main__ import _ENVIRONMENT

    os.environ.update(_ENVIRONMENT)
    if hasattr(os, "nice"):
        os.nice(10)
    sides = {"ours": ours, "library": library}
    print(json.dumps(sides[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))))
