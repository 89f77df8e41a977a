"""Does to a pipeline what the agent decided (foxden_agent/placement): data type, offloading, tiles.

What needs CUDA is one call of diffusers each. Nothing is decided here but how an offload waits
in RAM, and what an empty Placement stands for: everything on the device, float32 on a CPU and
float16 elsewhere.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from diffusers.models.attention_processor import (
    Attention,
    SlicedAttnAddedKVProcessor,
    SlicedAttnProcessor,
)

from foxden_proto.v1.engine_pb2 import Placement

# Tiles of 512 x 512 pixels, whatever the VAE was trained at: SDXL's own 1024 would make a picture
# of its usual size one single tile. foxden_agent/placement/estimates.py reckons with the same.
TILE = 512
_SLICED = (SlicedAttnProcessor, SlicedAttnAddedKVProcessor)
_OFFLOADS = ("", "model", "group", "sequential")
# A driver that puts VRAM into RAM says that the card is full to the last while torch has more.
_SPILL_TOLERANCE = 256 * 1024**2


def torch_dtype(placement: Placement, device: torch.device) -> torch.dtype:
    """Raises ValueError for a data type that is none."""
    if not placement.dtype:
        return torch.float32 if device_of(placement, device).type == "cpu" else torch.float16
    found = getattr(torch, placement.dtype, None)
    if found not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(f"{placement.dtype!r} is no data type to draw with")
    return found


def device_of(placement: Placement, device: torch.device) -> torch.device:
    """Where this is computed; `device` is the engine's."""
    return torch.device("cpu") if placement.cpu else device


def needs_reload(loaded: Placement, wanted: Placement) -> bool:
    """Whether the model has to be read again: hooks and data types are not undone, tiles are."""
    return (loaded.dtype, loaded.offload, loaded.cpu) != (wanted.dtype, wanted.offload, wanted.cpu)


def place(pipe: Any, placement: Placement, device: torch.device, weights: int) -> None:
    """Put a pipeline that was just read (it lies in RAM) where it is to be computed.

    `weights` are its bytes. Raises ValueError for an offload that is none, or on a CPU;
    torch.OutOfMemoryError passes.
    """
    device = device_of(placement, device)
    if placement.offload not in _OFFLOADS:
        raise ValueError(f"{placement.offload!r} is no way of offloading")
    if placement.offload and device.type != "cuda":
        raise ValueError(f"nothing can be offloaded from {device}: its memory is the RAM")
    match placement.offload:
        case "model":
            pipe.enable_model_cpu_offload(device=device)
        case "group":
            # The VAE stays: tiles run through its layers in another order than the first time,
            # which is what the prefetching goes by.
            pipe.enable_group_offload(
                onload_device=device,
                offload_type="leaf_level",
                use_stream=True,
                low_cpu_mem_usage=not may_pin(weights, psutil.virtual_memory().total),
                exclude_modules=["vae"],
            )
        case "sequential":
            pipe.enable_sequential_cpu_offload(device=device)
        case _:
            pipe.to(device)


def adjust(pipe: Any, placement: Placement) -> None:
    """What can be switched while a model is loaded: tiles and slices."""
    vae = getattr(pipe, "vae", None)
    if vae is not None and hasattr(vae, "enable_tiling"):
        if placement.vae_tiling:
            _tile(vae)
            vae.enable_tiling()
        else:
            vae.disable_tiling()
    for part in (getattr(pipe, "unet", None), getattr(pipe, "transformer", None)):
        if part is not None:
            _slice(part, on=placement.attention_slicing)


def limit_memory(placement: Placement, device: torch.device) -> None:
    """Hold torch to the placement's limit; beyond it there is an OutOfMemoryError and no spill."""
    if device.type != "cuda":
        return
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(fraction(placement.memory_limit, total), device)


def fraction(limit: int, total: int) -> float:
    """Of the card's memory; a limit of 0 is none.

    >>> fraction(0, 8 << 30), fraction(2 << 30, 8 << 30), fraction(9 << 30, 8 << 30)
    (1.0, 0.25, 1.0)
    """
    return min(1.0, limit / total) if limit > 0 else 1.0


def compute_capability(device: torch.device) -> str:
    """Of an NVIDIA card, such as "8.9"; empty elsewhere (AMD's cards are "cuda" to torch, too)."""
    if device.type != "cuda" or torch.version.hip:
        return ""
    major, minor = torch.cuda.get_device_capability(device)
    return f"{major}.{minor}"


def uuid_of(properties: Any) -> str:
    """Of a CUDA device's properties; empty where torch or the driver tells none.

    torch names it since 2.5; drivers of before 2011 and some virtual cards say zeros.
    """
    uuid = str(getattr(properties, "uuid", ""))
    return uuid if uuid.strip("0-") else ""


def pci_bus_id_of(properties: Any) -> str:
    """Likewise, as NVIDIA's driver writes it: "00000000:01:00.0"."""
    names = ("pci_domain_id", "pci_bus_id", "pci_device_id")
    numbers = [getattr(properties, name, None) for name in names]
    if any(number is None for number in numbers):
        return ""
    domain, bus, device = numbers
    return f"{domain:08x}:{bus:02x}:{device:02x}.0"


def describe(placement: Placement, device: torch.device, dtype: torch.dtype) -> str:
    """The layout in words, as it is recorded with a picture: "cuda:0 float16 tiled"."""
    device = device_of(placement, device)
    words = [str(device), str(dtype).removeprefix("torch.")]
    if device.type == "cpu":
        words.append(f"threads={torch.get_num_threads()}")
    words += ["tiled"] * placement.vae_tiling + ["sliced"] * placement.attention_slicing
    words += [f"offload={placement.offload}"] if placement.offload else []
    return " ".join(words)


@dataclass(frozen=True)
class Reading:
    """Bytes of a card at one moment."""

    free: int  # as the driver says
    reserved: int  # by torch, in this process


def spilled(before: Reading, after: Reading) -> bool:
    """Whether the driver has put some of torch's memory into RAM between the two.

    Windows' driver does (since 536.40, nvidia.custhelp.com 5490) rather than refuse: torch then
    reserved more than has gone from the card, and the card is full. Both must be true: other
    programs that end meanwhile give memory back, and then the card is not full.
    """
    gone = before.free - after.free
    grown = after.reserved - before.reserved
    return grown > gone + _SPILL_TOLERANCE and after.free < _SPILL_TOLERANCE


class MemoryWatch:
    """Measures one batch: make it before, ask it after. On a CPU it is the process's memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self._before = self._read()
        else:
            _reset_peak()

    def peak(self) -> int:
        """Bytes that tensors took at most. What torch keeps to itself beside that it gives up
        before it fails, so it is not counted."""
        if self._device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self._device))
        return _peak_of_process()

    def used(self) -> int:
        """Bytes that are held now."""
        if self._device.type == "cuda":
            return int(torch.cuda.memory_reserved(self._device))
        return int(psutil.Process().memory_info().rss)

    def spilled(self) -> bool:
        return self._device.type == "cuda" and spilled(self._before, self._read())

    def _read(self) -> Reading:
        free, _ = torch.cuda.mem_get_info(self._device)
        return Reading(free, torch.cuda.memory_reserved(self._device))


def may_pin(weights: int, ram: int) -> bool:
    """Pinned memory is copied beside the computing, but systems let half of the RAM be pinned, and
    what is pinned is nobody else's."""
    return 2 * weights <= ram


def _tile(vae: Any) -> None:
    """Tiles of TILE pixels, or of what the VAE was made for where that is smaller."""
    if not hasattr(vae, "tile_latent_min_size"):
        return
    scale = 2 ** (len(vae.config.block_out_channels) - 1)
    size = min(TILE, int(vae.tile_sample_min_size))
    vae.tile_sample_min_size, vae.tile_latent_min_size = size, size // scale


def _slice(part: torch.nn.Module, *, on: bool) -> None:
    """Attention in two halves of its heads, or torch's own again. Not by the pipeline's own
    method: that makes slices of no heads where a layer has a single one, and fails in the step."""
    for layer in part.modules():
        if not isinstance(layer, Attention):
            continue
        sliced = isinstance(layer.processor, _SLICED)
        if on != sliced:
            layer.set_attention_slice(max(1, layer.sliceable_head_dim // 2) if on else None)


def _reset_peak() -> None:
    """Linux forgets the process's highest memory so far; elsewhere it is of its whole life."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak_of_process() -> int:
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    memory = psutil.Process().memory_info()
    return int(getattr(memory, "peak_wset", memory.rss))  # Windows tells its highest
