"""Which files of a hub's repository make a model that the engine can draw with. Pure.

Never: pickles, code, single-file copies, anything that model_index.json doesn't name, and no name
that could lie outside its folder. What is kept has the plain name that the engine looks for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

INDEX = "model_index.json"
MOST_INDEX = 1024**2  # bytes
_MOST_CONFIG = 64 * 1024**2  # bytes of one configuration or tokenizer
_MOST_FILE = 50 * 1000**3  # more the hub doesn't serve over plain HTTP
_MOST_BYTES = 150 * 1000**3  # of a whole model
_MOST_FILES = 300
_LIBRARIES = ("diffusers", "transformers")
_NEVER_LOADED = ("safety_checker",)
# What the pipelines that the engine knows are made of. Nothing else becomes a folder.
_WEIGHTS = re.compile(r"unet|transformer|vae|image_encoder|text_encoder(_[23])?")
_SETTINGS = re.compile(r"scheduler|feature_extractor|tokenizer(_[23])?")
_CONFIG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}\.(json|txt|model)")
_PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".msgpack", ".h5")


class NotUsable(Exception):
    """A repository that isn't a model the engine could draw with; the text says why."""


@dataclass(frozen=True)
class HubFile:
    """A file as the hub's list has it."""

    path: str  # in the repository
    size: int = -1  # bytes; -1: the hub didn't say
    sha256: str = ""  # of a file in LFS
    blob: str = ""  # git's id of any other


@dataclass(frozen=True)
class Chosen:
    """A file to be fetched."""

    path: str  # in the repository
    name: str  # where it's kept, in the model's folder; with "/"
    size: int  # bytes
    sha256: str  # empty where `blob` is all there is to check it with
    blob: str


def choose(index: Mapping[str, Any], files: Iterable[HubFile]) -> tuple[Chosen, ...]:
    """The files of the model that `index`, its model_index.json, describes. Raises NotUsable.

    Of weights the fp16 variant is taken where there is one: half the bytes, and what cards draw in.
    """
    there = {file.path: file for file in files}
    if INDEX not in there:
        raise NotUsable(f"it has no {INDEX}: only models in diffusers' own layout can be fetched")
    chosen = [_checked(there[INDEX], INDEX, MOST_INDEX)]
    for part in _parts(index):
        inside = {
            path.removeprefix(f"{part}/"): file
            for path, file in there.items()
            if path.startswith(f"{part}/")
        }
        found = _configs(part, inside)
        if _WEIGHTS.fullmatch(part):
            found += _weights(part, index[part][0], inside)
        if not found:
            raise NotUsable(f"its part {part} has no files")
        chosen += found
    if len(chosen) > _MOST_FILES or sum(one.size for one in chosen) > _MOST_BYTES:
        raise NotUsable("it has more files or more bytes than any model that Foxden knows")
    return tuple(chosen)


def _parts(index: Mapping[str, Any]) -> list[str]:
    found = []
    for part, value in index.items():
        if not isinstance(value, list) or part in _NEVER_LOADED or value == [None, None]:
            continue
        if len(value) != 2 or value[0] not in _LIBRARIES:
            raise NotUsable(f"its part {part!r} brings code of its own, which never runs here")
        if not (_WEIGHTS.fullmatch(part) or _SETTINGS.fullmatch(part)):
            raise NotUsable(f"it has a part {part!r}, which the engine doesn't know")
        found.append(part)
    return sorted(found)


def _configs(part: str, inside: Mapping[str, HubFile]) -> list[Chosen]:
    return [
        _checked(file, f"{part}/{name}", _MOST_CONFIG)
        for name, file in sorted(inside.items())
        if _CONFIG.fullmatch(name) and ".index." not in name
    ]


def _weights(part: str, library: str, inside: Mapping[str, HubFile]) -> list[Chosen]:
    base = "model" if library == "transformers" else "diffusion_pytorch_model"
    plain, index = f"{base}.safetensors", f"{base}.safetensors.index.json"
    indexes = (f"{base}.safetensors.index.fp16.json", f"{base}.fp16.safetensors.index.json")
    for variant, single, lists in (
        (r"\.fp16", f"{base}.fp16.safetensors", indexes),
        ("", plain, (index,)),
    ):
        if single in inside:
            return [_checked(inside[single], f"{part}/{plain}", _MOST_FILE)]
        listed = next((name for name in lists if name in inside), None)
        # Two manners of naming: model.fp16-00001-of-00002 and model-00001-of-00002.fp16.
        shard = re.compile(
            rf"{base}{variant}-(\d{{5}})-of-(\d{{5}})\.safetensors|"
            rf"{base}-(\d{{5}})-of-(\d{{5}}){variant}\.safetensors"
        )
        shards = sorted(name for name in inside if shard.fullmatch(name))
        if listed and shards and _all_there(shards):
            return [
                _checked(inside[listed], f"{part}/{index}", _MOST_CONFIG),
                *(_checked(inside[name], f"{part}/{name}", _MOST_FILE) for name in shards),
            ]
    if any(name.endswith(_PICKLES) for name in inside):
        raise NotUsable(
            f"the weights of its part {part} are there as pickles alone, which can run code when "
            "they are read; only .safetensors is used"
        )
    raise NotUsable(f"the weights of its part {part} are not there as {plain}")


def _all_there(shards: list[str]) -> bool:
    numbers = [re.findall(r"\d{5}", name)[-2:] for name in shards]
    of = int(numbers[0][1])
    return [int(number) for number, _ in numbers] == list(range(1, of + 1))


def _checked(file: HubFile, name: str, most: int) -> Chosen:
    if not 0 <= file.size <= most:
        raise NotUsable(f"its file {file.path} is said to have {file.size} bytes")
    if not (re.fullmatch("[0-9a-f]{64}", file.sha256) or re.fullmatch("[0-9a-f]{40}", file.blob)):
        raise NotUsable(f"the hub tells no hash of its file {file.path}, so it can't be checked")
    return Chosen(file.path, name, file.size, file.sha256, file.blob)
