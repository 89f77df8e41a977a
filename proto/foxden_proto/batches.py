"""Which images may ride through a card together, and how many. Pure.

The broker's scheduler and the agent ask the same functions, so that what one groups the other does
not cut apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

from foxden_proto import limits
from foxden_proto.v1.generation_pb2 import ImageRequest

T = TypeVar("T")

REFERENCE_PIXELS = 256 * 256  # what `CardInfo.most_together` counts in
# Samplers that call the model twice in each step (diffusers: Heun, KDPM2, KDPM2 ancestral and
# DPM-Solver SDE count a step's two calls as two of the scheduler's steps).
_TWO_CALLS = frozenset({"Heun", "DPM2", "DPM2 a", "DPM++ SDE"})
# A frame must hold the whole assignment; the rest of it is leases, tokens and paths.
_REQUEST_BYTES = limits.FRAME_BYTES * 3 // 4


class BatchKey(NamedTuple):
    """What images that ride together have in common; prompts and seeds are each image's own."""

    model: str  # the sha256 of its weights, or its name while that is not known
    width: int
    height: int
    steps: int
    sampler: str
    schedule: str
    guidance_scale: float
    resume: int = 0  # model calls of the sampler that are behind it; 0: from the beginning


def batch_key(request: ImageRequest, resume: int = 0) -> BatchKey:
    """The key of a request whose defaults are filled in. `resume` is the step of the checkpoint
    that it goes on from: images at different steps take different paths through the sampler."""
    return BatchKey(
        request.model_sha256 or request.model,
        request.width,
        request.height,
        request.steps,
        request.sampler,
        request.schedule or "automatic",
        request.guidance_scale,
        resume,
    )


def steps_left(request: ImageRequest, resume: int) -> int:
    """Steps that are still to be drawn from a checkpoint of `resume` model calls: 1 or more."""
    calls = 2 if request.sampler in _TWO_CALLS else 1
    return max(1, request.steps - resume // calls)


def rides_with(one: ImageRequest, other: ImageRequest) -> bool:
    """True where the two can be drawn in one batch, whichever jobs they belong to."""
    return batch_key(one) == batch_key(other)


def most_images(most_together: int, width: int, height: int) -> int:
    """How many images of this size may ride together: 1 to limits.BATCH_IMAGES.

    `most_together` is what the card says of itself (CardInfo): images of REFERENCE_PIXELS. 0: it
    does not say, as an older agent, and draws one at a time.

    >>> most_images(4, 256, 256), most_images(4, 512, 512), most_images(4, 1024, 1024)
    (4, 1, 1)
    """
    pixels = max(1, width * height)
    return max(1, min(limits.BATCH_IMAGES, max(0, most_together) * REFERENCE_PIXELS // pixels))


def batches(
    items: Iterable[T],
    request_of: Callable[[T], ImageRequest],
    most_together: int,
    resume_of: Callable[[T], int] = lambda _: 0,
) -> list[list[T]]:
    """Cut items into batches that a card of `most_together` may draw, in the order of their first.
    `resume_of` tells the step of an item's checkpoint, 0 where it has none.

    Items keep their order within a batch. No batch exceeds what one link frame carries, but for
    one single item that does so alone: the door lets no such request in.
    """
    made: list[list[T]] = []
    open_batches: dict[BatchKey, tuple[list[T], int]] = {}  # what still has room, with its bytes
    for item in items:
        request = request_of(item)
        key, size = batch_key(request, resume_of(item)), request.ByteSize()
        most = most_images(most_together, request.width, request.height)
        batch, taken = open_batches.get(key, ([], 0))
        if not batch or len(batch) >= most or taken + size > _REQUEST_BYTES:
            batch, taken = [], 0
            made.append(batch)
        batch.append(item)
        open_batches[key] = (batch, taken + size)
    return made
