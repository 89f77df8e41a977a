"""The models of one engine: some on its card, others warm in RAM, each moved as the agent says.

The agent decides what goes (model_cache.py); it knows what comes next. Two things are done here,
where they happen: a load that runs out of memory puts out everything else and is tried once more,
and a card that is full without anybody having said what goes loses what was used longest ago.

A model whose parts are offloaded lies on the card alone: the hooks that bring its layers there are
not undone, and what they need changes from layer to layer. It is never kept when another comes.
"""

from __future__ import annotations

import gc
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import torch

from foxden_agent.engine import heap, placing
from foxden_agent.engine.errors import BadModel, OutOfMemory
from foxden_agent.engine.fast_loading import FileChanged, touch
from foxden_agent.engine.loading import Opened, open_pipeline
from foxden_proto.v1.engine_pb2 import ModelSource, Placement
from foxden_proto.v1.pool_pb2 import TIER_DISK, TIER_RAM, TIER_VRAM, Tier

Key = tuple[str, str]  # path and sha256

# Beside the weights something must be left for the first batch: the smallest need that
# ComfyUI reckons with (comfy/model_management.py, minimum inference memory).
_WORKING_BYTES = 800 * 1024 * 1024


@dataclass
class Warm:
    """A model in memory."""

    name: str
    opened: Opened
    tier: Tier.ValueType
    placement: Placement = field(default_factory=Placement)  # where `tier` is TIER_VRAM


@dataclass(frozen=True)
class Brought:
    """A model that is where it was wanted. `seconds` is 0 where it was there already."""

    warm: Warm
    came_from: Tier.ValueType
    seconds: float


class WarmModels:
    """What an engine has in memory. `guard(doing)` turns torch's errors into ours.

    Models are brought to the device, moved and drawn with on one thread. `prefetch` alone may be
    called beside it.
    """

    def __init__(
        self, device: torch.device, guard: Callable[[str], AbstractContextManager[None]]
    ) -> None:
        self._device = device
        self._guard = guard
        self._models: OrderedDict[Key, Warm] = OrderedDict()  # what was used longest ago first
        self._lock = threading.Lock()

    def bring(self, model: ModelSource, placement: Placement) -> Brought:
        """The model ready to be drawn with, laid out like this.

        One that lies otherwise is laid out anew, where that cannot be switched. Raises BadModel or
        OutOfMemory; it is in no tier afterwards, and after OutOfMemory nothing is.
        """
        key = (model.path, model.sha256)
        with self._lock:
            warm = self._models.get(key)
            if warm is not None and warm.tier == TIER_VRAM:
                if not placing.needs_reload(warm.placement, placement):
                    warm.placement = placement
                    self._models.move_to_end(key)
                    return Brought(warm, TIER_VRAM, 0.0)
                self._lower(key, TIER_RAM)
            started = time.perf_counter()
            came_from = TIER_RAM if key in self._models else TIER_DISK
            self._part_with(key, placement)
            try:
                warm = self._try(key, model, placement)
            except OutOfMemory:
                # Once more with all the memory there is. What torch has cached, pieces between
                # others' weights and a reading of free memory that was too good: all are gone then.
                self._clear()
                warm = self._try(key, model, placement)
                came_from = TIER_DISK
            return Brought(warm, came_from, time.perf_counter() - started)

    def prefetch(self, model: ModelSource) -> Brought | None:
        """Bring it into RAM, beside whatever the card does. None: only its files could be read,
        so that the system has them at hand. Raises BadModel."""
        key, path = (model.path, model.sha256), Path(model.path)
        started = time.perf_counter()
        with self._lock:
            if (warm := self._models.get(key)) is not None:
                return Brought(warm, warm.tier, 0.0)
            dtype = placing.torch_dtype(Placement(), self._device)
            opened = open_pipeline(model.name, path, dtype, mapped_alone=True)
            if opened is not None:
                warm = self._models[key] = Warm(model.name, opened, TIER_RAM)
        # Without the lock: a batch that needs another model must not wait for this one's bytes.
        try:
            _read_through(path, opened)
        except OSError as error:
            with self._lock:
                self._models.pop(key, None)
            raise BadModel(model.name, f"its files can't be read: {error}") from error
        return Brought(warm, TIER_DISK, time.perf_counter() - started) if warm else None

    def put_out(self, sha256s: Iterable[str], to: Tier.ValueType) -> None:
        """Put models out of the card, or out of memory altogether; unknown ones are ignored."""
        wanted = set(sha256s)
        with self._lock:
            for key in [key for key in self._models if key[1] in wanted]:
                self._lower(key, to)
            self._collect()

    def tiers(self) -> dict[str, Tier.ValueType]:
        """Where each model is, by sha256."""
        return {sha256: warm.tier for (_, sha256), warm in self._models.items()}

    def check(self, key: Key) -> None:
        """Raises BadModel, and forgets the model, where its files are not what they were."""
        warm = self._models[key]
        try:
            warm.opened.check()
        except FileChanged as error:
            del self._models[key]
            raise BadModel(warm.name, str(error)) from error

    # Inside; the lock is held

    def _try(self, key: Key, model: ModelSource, placement: Placement) -> Warm:
        warm = self._models.pop(key, None)  # until it is where it belongs
        if warm is not None and not warm.opened.can_lie(placement, self._device):
            warm = None
        device = placing.device_of(placement, self._device)
        dtype = placing.torch_dtype(placement, self._device)
        with self._guard(f"loading {model.name}"):
            if warm is None:
                mapped = not placement.offload
                opened = open_pipeline(model.name, Path(model.path), dtype, mapped=mapped)
                assert opened is not None
                warm = Warm(model.name, opened, TIER_RAM)
            if not placement.offload:
                self._make_room(warm.opened.bytes_in(dtype), device)
            try:
                warm.opened.lay_out(placement, self._device)
            except FileChanged as error:
                raise BadModel(model.name, str(error)) from error
        warm.tier, warm.placement = TIER_VRAM, placement
        self._models[key] = warm
        return warm

    def _part_with(self, key: Key, placement: Placement) -> None:
        """Put out what cannot stay beside a model that comes like this."""
        for other, warm in list(self._models.items()):
            offloaded = warm.tier == TIER_VRAM and warm.placement.offload
            if other != key and warm.tier == TIER_VRAM and (offloaded or placement.offload):
                self._lower(other, TIER_RAM)
        self._collect()

    def _make_room(self, needed: int, device: torch.device) -> None:
        while self._free(device) < needed + _WORKING_BYTES:
            on_device = [
                key
                for key, warm in self._models.items()
                if warm.tier == TIER_VRAM
                and placing.device_of(warm.placement, self._device) == device
            ]
            if not on_device:
                return  # it is tried all the same: free memory is an estimate
            self._lower(on_device[0], TIER_RAM)
            self._collect()

    def _lower(self, key: Key, to: Tier.ValueType) -> None:
        warm = self._models[key]
        if warm.tier == TIER_VRAM and to == TIER_RAM and warm.opened.networks:  # so not offloaded
            warm.opened.release()
            warm.tier = TIER_RAM
        elif to != TIER_RAM or warm.tier == TIER_VRAM:
            del self._models[key]

    def _clear(self) -> None:
        self._models.clear()
        self._collect()

    def _collect(self) -> None:
        gc.collect()  # a pipeline and its parts refer to one another
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _free(self, device: torch.device) -> int:
        if device.type == "cuda":
            return int(torch.cuda.mem_get_info(device)[0])
        return int(psutil.virtual_memory().available) + heap.spare()


def _read_through(path: Path, opened: Opened | None) -> None:
    """Let the system read the files: what is mapped afterwards comes out of memory."""
    if opened is not None:
        for network in opened.networks.values():
            network.files.touch()
        return
    for file in [path] if path.is_file() else sorted(path.rglob("*.safetensors")):
        touch(file)
