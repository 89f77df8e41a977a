"""A model's parts and their sizes, read from the headers of its safetensors files alone.

A header is the first few hundred KB of a file: eight bytes of length, then JSON with each tensor's
name, type and shape (github.com/huggingface/safetensors, "Format"). No weights are read.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from foxden_agent.placement.facts import ModelFacts, Part, Role

_LONGEST_HEADER = 100_000_000  # bytes; what the format allows
_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2}  # else 1
# What diffusers reads where no variant is asked for; "model.fp16.safetensors" lies beside it.
_PLAIN = re.compile(r"(model|diffusion_pytorch_model)(-\d{5}-of-\d{5})?\.safetensors")
_ROLES: dict[str, Role] = {"unet": "denoiser", "transformer": "denoiser", "vae": "vae"}
# Beginnings of tensors' names in single files, as the field's training programs write them.
_PREFIXES: tuple[tuple[str, Role, str], ...] = (
    ("first_stage_model.", "vae", "vae"),
    ("vae.", "vae", "vae"),
    ("cond_stage_model.", "text", "text_encoder"),
    ("conditioner.embedders.0.", "text", "text_encoder"),
    ("conditioner.embedders.1.", "text", "text_encoder_2"),
    ("text_encoders.clip_l.", "text", "text_encoder"),
    ("text_encoders.clip_g.", "text", "text_encoder_2"),
    ("text_encoders.", "text", "text_encoder_3"),
)
_FULL_VAE, _FULL_UNET = 128, 320  # widths of the first layer


class Unreadable(Exception):
    """The sizes can't be told; the text says of what and why."""


Tensor = tuple[str, str, int]  # name, type, numbers


def read_model(path: Path, family: str) -> ModelFacts:
    """The facts of a diffusers folder, or of a .safetensors file with NAME.config beside it.

    Raises Unreadable.
    """
    single = path.is_file()
    config = path.with_suffix(".config") if single else path
    parts = _of_file(path) if single else _of_folder(path)
    if not any(part.role == "denoiser" for part in parts):
        raise Unreadable(f"{path.name} holds neither a unet nor a transformer")
    vae, unet = _config(config / "vae"), _config(config / "unet")
    return ModelFacts(
        family,
        parts,
        vae_upcast=family == "sdxl" and bool(vae.get("force_upcast", True)),
        vae_scale=_width(vae) / _FULL_VAE if _width(vae) else 1.0,
        denoiser_scale=_width(unet) / _FULL_UNET if _width(unet) else 1.0,
    )


def _of_folder(path: Path) -> tuple[Part, ...]:
    parts = []
    for folder in sorted(path.iterdir()):
        if not folder.is_dir():
            continue
        role: Role | None = _ROLES.get(folder.name)
        if folder.name.startswith("text_encoder"):
            role = "text"
        if role is None:  # tokenizers; a safety checker is never loaded
            continue
        files = sorted(folder.glob("*.safetensors"))
        plain = [file for file in files if _PLAIN.fullmatch(file.name)] or files
        tensors = [tensor for file in plain for tensor in _tensors(file)]
        if tensors:
            parts.append(_part(role, folder.name, tensors))
    return tuple(parts)


def _of_file(path: Path) -> tuple[Part, ...]:
    found: dict[tuple[Role, str], list[Tensor]] = {}
    for tensor in _tensors(path):
        found.setdefault(_place_of(tensor[0]), []).append(tensor)
    return tuple(_part(role, name, tensors) for (role, name), tensors in found.items())


def _place_of(tensor: str) -> tuple[Role, str]:
    for prefix, role, name in _PREFIXES:
        if tensor.startswith(prefix):
            return role, name
    return "denoiser", "denoiser"


def _part(role: Role, name: str, tensors: Iterable[Tensor]) -> Part:
    tensors = list(tensors)
    return Part(
        role,
        name,
        numbers=sum(numbers for _, _, numbers in tensors),
        largest=max(numbers for _, _, numbers in tensors),
        file_bytes=sum(numbers * _BYTES.get(kind, 1) for _, kind, numbers in tensors),
        # transformers' T5 has _keep_in_fp32_modules = ["wo"]: its range is too small in float16.
        keeps_float32=sum(n for of, _, n in tensors if ".DenseReluDense.wo." in of),
    )


def _tensors(file: Path) -> Iterator[Tensor]:
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > _LONGEST_HEADER:
                raise Unreadable(f"{file.name} is no safetensors file")
            header = json.loads(stream.read(length))
        for name, about in header.items():
            if name != "__metadata__":
                yield name, str(about["dtype"]), math.prod(map(int, about["shape"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise Unreadable(f"the header of {file.name} can't be read: {error}") from error


def _config(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _width(config: dict[str, Any]) -> float:
    widths = config.get("block_out_channels")
    first = widths[0] if isinstance(widths, list) and widths else 0
    return float(first) if isinstance(first, int | float) else 0.0
