"""The text that the field's tools write into a PNG and read back: A1111's "infotext". Pure.

Format: `create_infotext` in A1111's modules/processing.py; parser in modules/infotext_utils.py.
"""

from __future__ import annotations

import json

from foxden_agent.engine.samplers import effective_schedule
from foxden_proto.v1.generation_pb2 import ImageRequest

_LABELS = {"sgm_uniform": "SGM Uniform"}


def infotext(request: ImageRequest, *, width: int, height: int, version: str) -> str:
    """The prompt, the negative prompt where there is one, and one line of parameters.

    The request is complete (steps, sampler, scale and seed are set); width and height are the
    picture's own, in pixels. The schedule named is the one "automatic" stood for.
    """
    schedule = effective_schedule(request.sampler, request.schedule or "automatic")
    parameters: dict[str, object] = {
        "Steps": request.steps,
        "Sampler": request.sampler,
        "Schedule type": _LABELS.get(schedule, schedule.capitalize()),
        "CFG scale": f"{request.guidance_scale:g}",
        "Seed": request.seed,
        "Size": f"{width}x{height}",
    }
    if request.model_sha256:
        parameters["Model hash"] = request.model_sha256[:10]
    if request.model:
        parameters["Model"] = request.model
    parameters["Version"] = f"foxden {version}"
    lines = [request.prompt]
    if request.negative_prompt:
        lines.append(f"Negative prompt: {request.negative_prompt}")
    lines.append(", ".join(f"{key}: {_quoted(value)}" for key, value in parameters.items()))
    return "\n".join(lines).strip()


def _quoted(value: object) -> str:
    # The parser splits the last line at commas and colons; A1111 protects values with JSON quotes.
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(c in text for c in ",:\n") else text
