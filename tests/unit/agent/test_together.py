"""How many images ride together, by what their placement leaves room for."""

from __future__ import annotations

import pytest
from placement_models import MODELS, card

from foxden_agent.placement import CardFacts, Placement, Remembered, Work, place
from foxden_agent.placement.facts import GIB
from foxden_agent.together import after_out_of_memory, images_together
from foxden_proto.batches import REFERENCE_PIXELS, most_images

SIDES = {"SD 1.5": 512, "SDXL": 1024, "SD 3.5 medium": 1024, "FLUX": 1024}


@pytest.mark.parametrize("name", SIDES)
@pytest.mark.parametrize("gigabytes", [4, 8, 12, 24, 48])
def test_as_many_as_lie_like_one_alone_and_no_more(name: str, gigabytes: int) -> None:
    model, pixels, where = MODELS[name], SIDES[name] ** 2, card(gigabytes)
    together = images_together(where, [(model, pixels, Remembered())], cores=8)
    alone = place(model, where, Work(pixels))
    assert isinstance(alone, Placement)
    fits = place(model, where, Work(pixels, max(1, together * REFERENCE_PIXELS // pixels)))
    assert isinstance(fits, Placement)
    assert fits.name == alone.name
    assert 1 <= together <= 64
    if together < 64:
        images = max(1, (together + 1) * REFERENCE_PIXELS // pixels)
        more = place(model, where, Work(pixels, images))
        assert not isinstance(more, Placement) or more.name != alone.name


@pytest.mark.parametrize(
    ("device", "memory", "cores", "together"),
    [
        ("cpu", 32 * GIB, 2, 1),  # what was measured
        ("cpu", 32 * GIB, 16, 8),
        ("cuda:0", 8 * GIB, 8, 64),
        ("cuda:0", 0, 8, 1),  # it does not tell
        ("mps", 64 * GIB, 8, 1),  # nothing is known of it
    ],
)
def test_without_a_model_the_device_alone_says(
    device: str, memory: int, cores: int, together: int
) -> None:
    assert images_together(CardFacts(device, memory, "8.6"), [], cores=cores) == together


def test_model_that_takes_most_has_the_say() -> None:
    where = card(24)
    each = {
        name: images_together(where, [(MODELS[name], side**2, Remembered())], cores=8)
        for name, side in SIDES.items()
    }
    everything = [(MODELS[name], side**2, Remembered()) for name, side in SIDES.items()]
    assert images_together(where, everything, cores=8) == min(each.values())


@pytest.mark.parametrize("images", [2, 3, 8, 16])
@pytest.mark.parametrize("side", [64, 256, 512, 1024])
@pytest.mark.parametrize("together", [1, 16, 64])
def test_batch_that_did_not_fit_x_is_not_tried_again(images: int, side: int, together: int) -> None:
    less = after_out_of_memory(together, images, side, side)
    assert 0 <= less <= together // 2
    assert most_images(less, side, side) < images
