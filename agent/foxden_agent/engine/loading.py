"""Reads a model from disk into a diffusers pipeline: no network, no pickles, no code of its own."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from foxden_agent.engine import placing
from foxden_agent.engine.errors import BadModel
from foxden_agent.engine.fast_loading import FileChanged, MappedNetwork, Unreadable, map_network
from foxden_proto.v1.engine_pb2 import Placement

# A component library that isn't one of these is a Python file in the model's folder.
_LIBRARIES = frozenset({"diffusers", "transformers", "stable_diffusion", None})


@dataclass
class Opened:
    """A pipeline that lies in RAM: over its files where that is possible."""

    name: str
    pipe: Any
    networks: dict[str, MappedNetwork]  # by part; those that are not here were read by diffusers
    dtype: torch.dtype  # that diffusers read them in

    @property
    def bytes(self) -> int:
        """Of its weights, as they lie now."""
        return sum(t.numel() * t.element_size() for t in self._tensors())

    def bytes_in(self, dtype: torch.dtype) -> int:
        """What its weights take in this precision."""
        return int(sum(t.numel() for t in self._tensors()) * dtype.itemsize)

    def check(self) -> None:
        """Raises FileChanged."""
        for network in self.networks.values():
            network.files.check()

    def can_lie(self, placement: Placement, device: torch.device) -> bool:
        """Whether it need not be read anew for this: offloading begins with what its library read,
        and what that read has one precision for ever."""
        if placement.offload:
            return not self.networks and self.dtype == placing.torch_dtype(placement, device)
        mapped = all(part in self.networks for part, _ in self._modules())
        return mapped or self.dtype == placing.torch_dtype(placement, device)

    def lay_out(self, placement: Placement, device: torch.device) -> None:
        """Bring it where `placement` says; `device` is the engine's.

        Raises FileChanged, BadModel where no model can lie like that, and torch's errors; after
        those it lies in RAM as before, or half offloaded: then forget it.
        """
        if not placement.offload:
            self.to(placing.device_of(placement, device), placing.torch_dtype(placement, device))
            return
        try:
            placing.place(self.pipe, placement, device, self.bytes)
        except ValueError as error:
            raise BadModel(self.name, str(error)) from error

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Bring everything onto the device. Raises FileChanged and torch's errors; after those it
        lies in RAM as before."""
        try:
            for part, module in self._modules():
                if part in self.networks:
                    self.networks[part].to(device, dtype)
                else:
                    module.to(device)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Take it off the device; it stays in RAM."""
        for part, module in self._modules():
            if part in self.networks:
                self.networks[part].release()
            else:
                module.to("cpu")

    def _tensors(self) -> Iterator[torch.Tensor]:
        for _, module in self._modules():
            yield from module.parameters()
            yield from module.buffers()

    def _modules(self) -> list[tuple[str, torch.nn.Module]]:
        parts = self.pipe.components.items()
        return [(name, part) for name, part in parts if isinstance(part, torch.nn.Module)]


def open_pipeline(
    name: str,
    path: Path,
    dtype: torch.dtype,
    *,
    mapped: bool = True,
    mapped_alone: bool = False,
) -> Opened | None:
    """The model's pipeline in RAM.

    `path` is a diffusers folder, or a .safetensors file with its configuration (a diffusers folder
    without weights) beside it as NAME.config. What cannot be laid over its files diffusers reads,
    in `dtype`, and everything without `mapped`; with `mapped_alone` the answer is None then: its
    loaders change torch.nn for the whole process, which no thread may do beside one that draws.
    Raises BadModel, naming the model and what is wrong; torch.OutOfMemoryError passes through.
    """
    single = path.suffix == ".safetensors"
    folder = path.with_suffix(".config") if single else path
    pipeline_class = _pipeline_class(name, folder)
    options: dict[str, Any] = {"dtype": dtype, "local_files_only": True}
    for option, value in (("safety_checker", None), ("requires_safety_checker", False)):
        if option in inspect.signature(pipeline_class.__init__).parameters:
            options[option] = value
    try:
        networks = _networks(folder, options) if mapped and not single else {}
        if mapped_alone and (single or networks.keys() != _parts(folder, options).keys()):
            return None
        if single:
            pipe = pipeline_class.from_single_file(str(path), config=str(folder), **options)
        else:
            parts = {part: network.module for part, network in networks.items()}
            pipe = pipeline_class.from_pretrained(
                str(path), use_safetensors=True, **options, **parts
            )
        pipe.set_progress_bar_config(disable=True)
    except torch.OutOfMemoryError:
        raise
    # Broken files surface as almost anything: OSError, ValueError, KeyError, RuntimeError,
    # SafetensorError, JSONDecodeError. Whatever it is, this model can't be loaded here.
    except Exception as error:
        raise BadModel(name, _first_line(error)) from error
    _check_call(name, pipe)
    if getattr(pipe, "vae", None) is not None and hasattr(pipe.vae, "enable_slicing"):
        pipe.vae.enable_slicing()  # pictures are decoded one by one: a batch peaks like one
    return Opened(name, pipe, networks, dtype)


def _networks(folder: Path, options: dict[str, Any]) -> dict[str, MappedNetwork]:
    found = {}
    for part, kind in _parts(folder, options).items():
        network = map_network(kind, folder / part)
        if network is not None:
            found[part] = network
    return found


def _parts(folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    """The classes of the networks among a pipeline's parts, by name."""
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    libraries = {"diffusers": diffusers, "transformers": transformers}
    found = {}
    for part, value in index.items():
        if part in options or not isinstance(value, list) or len(value) != 2:
            continue
        kind = getattr(libraries.get(value[0]), value[1] or "", None)
        if inspect.isclass(kind) and issubclass(kind, torch.nn.Module):
            found[part] = kind
    return found


def _pipeline_class(name: str, folder: Path) -> Any:
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        class_name = index["_class_name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadModel(name, f"{folder.name}/model_index.json can't be read: {error}") from error
    found = getattr(diffusers, class_name, None) if isinstance(class_name, str) else None
    if not (inspect.isclass(found) and issubclass(found, diffusers.DiffusionPipeline)):
        raise BadModel(name, f"{class_name!r} is no pipeline of diffusers {diffusers.__version__}")
    for part, value in index.items():
        if isinstance(value, list) and value and value[0] not in _LIBRARIES:
            raise BadModel(name, f"its part {part!r} brings its own code ({value[0]}), never run")
    return found


def _check_call(name: str, pipe: Any) -> None:
    """Refuse pipelines that don't draw from text alone, or can't be followed step by step."""
    parameters = inspect.signature(pipe.__call__).parameters
    needed = ("prompt", "callback_on_step_end", "num_inference_steps", "generator")
    if any(name not in parameters for name in needed) or "image" in parameters:
        raise BadModel(name, f"a {type(pipe).__name__} doesn't draw from text alone")


def _first_line(error: Exception) -> str:
    if isinstance(error, FileChanged | Unreadable):  # whole sentences of ours
        return str(error)
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
