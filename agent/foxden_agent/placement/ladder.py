"""`place`: the fastest layout of a model that fits on a card, or what would fit. Pure.

The ladder, fastest first. Each rung is tried in each data type that suits the card:

    everything on the card
    ... decoded in tiles              a little slower, seams can show in flat colours
    ... attention in slices           only where torch has no efficient attention
    parts come when their turn is     (model offload; then in tiles, in slices)
    layers come while others compute  (group offload)
    layers come one by one            (sequential offload)
    on the processor                  small work alone

What a rung takes does not depend on what there is, so that more memory never gives a slower rung;
and it grows with the picture, so that a bigger picture never gets a faster one.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from foxden_agent.placement import estimates
from foxden_agent.placement.facts import (
    GIB,
    CardFacts,
    Dtype,
    ModelFacts,
    Offload,
    Placement,
    Refusal,
    Work,
)
from foxden_agent.placement.precision import dtypes, efficient_attention
from foxden_agent.placement.remembered import Remembered
from foxden_proto.sizes import SIZE_CLASSES

_UNETS = ("sd1", "sd2", "sdxl")  # the families whose attention diffusers can slice
_COMMON_CARDS = (2, 4, 6, 8, 10, 12, 16, 24, 32, 48, 80)  # GB
# Beside a card the processor is for small work alone: SD 1.5 at 1024 x 1024 (pixels x weights of
# the denoiser) takes a desktop's processor some ten minutes, and its owner notices.
_MOST_ON_PROCESSOR = 1024 * 1024 * 900_000_000


def place(
    model: ModelFacts, card: CardFacts, work: Work, remembered: Remembered | None = None
) -> Placement | Refusal:
    """The fastest layout that fits, with `need` and `memory_limit` filled in.

    `remembered` corrects the estimates by what earlier batches of this model took on this card.
    A card that does not tell its memory gets the first rung.
    """
    remembered = remembered or Remembered()
    found = _first_fit(model, card, work, remembered)
    if isinstance(found, Placement):
        return found
    return Refusal(
        need=found.need,
        usable=found.usable,
        short_of=found.of,
        largest_pixels=largest_pixels(model, card, remembered, guided=work.guided),
        card_memory=_common_card(model, card, work),
    )


def largest_pixels(
    model: ModelFacts, card: CardFacts, remembered: Remembered, *, guided: bool = True
) -> int:
    """Pixels of the largest single picture that fits, as foxden_proto.sizes counts; 0: none."""

    def too_big(pixels: int) -> bool:
        found = _first_fit(model, card, Work(pixels, guided=guided), remembered)
        return not isinstance(found, Placement)

    fitting = bisect_left(SIZE_CLASSES, True, key=too_big)
    return SIZE_CLASSES[fitting - 1] if fitting else 0


def need(
    model: ModelFacts, card: CardFacts, placement: Placement, work: Work, remembered: Remembered
) -> int:
    """Bytes that this takes at most: of the card, or of RAM where it is on the processor."""
    found = estimates.stages(model, card, placement, work)
    return estimates.peak(found, remembered.factor(placement))


def ladder(model: ModelFacts, card: CardFacts) -> tuple[Placement, ...]:
    """Every layout that this card could try, fastest first; `need` is not filled in."""
    return _ladder(
        card.cuda,
        dtypes(card, model.family),
        model.family in _UNETS and not efficient_attention(card),
    )


@lru_cache
def _ladder(cuda: bool, kinds: tuple[Dtype, ...], slices: bool) -> tuple[Placement, ...]:
    rungs: list[Placement] = []
    offloads: tuple[Offload, ...] = ("", "model", "group", "sequential") if cuda else ("",)
    for offload in offloads:
        # Who offloads layer by layer is short of memory: tiles cost nothing beside that.
        for tiling in (True,) if offload in ("group", "sequential") else (False, True):
            rungs += [Placement(dtype, vae_tiling=tiling, offload=offload) for dtype in kinds]
        if slices:
            rungs += [
                Placement(dtype, vae_tiling=True, attention_slicing=True, offload=offload)
                for dtype in kinds
            ]
    if cuda:
        rungs += [Placement("float32", vae_tiling=tiling, cpu=True) for tiling in (False, True)]
    return tuple(rungs)


@dataclass(frozen=True, slots=True)
class _Short:
    """Nothing fits: what the least demanding layout on the card takes of what there is too
    little of."""

    need: int
    usable: int
    of: Literal["memory", "RAM"]


def _first_fit(
    model: ModelFacts, card: CardFacts, work: Work, remembered: Remembered
) -> Placement | _Short:
    usable, ram = estimates.usable(card), max(0, estimates.usable_ram(card))
    least: int | None = None
    least_ram: int | None = None  # of layouts that fit the card itself
    for rung in ladder(model, card):
        if rung.cpu and work.pixels * work.images * _denoiser(model) > _MOST_ON_PROCESSOR:
            continue
        takes = need(model, card, rung, work, remembered)
        if not card.memory_total:
            return replace(rung, need=takes)
        if rung.cpu:
            if takes <= ram:
                return replace(rung, need=takes)
            continue
        least = takes if least is None else min(least, takes)
        if takes > usable:
            continue
        beside = estimates.ram_bytes(model, rung)
        if beside <= ram:
            return replace(rung, need=takes, memory_limit=estimates.memory_limit(card))
        least_ram = beside if least_ram is None else min(least_ram, beside)
    if least_ram is not None:
        return _Short(least_ram, ram, "RAM")
    return _Short(least or 0, usable, "memory")


def _denoiser(model: ModelFacts) -> int:
    return sum(part.numbers for part in model.of("denoiser"))


def _common_card(model: ModelFacts, card: CardFacts, work: Work) -> int:
    """Bytes of the smallest card sold with which this could be drawn on the card itself."""
    other = replace(
        card,
        device="cuda:0",
        name="",
        compute_capability=card.compute_capability or "8.6",
        memory_free=None,
        budget=0,
        ram_total=card.ram_total or card.memory_total,
    )

    def fits(size: int) -> bool:
        there = replace(other, memory_total=size * GIB)
        found = _first_fit(model, there, work, Remembered())
        return isinstance(found, Placement) and not found.cpu

    at = bisect_left(_COMMON_CARDS, True, key=fits)
    return _COMMON_CARDS[at] * GIB if at < len(_COMMON_CARDS) else 0
