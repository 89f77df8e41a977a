"""How many images a card says may ride through it in one batch. Pure.

As many as are drawn in the placement that one alone gets (foxden_agent/placement): a batch is not
worth a slower one. A batch that turns out to be too big is drawn one by one (worker.py). In images
of foxden_proto.batches.REFERENCE_PIXELS.
"""

from __future__ import annotations

from collections.abc import Iterable

from foxden_agent.placement.facts import CardFacts, ModelFacts, Placement, Work
from foxden_agent.placement.ladder import place
from foxden_agent.placement.remembered import Remembered
from foxden_proto.batches import REFERENCE_PIXELS

# Measured with the demo model on 2 cores, seconds per image at 1, 2, 4, 8 and 16 together:
# 64 px 0.84 0.53 0.35 0.18 0.12, 128 px 0.46 0.32 0.26 0.24, 256 px 0.98 1.03 1.03 0.88. So one
# image of 256 px fills two cores, and as many smaller ones as have its pixels are worth it.
_CORES_PER_IMAGE = 2
# Four images of 1024 x 1024. Beyond it a card is busy anyway, and the first waits for the last.
_MOST_ON_CUDA = 4 * (1024 // 256) ** 2


def images_together(
    card: CardFacts, models: Iterable[tuple[ModelFacts, int, Remembered]], *, cores: int
) -> int:
    """1 or more; 1 where nothing is known of the device, or nothing of its memory.

    `models` come with the pixels that they draw by default and what is remembered of them; what
    does not fit at all has no say.
    """
    if not card.memory_total or not (card.cuda or card.device == "cpu"):
        return 1
    most = _MOST_ON_CUDA if card.cuda else max(1, cores // _CORES_PER_IMAGE)
    for model, pixels, remembered in models:
        most = min(most, _with(model, pixels, card, remembered, most))
    return most


def _with(
    model: ModelFacts, pixels: int, card: CardFacts, remembered: Remembered, most: int
) -> int:
    alone = place(model, card, Work(pixels), remembered)
    if not isinstance(alone, Placement):
        return most
    low, high = 1, most
    while low < high:
        middle = (low + high + 1) // 2
        images = max(1, middle * REFERENCE_PIXELS // pixels)
        found = place(model, card, Work(pixels, images), remembered)
        if isinstance(found, Placement) and found.name == alone.name:
            low = middle
        else:
            high = middle - 1
    return low


def after_out_of_memory(together: int, images: int, width: int, height: int) -> int:
    """What a card dares after a batch of so many images (2 or more) was too much for it: half.

    0 stands for one at a time, whatever the size (foxden_proto.batches.most_images).
    """
    return min(together // 2, images * width * height // (2 * REFERENCE_PIXELS))
