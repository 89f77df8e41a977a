"""The other side of the comparison: diffusers called by hand, with nothing of Foxden around it.

    plain.py once FILE   import diffusers, load the demo model, draw what `foxden demo` draws, save
    plain.py first       the same, up to the end of the first step, and say so
    plain.py serve       load, then draw on command: one line of JSON in, one line out

Both run as an engine does: its environment, and its low priority. Where other programs use the
processor, a priority or a waiting policy of its own would decide the comparison.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from foxden_agent.engine.__main__ import _ENVIRONMENT
from foxden_agent.models import DEMO_MODEL

DEMO = {
    "prompt": "a red cube on a blue background",
    "seed": 7,
    "steps": 20,
    "width": 64,
    "height": 64,
    "guidance_scale": 3.0,
}


def load() -> Any:
    """The demo model with the scheduler that "DPM++ 2M" with "karras" stands for."""
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(
        str(DEMO_MODEL), safety_checker=None, requires_safety_checker=False, local_files_only=True
    )
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(
        pipe.scheduler.config, use_karras_sigmas=True, timestep_spacing="linspace"
    )
    return pipe


def say_step(*_: Any) -> dict[str, Any]:
    """Called by the pipeline after each step."""
    print("step", flush=True)
    return {}


def draw(pipe: Any, request: dict[str, Any], **more: Any) -> Any:
    """One picture, as PIL.Image."""
    import torch

    return pipe(
        request["prompt"],
        num_inference_steps=request["steps"],
        guidance_scale=request["guidance_scale"],
        width=request["width"],
        height=request["height"],
        generator=torch.Generator("cpu").manual_seed(request["seed"]),
        **more,
    ).images[0]


def serve() -> None:
    """Answer each request with its seconds, the PNG encoder's, and the pixels."""
    import torch

    from foxden_agent.engine.diffusers_engine import encode_png
    from foxden_proto.v1.generation_pb2 import ImageRequest

    pipe = load()
    print(json.dumps({"threads": torch.get_num_threads()}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        start = time.perf_counter()
        image = draw(pipe, request)
        drawn = time.perf_counter()
        encode_png(image, ImageRequest(**request, sampler="DPM++ 2M"), "bench")
        encoded = time.perf_counter()
        pixels = base64.b64encode(image.convert("RGB").tobytes()).decode()
        answer = {"seconds": drawn - start, "png_seconds": encoded - drawn, "pixels": pixels}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    os.environ.update(_ENVIRONMENT)
    if hasattr(os, "nice"):
        os.nice(10)
    if sys.argv[1] == "once":
        draw(load(), DEMO).save(Path(sys.argv[2]))
    elif sys.argv[1] == "first":
        draw(load(), DEMO, callback_on_step_end=say_step)
    else:
        serve()
