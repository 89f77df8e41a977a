"""Reads a model from disk into a diffusers pipeline: no network, no pickles, no code of its own."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import diffusers
import torch

from foxden_agent.engine import placing
from foxden_agent.engine.errors import BadModel
from foxden_proto.v1.engine_pb2 import Placement

# A component library that isn't one of these is a Python file in the model's folder.
_LIBRARIES = frozenset({"diffusers", "transformers", "stable_diffusion", None})


def load_pipeline(
    name: str, path: Path, device: torch.device, placement: Placement | None = None
) -> Any:
    """The model's pipeline, laid out on `device` as `placement` says (placing.py).

    `path` is a diffusers folder, or a .safetensors file with its configuration (a diffusers folder
    without weights) beside it as NAME.config. Raises BadModel, naming the model and what is wrong;
    torch.OutOfMemoryError passes through.
    """
    single = path.suffix == ".safetensors"
    folder = path.with_suffix(".config") if single else path
    pipeline_class = _pipeline_class(name, folder)
    placement = placement or Placement()
    options: dict[str, Any] = {
        "dtype": placing.torch_dtype(placement, device),
        "local_files_only": True,
    }
    for option, value in (("safety_checker", None), ("requires_safety_checker", False)):
        if option in inspect.signature(pipeline_class.__init__).parameters:
            options[option] = value
    try:
        if single:
            pipe = pipeline_class.from_single_file(str(path), config=str(folder), **options)
        else:
            pipe = pipeline_class.from_pretrained(str(path), use_safetensors=True, **options)
        pipe.set_progress_bar_config(disable=True)
        placing.place(pipe, placement, device, weights_bytes(pipe))
    except torch.OutOfMemoryError:
        raise
    # Broken files surface as almost anything: OSError, ValueError, KeyError, RuntimeError,
    # SafetensorError, JSONDecodeError. Whatever it is, this model can't be loaded here.
    except Exception as error:
        raise BadModel(name, _first_line(error)) from error
    _check_call(name, pipe)
    if getattr(pipe, "vae", None) is not None and hasattr(pipe.vae, "enable_slicing"):
        pipe.vae.enable_slicing()  # pictures are decoded one by one: a batch peaks like one
    return pipe


def weights_bytes(pipe: Any) -> int:
    """Bytes of all parameters and buffers of the pipeline's parts."""
    modules = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    tensors = [t for m in modules for t in (*m.parameters(), *m.buffers())]
    return sum(t.numel() * t.element_size() for t in tensors)


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
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
