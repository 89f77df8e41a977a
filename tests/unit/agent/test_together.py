"""How many images ride together, by what a card has."""

from __future__ import annotations

import pytest

from foxden_agent.together import after_out_of_memory, most_together
from foxden_proto.batches import most_images

GIB = 1024**3


@pytest.mark.parametrize(
    ("device", "free", "cores", "model", "together"),
    [
        ("cpu", 30 * GIB, 2, 0, 1),  # what was measured
        ("cpu", 30 * GIB, 16, 0, 8),
        ("cpu", 6 * GIB, 64, 2 * GIB, 4),  # the memory is the narrower one
        ("cpu", 1 * GIB, 64, 4 * GIB, 1),
        ("cpu", 30 * GIB, 1, 0, 1),
        ("cuda:0", 7 * GIB, 8, 2 * GIB, 14),
        ("cuda:0", 23 * GIB, 8, 7 * GIB, 58),
        ("cuda:1", 139 * GIB, 8, 7 * GIB, 64),
        ("cuda:0", 3 * GIB, 8, 7 * GIB, 1),
        ("cuda:0", 0, 8, 0, 1),  # it does not tell
        ("mps", 64 * GIB, 8, 0, 1),  # nothing is known of it
    ],
)
def test_images_together(device: str, free: int, cores: int, model: int, together: int) -> None:
    assert most_together(device, memory_free=free, cores=cores, largest_model=model) == together


@pytest.mark.parametrize("images", [2, 3, 8, 16])
@pytest.mark.parametrize("side", [64, 256, 512, 1024])
@pytest.mark.parametrize("together", [1, 16, 64])
def test_batch_that_did_not_fit_x_is_not_tried_again(images: int, side: int, together: int) -> None:
    less = after_out_of_memory(together, images, side, side)
    assert 0 <= less <= together // 2
    assert most_images(less, side, side) < images
