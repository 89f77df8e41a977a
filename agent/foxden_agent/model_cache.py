"""Which models a card's engine has in memory, and which of them go when another needs room. Pure.

What goes is what will be missed least: the time to load it again, as measured, times how often it
is expected to be needed, per byte that it would free. Expected use is a count that halves every
ten minutes, so that both how often and how lately a model was drawn with counts. Ollama puts out
the one with the shortest session, others the one used longest ago; neither knows what a load costs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from foxden_agent.placement import Placement
from foxden_proto.v1.pool_pb2 import TIER_DISK, TIER_RAM, TIER_VRAM, Tier

_GIB = 1024**3

_HALVES_EVERY = 600.0  # seconds
_NEWEST = 0.3  # weight of the newest load time
# Until one was measured: a SATA disk reads so much, and a bus moves so much, in a second.
_SPEED = {TIER_DISK: 0.5e9, TIER_RAM: 4e9}
_UNKNOWN_BYTES = 4 * _GIB

# Weights beside one another are not all that a card holds: an engine's own share and the first
# batch (ComfyUI reckons with 1.1 x the model, comfy/model_management.py).
NEEDS = 1.1
_BACK_SHARE = 0.75  # of what was freed has to be seen as free (Ollama, server/sched.go)

RAM_SHARE = 0.25  # of the machine's memory, for models that wait
_RAM_LEFT = 2 * _GIB  # that are never touched, and at least this share of all there is:
_RAM_LEFT_SHARE = 0.15


@dataclass
class _Known:
    """One model, as this card knows it."""

    count: float = 0.0  # uses, each halved every _HALVES_EVERY seconds
    counted_at: float = 0.0
    seconds: dict[Tier.ValueType, float] = field(default_factory=dict)  # to load, by where from


@dataclass
class History:
    """What loading and drawing on one card have taught. `now` is monotonic seconds."""

    _known: dict[str, _Known] = field(default_factory=dict)

    def used(self, model: str, now: float) -> None:
        """It was drawn with, or is about to be."""
        known = self._known.setdefault(model, _Known())
        known.count = self._decayed(known, now) + 1.0
        known.counted_at = max(now, known.counted_at)

    def loaded(self, model: str, seconds: float, came_from: Tier.ValueType) -> None:
        """A load took so long; senseless figures are ignored."""
        if not (0 < seconds < 86400 and came_from in _SPEED):
            return
        times = self._known.setdefault(model, _Known()).seconds
        before = times.get(came_from, seconds)
        times[came_from] = before + _NEWEST * (seconds - before)

    def reload_seconds(self, model: str, size: int, tier: Tier.ValueType) -> float:
        """What loading it from this tier is expected to take; `size` in bytes, 0: unknown."""
        known = self._known.get(model)
        if known is not None and tier in known.seconds:
            return known.seconds[tier]
        return (size or _UNKNOWN_BYTES) / _SPEED[tier]

    def expected_uses(self, model: str, now: float) -> float:
        """Expected uses in the next ten minutes, by the last ones; never quite 0."""
        known = self._known.get(model)
        return 1e-6 + (self._decayed(known, now) if known is not None else 0.0)

    def worth(self, model: str, size: int, now: float, tier: Tier.ValueType = TIER_DISK) -> float:
        """Seconds that keeping it is expected to save. `tier`: where it would be loaded from."""
        return self.reload_seconds(model, size, tier) * self.expected_uses(model, now)

    def _decayed(self, known: _Known, now: float) -> float:
        # A clock that seems to go back must not make a count grow.
        age = max(0.0, now - known.counted_at)
        return known.count * math.exp2(-age / _HALVES_EVERY)


def make_room(
    wanted: int,
    sizes: Mapping[str, int],
    free: int,
    now: float,
    history: History,
    keep: Iterable[str] = (),
) -> tuple[str, ...]:
    """The models to put out so that `wanted` bytes fit, what is missed least first.

    `sizes` are bytes by model of those that are there, `free` bytes that nobody uses, `keep` models
    that must stay. Where even all others are not enough, they are all named: a load is tried with
    what that gives. None is named without whom it would fit as well.
    """
    kept = set(keep)
    missing = wanted - free
    if missing <= 0:
        return ()
    worth = {model: history.worth(model, size, now) for model, size in sizes.items()}
    order = sorted(
        (model for model in sizes if model not in kept and sizes[model] > 0),
        key=lambda model: (worth[model] / sizes[model], model),
    )
    chosen: list[str] = []
    freed = 0
    for model in order:
        if freed >= missing:
            break
        chosen.append(model)
        freed += sizes[model]
    # A big one that came last may have made small ones unnecessary: the dearest of those stay.
    for model in sorted(chosen, key=lambda model: (-worth[model], model)):
        if freed - sizes[model] >= missing:
            chosen.remove(model)
            freed -= sizes[model]
    return tuple(chosen)


def ram_budget(total: int, available: int, waiting: int, share: float = RAM_SHARE) -> int:
    """Bytes of RAM that models may wait in, those that do already (`waiting`) included.

    `total` and `available` are the machine's; `available` counts what waits as used. The owner's
    programs keep 2 GiB and 15 % of it in any case.
    """
    left = max(_RAM_LEFT, int(_RAM_LEFT_SHARE * total))
    return max(0, min(int(share * total), available + waiting - left))


def memory_is_back(free_before: int, free_now: int, freed: int) -> bool:
    """Whether a driver shows enough of what was freed: until then its figure is a stale one."""
    return free_now >= free_before + _BACK_SHARE * freed


def idle(now: float, used_at: float, after: float) -> bool:
    """Whether an engine that was used last at `used_at` may end; `after` seconds, 0: never."""
    return 0 < after <= now - used_at


def layout(placement: Placement | None) -> tuple[str, str, bool]:
    """What of a placement is settled when a model is loaded; the rest can be switched.

    The engine compares the same (engine/placing.py, needs_reload). None leaves it to the engine.
    """
    if placement is None:
        return ("", "", False)
    return (placement.dtype, placement.offload, placement.cpu)


@dataclass
class ModelCache:
    """Where the models are that one engine has in memory, and what it learnt of them."""

    history: History = field(default_factory=History)
    _vram: dict[str, int] = field(default_factory=dict)  # bytes by sha256
    _ram: dict[str, int] = field(default_factory=dict)
    _placed: dict[str, Placement | None] = field(default_factory=dict)  # those that are in _vram

    @property
    def in_vram(self) -> Mapping[str, int]:
        """Ready to be drawn with, and the bytes that they keep of the card meanwhile."""
        return self._vram

    @property
    def in_ram(self) -> Mapping[str, int]:
        return self._ram

    @property
    def offloaded(self) -> tuple[str, ...]:
        """Those that must go before another one comes."""
        return tuple(one for one, placed in self._placed.items() if placed and placed.offload)

    def tier(self, model: str) -> Tier.ValueType:
        if model in self._vram:
            return TIER_VRAM
        return TIER_RAM if model in self._ram else TIER_DISK

    def lies_as(self, model: str, placement: Placement | None) -> bool:
        """Whether it can be drawn with like this and nothing has to be loaded."""
        return model in self._vram and layout(self._placed[model]) == layout(placement)

    def brought(
        self, model: str, size: int, tier: Tier.ValueType, placement: Placement | None = None
    ) -> None:
        """It is in this tier now, in VRAM laid out like this. `size` in bytes of its weights."""
        self.gone((model,))
        if tier == TIER_VRAM:
            waits = placement is not None and (placement.offload or placement.cpu)
            self._vram[model] = 0 if waits else size
            self._placed[model] = placement
        elif tier == TIER_RAM:
            self._ram[model] = size

    def gone(self, models: Iterable[str], to: Tier.ValueType = TIER_DISK) -> None:
        """They left the card for RAM, or memory altogether."""
        for model in models:
            size = self._vram.pop(model, None)
            waiting = self._ram.pop(model, None)
            self._placed.pop(model, None)
            if to == TIER_RAM and (size or waiting):
                self._ram[model] = size or waiting or 0

    def engine_gone(self) -> None:
        """The process ended: nothing is in memory."""
        self._vram.clear()
        self._ram.clear()
        self._placed.clear()
