"""Measures the engine on a real card, with models of the full size of SD 1.5 and SDXL.

The weights are random (nothing is downloaded), so the picture is noise, but every layer, the
memory and the time are those of the real thing. Each rung of the placement ladder is run, and its
measured peak stands beside the estimate. Without a CUDA device it says so and ends well; `--device
cpu --tiny` tries the tool itself out with the demo model. Writes build/gpu-check.json and
docs/benchmarks/gpu.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from foxden_agent.engine_client import EngineProcess
from foxden_agent.engine_errors import EngineFailed
from foxden_agent.models import DEMO_MODEL
from foxden_agent.placement import CardFacts, Remembered, Work, estimates
from foxden_agent.placement.facts import MIB
from foxden_agent.placement.ladder import ladder, need
from foxden_agent.placement.model_files import read_model
from foxden_proto.v1.engine_pb2 import Batch, BatchItem, ModelSource
from foxden_proto.v1.generation_pb2 import ImageRequest

ROOT = Path(__file__).resolve().parents[2]


def build_model(folder: Path) -> None:
    """A random Stable Diffusion 1.5 in float16 safetensors, about 2 GB."""
    import torch
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline
    from diffusers import UNet2DConditionModel as UNet
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    unet = UNet(sample_size=64, cross_attention_dim=768, attention_head_dim=8).half()
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        sample_size=512,
    ).half()
    text = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=768,
        intermediate_size=3072,
        projection_dim=768,
        num_hidden_layers=12,
        num_attention_heads=12,
    )
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text).half(),
        tokenizer=CLIPTokenizer.from_pretrained(DEMO_MODEL / "tokenizer"),
        unet=unet,
        scheduler=PNDMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            skip_prk_steps=True,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder, safe_serialization=True)


def make_batch(model: ModelSource, steps: int, size: int, count: int = 1) -> Batch:
    items = [
        BatchItem(
            item_id=str(i),
            request=ImageRequest(
                model=model.name,
                prompt="a red cube on a blue background",
                steps=steps,
                sampler="DPM++ 2M",
                schedule="automatic",
                guidance_scale=7.0,
                width=size,
                height=size,
                seed=i,
            ),
        )
        for i in range(count)
    ]
    return Batch(model=model, items=items)


async def draw(engine: EngineProcess, batch: Batch) -> float:
    """Seconds until the last picture of the batch was here."""
    started = time.perf_counter()
    pictures = [event async for event in engine.generate(batch) if event.HasField("picture")]
    assert len(pictures) == len(batch.items)
    return time.perf_counter() - started


async def cancel_seconds(engine: EngineProcess, batch: Batch) -> float:
    """Seconds from asking for a stop until the engine is free again."""
    asked = 0.0
    async for event in engine.generate(batch):
        assert not event.HasField("picture"), "it finished before it could be stopped"
        if event.HasField("step") and not asked:
            asked = time.perf_counter()
            await engine.stop(item.item_id for item in batch.items)
    return time.perf_counter() - asked


def memory_used_mib() -> int | None:
    """Of the first card, by all programs; None where there is no nvidia-smi."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
    return int(subprocess.run(query, capture_output=True, text=True, check=True).stdout)


async def watch_memory(peak: list[int]) -> None:
    while (used := await asyncio.to_thread(memory_used_mib)) is not None:
        peak.append(used)
        await asyncio.sleep(0.1)


async def measure(device: str, folder: Path, steps: int, size: int) -> dict[str, object]:
    model = ModelSource(name="random-sd15", sha256="random", path=str(folder), family="sd1")
    before = memory_used_mib()
    peak: list[int] = []
    watcher = asyncio.create_task(watch_memory(peak))
    try:
        started = time.perf_counter()
        async with await EngineProcess.start(device) as engine:
            description = await engine.describe()
            importing = time.perf_counter() - started
            loaded = await engine.load(model)
            first = await draw(engine, make_batch(model, steps, size))
            later = [await draw(engine, make_batch(model, steps, size)) for _ in range(3)]
            four = await draw(engine, make_batch(model, steps, size, 4))
            cancel = await cancel_seconds(engine, make_batch(model, 150, size))
            killed = time.perf_counter()
        gone = time.perf_counter() - killed
    finally:
        watcher.cancel()
    return {
        "device": description.device.name,
        "versions": description.versions,
        "steps": steps,
        "size": size,
        "import_seconds": round(importing, 2),
        "load_seconds": round(loaded.seconds, 2),
        "weights_mib": loaded.memory // 2**20,
        "first_picture_seconds": round(first, 3),
        "picture_seconds": round(min(later), 3),
        "four_pictures_seconds": round(four, 3),
        "cancel_seconds": round(cancel, 3),
        "kill_seconds": round(gone, 3),
        "peak_vram_mib": max(peak) - before if peak and before is not None else None,
    }


def build_sdxl(folder: Path) -> None:
    """A random SDXL in float16 safetensors, about 7 GB."""
    import torch
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline
    from diffusers import UNet2DConditionModel as UNet
    from transformers import (
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTextModelWithProjection,
        CLIPTokenizer,
    )

    torch.manual_seed(0)
    unet = UNet(
        sample_size=128,
        cross_attention_dim=2048,
        attention_head_dim=(5, 10, 20),
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    ).half()
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        sample_size=1024,
        force_upcast=True,
    ).half()
    clip_l = CLIPTextConfig(
        vocab_size=49408, hidden_size=768, intermediate_size=3072, projection_dim=768,
        num_hidden_layers=12, num_attention_heads=12,
    )  # fmt: skip
    clip_g = CLIPTextConfig(
        vocab_size=49408, hidden_size=1280, intermediate_size=5120, projection_dim=1280,
        num_hidden_layers=32, num_attention_heads=20,
    )  # fmt: skip
    tokenizer = CLIPTokenizer.from_pretrained(DEMO_MODEL / "tokenizer")
    StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(clip_l).half(),
        text_encoder_2=CLIPTextModelWithProjection(clip_g).half(),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=EulerDiscreteScheduler(),
    ).save_pretrained(folder, safe_serialization=True)


async def rungs(
    device: str, source: ModelSource, steps: int, sides: Sequence[int]
) -> list[dict[str, object]]:
    """Each rung of the ladder at each size: the estimate, the measured peak, the seconds."""
    rows: list[dict[str, object]] = []
    facts = read_model(Path(source.path), source.family)
    async with await EngineProcess.start(device) as engine:
        about = await engine.describe()
        card = CardFacts(
            about.device.device,
            about.device.memory_total,
            about.compute_capability,
            about.device.name,
            ram_total=psutil.virtual_memory().total,
        )
        context = estimates.CONTEXT if card.cuda else 0
        for rung in ladder(facts, card):
            if rung.cpu:  # minutes a picture
                continue
            for side in sides:
                batch = make_batch(source, steps, side)
                batch.placement.CopyFrom(rung.message())
                work = Work(side * side)
                row: dict[str, object] = {
                    "model": source.name,
                    "placement": rung.name,
                    "side": side,
                    "estimated_mib": need(facts, card, rung, work, Remembered()) // MIB,
                }
                try:
                    await draw(engine, batch)  # loads
                    started = time.perf_counter()
                    events = [event async for event in engine.generate(batch)]
                    took = next(e.measured for e in events if e.HasField("measured"))
                    row["measured_mib"] = (took.peak_memory + context) // MIB
                    row["seconds"] = round(time.perf_counter() - started, 2)
                    row["spilled"] = took.spilled
                except EngineFailed as error:
                    row["failed"] = str(error)[:120]
                    if not engine.alive:
                        return [*rows, row]
                rows.append(row)
    return rows


def markdown(result: dict[str, object], placed: list[dict[str, object]]) -> str:
    rows = "\n".join(f"| {key.replace('_', ' ')} | {value} |" for key, value in result.items())
    ladder_rows = "\n".join(
        f"| {row['model']} | {row['placement']} | {row['side']} | {row['estimated_mib']} "
        f"| {row.get('measured_mib', row.get('failed', ''))} | {row.get('seconds', '')} |"
        for row in placed
    )
    return (
        "# The engine on a real card\n\nMade by `make gpu-check`: Stable Diffusion 1.5's full "
        "size with random weights, float16, sampler DPM++ 2M, guidance 7. Peak VRAM is what "
        f"nvidia-smi saw above what other programs held.\n\n| what | value |\n|---|---|\n{rows}\n"
        "\n## Placements\n\nOne picture each, measured the second time. The peak is what torch's "
        "tensors took, and the context.\n\n"
        "| model | placement | side | estimated MiB | measured MiB | seconds |\n"
        f"|---|---|---|---|---|---|\n{ladder_rows}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda:0", help="cpu tries the tool out; slow")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--size", type=int, default=512, help="pixels, either side")
    parser.add_argument("--tiny", action="store_true", help="the demo model alone, nothing written")
    arguments = parser.parse_args()
    on_card = arguments.device != "cpu"
    if on_card:
        import torch

        if not torch.cuda.is_available():
            print("GPU check: not run here, because this machine has no CUDA device.")
            return
    if arguments.tiny:
        demo = ModelSource(name="demo", sha256="demo", path=str(DEMO_MODEL), family="sd1")
        sides = (64, 128)
        print(json.dumps(asyncio.run(rungs(arguments.device, demo, 4, sides)), indent=2))
        return
    placed: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(prefix="foxden-gpu-check-") as folder:
        sd15, sdxl = Path(folder) / "sd15", Path(folder) / "sdxl"
        build_model(sd15)
        result = asyncio.run(measure(arguments.device, sd15, arguments.steps, arguments.size))
        if on_card:
            build_sdxl(sdxl)
            for name, family, path in (("SD 1.5", "sd1", sd15), ("SDXL", "sdxl", sdxl)):
                source = ModelSource(name=name, sha256=name, path=str(path), family=family)
                found = rungs(arguments.device, source, arguments.steps, (512, 1024, 2048))
                placed += asyncio.run(found)
    text = json.dumps(result | {"placements": placed}, indent=2)
    print(text)
    if on_card:
        (ROOT / "build").mkdir(exist_ok=True)
        (ROOT / "build" / "gpu-check.json").write_text(text + "\n", encoding="utf-8")
        report = ROOT / "docs" / "benchmarks" / "gpu.md"
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(markdown(result, placed), encoding="utf-8")


if __name__ == "__main__":
    main()
