"""The models of one engine: some on its card, others warm in RAM, each moved as the agent says.

The agent decides what goes (model_cache.py); it knows what comes next. Two things are done here,
where they happen: a load that runs out of memory puts out everything else and is tried once more,
and a card that is full without anybody having said what goes loses what was used longest ago.
"""

from __future__ import annotations

import gc
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from foxden_agent.engine.errors import BadModel, OutOfMemory
from foxden_agent.engine.fast_loading import FileChanged, touch
from foxden_agent.engine.loading import Opened, open_pipeline
from foxden_proto.v1.engine_pb2 import ModelSource
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

    def bring(self, model: ModelSource, dtype: torch.dtype) -> Brought:
        """The model on the device, in this precision.

        Raises BadModel or OutOfMemory; it is in no tier afterwards, and after OutOfMemory nothing
        is.
        """
        key = (model.path, model.sha256)
        with self._lock:
            if (warm := self._models.get(key)) is not None and warm.tier == TIER_VRAM:
                self._models.move_to_end(key)
                return Brought(warm, TIER_VRAM, 0.0)
            started = time.perf_counter()
            came_from = TIER_DISK if warm is None else TIER_RAM
            try:
                warm = self._try(key, model, dtype)
            except OutOfMemory:
                # Once more with all the memory there is. What torch has cached, pieces between
                # others' weights and a reading of free memory that was too good: all are gone then.
                self._clear()
                warm = self._try(key, model, dtype)
                came_from = TIER_DISK
            return Brought(warm, came_from, time.perf_counter() - started)

    def prefetch(self, model: ModelSource, dtype: torch.dtype) -> Brought | None:
        """Bring it into RAM, beside whatever the card does. None: only its files could be read,
        so that the system has them at hand. Raises BadModel."""
        key, path = (model.path, model.sha256), Path(model.path)
        started = time.perf_counter()
        with self._lock:
            if (warm := self._models.get(key)) is not None:
                return Brought(warm, warm.tier, 0.0)
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

    def _try(self, key: Key, model: ModelSource, dtype: torch.dtype) -> Warm:
        warm = self._models.pop(key, None)  # until it is where it belongs
        with self._guard(f"loading {model.name}"):
            if warm is None:
                opened = open_pipeline(model.name, Path(model.path), dtype)
                assert opened is not None
                warm = Warm(model.name, opened, TIER_RAM)
            self._make_room(warm.opened.bytes_in(dtype))
            try:
                warm.opened.to(self._device, dtype)
            except FileChanged as error:
                raise BadModel(model.name, str(error)) from error
        warm.tier = TIER_VRAM
        self._models[key] = warm
        return warm

    def _make_room(self, needed: int) -> None:
        while self._free() < needed + _WORKING_BYTES:
            on_card = [key for key, warm in self._models.items() if warm.tier == TIER_VRAM]
            if not on_card:
                return  # it is tried all the same: free memory is an estimate
            self._lower(on_card[0], TIER_RAM)
            self._collect()

    def _lower(self, key: Key, to: Tier.ValueType) -> None:
        warm = self._models[key]
        if warm.tier == TIER_VRAM and to == TIER_RAM and warm.opened.networks:
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

    def _free(self) -> int:
        if self._device.type == "cuda":
            return int(torch.cuda.mem_get_info(self._device)[0])
        return int(psutil.virtual_memory().available)


def _read_through(path: Path, opened: Opened | None) -> None:
    """Let the system read the files: what is mapped afterwards comes out of memory."""
    if opened is not None:
        for network in opened.networks.values():
            network.files.touch()
        return
    for file in [path] if path.is_file() else sorted(path.rglob("*.safetensors")):
        touch(file)
