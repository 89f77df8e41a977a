"""What a model is good for: its family and the defaults it draws with.

They come from `foxden.json` in the model's folder (NAME.foxden.json beside a single file), and
what isn't there from the family, which the model's own configuration tells.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from foxden_proto import limits
from foxden_proto.samplers import UnknownName, resolve

log = logging.getLogger(__name__)

FACTS_FILE = "foxden.json"


class Unusable(Exception):
    """Something in the model folder that can't be used; the text says why and what to do."""


@dataclass(frozen=True)
class Facts:
    """Sizes in pixels; name, licence and description may be empty."""

    family: str
    name: str = ""
    licence: str = ""
    description: str = ""
    default_width: int = 512
    default_height: int = 512
    default_steps: int = 25
    default_guidance_scale: float = 7.0
    default_sampler: str = "DPM++ 2M"
    default_schedule: str = "automatic"
    multiple_of: int = 8
    min_size: int = 64
    max_size: int = 2048


_FAMILIES: Mapping[str, Facts] = {
    "sd1": Facts("sd1"),
    "sd2": Facts("sd2", default_width=768, default_height=768),
    "sdxl": Facts("sdxl", default_width=1024, default_height=1024, default_guidance_scale=6.0),
    "sd3": Facts(
        "sd3",
        default_width=1024,
        default_height=1024,
        default_steps=28,
        default_guidance_scale=4.5,
        default_sampler="Euler",
        multiple_of=16,
    ),
    "flux": Facts(
        "flux",
        default_width=1024,
        default_height=1024,
        default_steps=28,
        default_guidance_scale=3.5,
        default_sampler="Euler",
        multiple_of=16,
    ),
}
_PIPELINES = {
    "StableDiffusionPipeline": "sd1",  # or sd2, by its text encoder
    "StableDiffusionXLPipeline": "sdxl",
    "StableDiffusion3Pipeline": "sd3",
    "FluxPipeline": "flux",
}
_SD2_TEXT_WIDTH = 1024  # OpenCLIP ViT-H; sd1's ViT-L has 768

_RANGES: Mapping[str, tuple[float, float]] = {
    "default_width": limits.SIDE_PIXELS,
    "default_height": limits.SIDE_PIXELS,
    "default_steps": limits.STEPS,
    "default_guidance_scale": limits.GUIDANCE_SCALE,
    "multiple_of": (limits.SIDE_MULTIPLE, limits.SIDE_PIXELS[1]),
    "min_size": limits.SIDE_PIXELS,
    "max_size": limits.SIDE_PIXELS,
}


def read_index(folder: Path) -> dict[str, Any]:
    """The folder's model_index.json. Raises Unusable."""
    index = _read_object(folder / "model_index.json")
    if not isinstance(index.get("_class_name"), str):
        raise Unusable("model_index.json names no pipeline of diffusers; own code never runs")
    return index


def read_facts(file: Path, index: Mapping[str, Any], folder: Path) -> Facts:
    """The model's facts; `folder` holds its configuration. Raises Unusable for an unknown kind.

    What `file` says wins; a value that can't be is replaced by the family's, with a warning.
    """
    pipeline = known_pipeline(index)
    given: dict[str, Any] = {}
    if file.is_file():
        try:
            given = _read_object(file)
        except Unusable as error:
            log.warning("%s is ignored: %s", file, error)
    family = given.get("family")
    if not isinstance(family, str) or family not in _FAMILIES:
        family = _family(pipeline, folder)
    facts = _FAMILIES[family]
    for field in fields(Facts):
        if field.name in given and field.name != "family":
            try:
                facts = replace(facts, **{field.name: _checked(field.name, given[field.name])})
            except ValueError as error:
                log.warning("%s: %s is ignored: %s", file, field.name, error)
    return facts


def known_pipeline(index: Mapping[str, Any]) -> str:
    """The pipeline that a model_index.json names. Raises Unusable where the engine knows none."""
    pipeline = index.get("_class_name")
    if pipeline not in _PIPELINES:
        known = ", ".join(sorted(_PIPELINES))
        raise Unusable(f"a {pipeline} can't be drawn with by this version; it knows {known}")
    return str(pipeline)


def _family(pipeline: str, folder: Path) -> str:
    family = _PIPELINES[pipeline]
    if family != "sd1":
        return family
    try:
        encoder = _read_object(folder / "text_encoder" / "config.json")
    except Unusable:
        return family
    return "sd2" if encoder.get("hidden_size") == _SD2_TEXT_WIDTH else "sd1"


def _checked(name: str, value: Any) -> Any:
    """The value, if it may be that; raises ValueError saying what is wrong."""
    if name == "default_sampler":
        try:
            return resolve(str(value), "")[0]
        except UnknownName as error:
            raise ValueError(str(error)) from None
    if name == "default_schedule":
        try:
            return resolve("", str(value))[1]
        except UnknownName as error:
            raise ValueError(str(error)) from None
    if name not in _RANGES:
        if not isinstance(value, str):
            raise ValueError("it must be a text")
        return value
    low, high = _RANGES[name]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not low <= value <= high:
        raise ValueError(f"it must be a number from {low} to {high}, not {value!r}")
    if name == "default_guidance_scale":
        return float(value)
    if value != int(value):
        raise ValueError(f"it must be a whole number, not {value!r}")
    if name in ("default_width", "default_height", "multiple_of") and value % limits.SIDE_MULTIPLE:
        raise ValueError(f"it must be a multiple of {limits.SIDE_MULTIPLE}, not {value!r}")
    return int(value)


def _read_object(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Unusable(f"{file.name} is missing") from None
    except (OSError, ValueError) as error:
        raise Unusable(f"{file.name} can't be read: {error}") from error
    if not isinstance(content, dict):
        raise Unusable(f"{file.name} holds no JSON object")
    return content
