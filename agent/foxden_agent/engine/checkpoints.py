"""A checkpoint: all that is needed to go on with one image after a model call, as bytes.

The bytes are safetensors, never a pickle. Tensors: `latents` (1, ...) of this image, `generator`
(its state), and the scheduler's (`state.NAME`, `state.NAME.0` in a list), cut to this image where
they carry the batch axis. The metadata's one entry, "foxden", is JSON: the format, what the
checkpoint belongs to, how many model calls are behind it, and the scheduler's numbers and lists.

No prompt is in it, only a salted digest of the request. (Whoever holds a checkpoint could test a
guess against that; but whoever holds one can look at the half-finished picture, too.)

Checkpoints come from other machines, so reading is strict: bounded bytes, header and number of
tensors, nothing allocated but what has arrived, and everything wrong is a BadCheckpoint, after
which the image is drawn from the beginning.

The order of the numbers in memory is part of it: image to image computes with channels last, and
convolutions round differently then.

What is promised: the same picture to the byte for equal batch size, threads, placement and
versions; else within 2/255 in the mean. Placement and batch size are noted, not required.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import safetensors.torch
import torch

from foxden_agent.engine.errors import BadCheckpoint
from foxden_agent.engine.scheduler_state import NotAState, Value, mapped, tensors_in
from foxden_proto import limits
from foxden_proto.v1.generation_pb2 import ImageRequest

FORMAT = 1
_HEADER_BYTES = 64 * limits.KIB
_MOST_TENSORS = 64
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class Identity:
    """What a checkpoint belongs to: nothing else may go on from it."""

    diffusers: str  # version: the scheduler's state is its own affair
    pipeline: str  # class
    scheduler: str  # class
    model: str  # sha256 of the weights
    sampler: str
    schedule: str
    steps: int
    guidance_scale: float
    width: int  # pixels
    height: int
    seed: int


@dataclass(frozen=True)
class Snapshot:
    """A whole batch after `calls` model calls; tensors are the holder's own, on the CPU."""

    calls: int
    latents: torch.Tensor  # (batch, ...)
    generators: Sequence[torch.Tensor]  # each image's, as Generator.get_state has it
    state: Mapping[str, Value]  # of the scheduler; tensors of the latents' shape are per image

    def of_image(self, index: int) -> Snapshot:
        """This image alone, a batch of 1. The tensors are views."""
        shape = self.latents.shape

        def cut(tensor: torch.Tensor) -> torch.Tensor:
            return tensor[index : index + 1] if tensor.shape == shape else tensor

        return Snapshot(
            self.calls,
            cut(self.latents),
            [self.generators[index]],
            {name: mapped(value, cut) for name, value in self.state.items()},
        )


def write(snapshot: Snapshot, identity: Identity, request: ImageRequest, drawn_with: str) -> bytes:
    """The checkpoint of a snapshot of one image. `drawn_with` notes placement, threads, versions.

    Raises NotAState where it would be larger than limits.CHECKPOINT_BYTES.
    """
    tensors = {"generator": snapshot.generators[0]}

    def named(name: str, value: Value) -> Any:
        if isinstance(value, torch.Tensor):
            # A copy: one tensor may stand twice in a list, which safetensors refuses.
            tensors[name] = value.clone(memory_format=torch.contiguous_format)
            return {"tensor": name, "channels_last": _channels_last(value)}
        if isinstance(value, list):
            return [named(f"{name}.{i}", item) for i, item in enumerate(value)]
        return value

    salt = secrets.token_bytes(16)
    about = {
        "format": FORMAT,
        "identity": asdict(identity),
        "salt": salt.hex(),
        "request": _digest(request, salt),
        "calls": snapshot.calls,
        "latents": named("latents", snapshot.latents),
        "state": {name: named(f"state.{name}", value) for name, value in snapshot.state.items()},
        "drawn_with": drawn_with,
    }
    metadata = {"foxden": json.dumps(about, allow_nan=False)}
    data: bytes = safetensors.torch.save(tensors, metadata)
    if len(data) > limits.CHECKPOINT_BYTES:
        raise NotAState(f"a checkpoint of {len(data)} bytes is too large")
    return data


def read(data: bytes, identity: Identity, request: ImageRequest) -> Snapshot:
    """The snapshot of one image, made for the same identity and request. Raises BadCheckpoint."""
    try:
        about = _about(data)
        _require_same(about, identity, request)
        tensors = safetensors.torch.load(data)
        return _snapshot(about, tensors)
    except BadCheckpoint:
        raise
    # Bytes from elsewhere: whatever is wrong with them, it is no reason to fail the image.
    except Exception as error:
        raise BadCheckpoint(f"it can't be read ({type(error).__name__})") from error


def join(snapshots: Sequence[Snapshot]) -> Snapshot:
    """One batch of snapshots of one image each, in their order. Raises BadCheckpoint."""
    first = snapshots[0]
    for other in snapshots[1:]:
        if other.calls != first.calls:
            raise BadCheckpoint(f"those of one batch are of steps {first.calls} and {other.calls}")
        if other.latents.shape != first.latents.shape or other.latents.dtype != first.latents.dtype:
            raise BadCheckpoint("those of one batch have different shapes")
        if other.state.keys() != first.state.keys():
            raise BadCheckpoint("those of one batch are in different states")
    return Snapshot(
        first.calls,
        torch.cat([one.latents for one in snapshots]),
        [one.generators[0] for one in snapshots],
        {
            name: _joined([one.state[name] for one in snapshots], first.latents.shape)
            for name in first.state
        },
    )


def _joined(values: list[Value], image_shape: torch.Size) -> Value:
    """The batch's value: tensors of an image's shape are joined, all else must be the same."""
    first = values[0]
    if isinstance(first, torch.Tensor):
        tensors = [v for v in values if isinstance(v, torch.Tensor)]
        if len(tensors) == len(values):
            if all(t.shape == image_shape and t.dtype == first.dtype for t in tensors):
                return torch.cat(tensors)
            if all(torch.equal(t, first) for t in tensors):
                return first
    elif isinstance(first, list):
        lists = [v for v in values if isinstance(v, list) and len(v) == len(first)]
        if len(lists) == len(values):
            return [_joined(list(items), image_shape) for items in zip(*lists, strict=True)]
    elif not any(isinstance(v, (torch.Tensor, list)) for v in values) and all(
        type(v) is type(first) and v == first for v in values
    ):
        return first
    raise BadCheckpoint("those of one batch are in different states")


def _about(data: bytes) -> dict[str, Any]:
    """The metadata, from a header that is looked at before anything else is."""
    if not 8 < len(data) <= limits.CHECKPOINT_BYTES:
        raise BadCheckpoint(f"{len(data)} bytes are too few or too many")
    length = int.from_bytes(data[:8], "little")
    if length > min(_HEADER_BYTES, len(data) - 8):
        raise BadCheckpoint("its header is too long")
    header = json.loads(data[8 : 8 + length])
    if len(header) > _MOST_TENSORS:
        raise BadCheckpoint(f"it has more than {_MOST_TENSORS - 1} tensors")
    about = json.loads(header["__metadata__"]["foxden"])
    if not isinstance(about, dict):
        raise BadCheckpoint("it does not say what it is")
    return about


def _require_same(about: dict[str, Any], identity: Identity, request: ImageRequest) -> None:
    if about["format"] != FORMAT:
        raise BadCheckpoint(f"its format is {about['format']!r:.40}, and this engine's is {FORMAT}")
    for field in fields(Identity):
        theirs, ours = about["identity"][field.name], getattr(identity, field.name)
        if theirs != ours:
            raise BadCheckpoint(f"its {field.name} is {theirs!r:.80}, and this one's {ours!r}")
    if about["request"] != _digest(request, bytes.fromhex(about["salt"])):
        raise BadCheckpoint("it was made for another request")


def _snapshot(about: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Snapshot:

    def value(stored: Any) -> Any:
        if isinstance(stored, dict):
            tensor = tensors.pop(stored["tensor"])
            last = stored["channels_last"] is True and tensor.ndim == 4
            return tensor.contiguous(memory_format=torch.channels_last) if last else tensor
        if isinstance(stored, list):
            return [value(item) for item in stored]
        return stored  # JSON has nothing else

    latents, generator, calls = value(about["latents"]), tensors.pop("generator"), about["calls"]
    if type(calls) is not int or calls < 1:
        raise BadCheckpoint(f"{calls!r:.40} is no number of model calls")
    if latents.ndim < 2 or latents.shape[0] != 1 or latents.dtype not in _FLOATS:
        raise BadCheckpoint(
            f"latents of {latents.dtype} {tuple(latents.shape)} are not one image's"
        )
    if generator.dtype != torch.uint8 or generator.shape != torch.Generator().get_state().shape:
        raise BadCheckpoint("its generator's state is none of this version of torch")

    state = {name: value(stored) for name, stored in about["state"].items()}
    if tensors:
        raise BadCheckpoint(f"it has tensors that nothing refers to: {min(tensors)!r:.40}")
    for tensor in (latents, *(t for v in state.values() for t in tensors_in(v))):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise BadCheckpoint("some of its numbers are infinite or none (NaN)")
    return Snapshot(calls, latents, [generator], state)


def _channels_last(tensor: torch.Tensor) -> bool:
    return (
        tensor.ndim == 4
        and not tensor.is_contiguous()
        and tensor.is_contiguous(memory_format=torch.channels_last)
    )


def _digest(request: ImageRequest, salt: bytes) -> str:
    message = request.SerializeToString(deterministic=True)
    return hashlib.blake2b(message, key=salt, digest_size=16).hexdigest()
