"""Checkpoints of a card's images: kept in memory as the engine makes them, PUT every few seconds
and when the card is given back, fetched where an image was begun elsewhere. None touches the disk.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from foxden_agent.drawing import HeldImage
from foxden_agent.pictures import PictureRefused, Unreachable
from foxden_agent.reports import Bytes, Reports
from foxden_proto import limits
from foxden_proto.timers import Timers
from foxden_proto.v1 import link_pb2 as pb

log = logging.getLogger(__name__)

_LAST_WORDS = 0.8  # share of timers.release after which a release goes without its checkpoint


class CheckpointRefused(Exception):
    """What an image was to go on from cannot be had, or is not what was announced."""


def common_step(images: Sequence[HeldImage]) -> int:
    """The latest step that all these images have a checkpoint of; 0: there is none. From equal
    steps they can go on as the one batch that they were."""
    steps = [set(image.checkpoints) for image in images]
    return max(set.intersection(*steps), default=0) if steps else 0


class Checkpoints:
    """Moves the checkpoints of one agent's images. `holds` says whether an image is still ours."""

    def __init__(
        self,
        link: Reports,
        sender: Bytes,
        flush: Callable[[], None],
        holds: Callable[[HeldImage], bool],
    ) -> None:
        self._link, self._sender, self._flush, self._holds = link, sender, flush, holds

    @property
    def _timers(self) -> Timers:
        return self._link.timers

    async def save(self, image: HeldImage, step: int) -> None:
        """PUT the checkpoint of this step and tell the broker: should this card vanish, another
        goes on from there. Where it fails the next one follows in a few seconds."""
        if await self._put(image, step, time.monotonic() + self._timers.checkpoint):
            assert image.stored is not None
            self._link.checkpoint(image.key, *image.stored)
            self._flush()

    async def last_words(
        self,
        images: Sequence[HeldImage],
        reason: str,
        end: Callable[[HeldImage, pb.TaskReleased], None],
    ) -> None:
        """PUT the last checkpoint of each, all at once, and `end` each with it; after most of
        `timers.release` with what is stored by then. `releasing` was said before."""
        until = time.monotonic() + _LAST_WORDS * self._timers.release
        step = common_step(images)

        async def one(image: HeldImage) -> None:
            newest = step or max(image.checkpoints, default=0)
            if newest:
                await self._put(image, newest, until)
            released = pb.TaskReleased(reason=reason)
            if image.stored is not None:
                checkpoint, released.receipt = image.stored
                released.checkpoint.CopyFrom(checkpoint)
            end(image, released)

        await asyncio.gather(*map(one, images))

    async def fetch(self, image: HeldImage) -> None:
        """Get what the image is to go on from into `image.resume`. Raises CheckpointRefused, or
        Unreachable where the broker cannot be reached for `timers.lease_lost`."""
        resume, task = image.task.resume, image.task
        if not 1 <= resume.size <= limits.CHECKPOINT_BYTES:
            raise CheckpointRefused(f"a checkpoint of {resume.size} bytes cannot be one")
        try:
            image.resume = await self._sender.get(
                resume.path,
                task.upload_token,
                resume.sha256,
                resume.size,
                wanted=lambda: self._holds(image),
                within=self._timers.lease_lost,
            )
        except PictureRefused as error:
            raise CheckpointRefused(str(error)) from None

    async def _put(self, image: HeldImage, step: int, until: float) -> bool:
        """Whether that step is stored. A PUT that hangs ends with its time."""
        data = image.checkpoints.get(step)
        before = image.stored[0].step if image.stored is not None else image.task.resume.step
        path = image.task.checkpoint_path
        if data is None or not path or image.unstorable or len(data) > limits.CHECKPOINT_BYTES:
            return False
        if step <= before:
            return False
        try:
            async with asyncio.timeout(max(0.0, until - time.monotonic())):
                stored = await self._sender.put(
                    path,
                    image.task.upload_token,
                    data,
                    wanted=lambda: self._holds(image) and time.monotonic() < until,
                    what="a checkpoint",
                )
        except TimeoutError:
            log.warning("the checkpoint of %s did not arrive in time", image.item_id)
            return False
        except PictureRefused as error:
            image.unstorable = error.status in (404, 405)  # a broker that knows no checkpoints
            log.info("no checkpoint of %s: %s", image.item_id, error)
            return False
        if stored is None:
            return False
        if image.stored is None or image.stored[0].step < step:
            made = pb.Checkpoint(sha256=stored.sha256, size=stored.size, step=step)
            image.stored = (made, stored.receipt)
        return True


__all__ = ["CheckpointRefused", "Checkpoints", "Unreachable", "common_step"]
