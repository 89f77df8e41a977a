"""Which images ride together, and how many of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foxden_proto import limits
from foxden_proto.batches import batch_key, batches, most_images, rides_with, steps_left
from foxden_proto.v1.generation_pb2 import ImageRequest

FIELDS = {
    "model": "dream",
    "model_sha256": "d" * 64,
    "prompt": "a cat",
    "negative_prompt": "",
    "steps": 20,
    "sampler": "Euler",
    "schedule": "karras",
    "guidance_scale": 7.0,
    "width": 512,
    "height": 512,
    "seed": 1,
}


def request(**changes: object) -> ImageRequest:
    return ImageRequest(**FIELDS | changes)


@pytest.mark.parametrize(
    "change",
    [{"prompt": "a dog"}, {"negative_prompt": "blurry"}, {"seed": 9}, {"model": "another name"}],
    ids=lambda change: next(iter(change)),
)
def test_what_is_an_image_s_own_x_differs_x_rides_together(change: dict[str, object]) -> None:
    assert rides_with(request(), request(**change))


@pytest.mark.parametrize(
    "change",
    [
        {"model_sha256": "e" * 64},
        {"steps": 21},
        {"sampler": "DDIM"},
        {"schedule": "beta"},
        {"guidance_scale": 7.5},
        {"width": 520},
        {"height": 520},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_a_batch_shares_x_differs_x_rides_apart(change: dict[str, object]) -> None:
    assert not rides_with(request(), request(**change))


def test_key_names_every_field_of_a_request_that_is_not_an_image_s_own() -> None:
    # A field added to ImageRequest must be sorted into one of the two.
    own = {"prompt", "negative_prompt", "seed", "model_sha256"}
    fields = {field.name for field in ImageRequest.DESCRIPTOR.fields}
    assert set(batch_key(request())._fields) == (fields - own) | {"resume"}


def test_empty_schedule_is_the_automatic_one() -> None:
    assert rides_with(request(schedule=""), request(schedule="automatic"))


def test_models_without_a_sha256_are_told_apart_by_name() -> None:
    assert not rides_with(request(model_sha256=""), request(model_sha256="", model="other"))


@pytest.mark.parametrize(
    ("together", "side", "images"),
    [
        (0, 64, 1),  # an older agent does not say
        (-3, 64, 1),
        (1, 256, 1),
        (1, 128, 4),
        (1, 64, limits.BATCH_IMAGES),
        (16, 512, 4),
        (16, 1024, 1),
        (64, 1024, 4),
        (10**9, 64, limits.BATCH_IMAGES),
        (5, 0, limits.BATCH_IMAGES),
    ],
)
def test_most_images_goes_by_pixels(together: int, side: int, images: int) -> None:
    assert most_images(together, side, side) == images


REQUESTS = st.builds(
    request,
    prompt=st.text(max_size=20).map(lambda text: text * 500),
    steps=st.sampled_from([10, 20]),
    width=st.sampled_from([64, 256, 512]),
)


@given(st.lists(REQUESTS, max_size=40), st.integers(-1, 100))
def test_batches_hold_everything_once_in_order_and_within_bounds(
    requests: list[ImageRequest], together: int
) -> None:
    made = batches(list(enumerate(requests)), lambda item: item[1], together)
    assert sorted(index for batch in made for index, _ in batch) == list(range(len(requests)))
    for batch in made:
        first = batch[0][1]
        assert [index for index, _ in batch] == sorted(index for index, _ in batch)
        assert all(rides_with(first, other) for _, other in batch)
        assert len(batch) <= most_images(together, first.width, first.height)
        sizes = [other.ByteSize() for _, other in batch]
        assert len(batch) == 1 or sum(sizes) < limits.FRAME_BYTES
    assert [batch[0][0] for batch in made] == sorted(batch[0][0] for batch in made)


def test_longest_prompts_x_do_not_ride_in_a_frame_too_long_for_them() -> None:
    longest = "狐" * limits.PROMPT_CHARACTERS[1]
    long = [request(prompt=longest, negative_prompt=longest, width=64, height=64)] * 5
    assert [len(batch) for batch in batches(long, lambda item: item, 16)] == [3, 2]


def test_images_at_different_steps_x_ride_apart_and_those_at_one_step_together() -> None:
    items = [("a", 0), ("b", 7), ("c", 0), ("d", 7), ("e", 8)]
    made = batches(items, lambda _: request(), 16, lambda item: item[1])
    assert [[name for name, _ in batch] for batch in made] == [["a", "c"], ["b", "d"], ["e"]]


@pytest.mark.parametrize(
    ("sampler", "resume", "left"),
    [("Euler", 0, 20), ("Euler", 7, 13), ("Heun", 7, 17), ("Euler", 99, 1), ("DPM2 a", 40, 1)],
)
def test_steps_left_x_are_what_the_sampler_has_not_called_the_model_for(
    sampler: str, resume: int, left: int
) -> None:
    assert steps_left(request(sampler=sampler, steps=20), resume) == left
