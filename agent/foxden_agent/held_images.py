"""The images that one card holds, from assignment to outcome: each ends once, and the broker hears
how. What has to be sent for that goes beside the card's work, which never waits for the network."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Iterator

from foxden_agent.checkpoints import CheckpointRefused, Checkpoints, Unreachable
from foxden_agent.drawing import HeldImage
from foxden_agent.pictures import PictureRefused
from foxden_agent.reports import Bytes, Reports
from foxden_proto.link import LeaseKey
from foxden_proto.v1 import generation_pb2
from foxden_proto.v1 import link_pb2 as pb

log = logging.getLogger(__name__)


class HeldImages:
    """By lease. `versions` are the engine's, as pictures tell them."""

    def __init__(
        self,
        link: Reports,
        pictures: Bytes,
        flush: Callable[[], None],
        versions: Callable[[], str],
    ) -> None:
        self._link = link
        self._pictures = pictures
        self._flush = flush
        self._versions = versions
        self._images: dict[LeaseKey, HeldImage] = {}
        self._checkpoints = Checkpoints(link, pictures, flush, self.holds)
        self._beside: set[asyncio.Task[None]] = set()
        self.on_picture: Callable[[], None] = lambda: None  # called when the broker has a picture

    def __iter__(self) -> Iterator[HeldImage]:
        return iter(list(self._images.values()))

    def __len__(self) -> int:
        return len(self._images)

    def add(self, image: HeldImage) -> None:
        self._images[image.key] = image

    def get(self, key: LeaseKey) -> HeldImage | None:
        return self._images.get(key)

    def forget(self, key: LeaseKey) -> HeldImage | None:
        """Hold it no more, and say nothing."""
        return self._images.pop(key, None)

    def holds(self, image: HeldImage) -> bool:
        return image.key in self._images

    def wanted(self, image: HeldImage) -> bool:
        """Whether somebody still waits for it."""
        return not image.stopped and not image.left and self.holds(image)

    def unfinished(self, images: Iterable[HeldImage]) -> list[HeldImage]:
        """Those of them that are this card's to end: held, without a picture, and not left to
        others."""
        mine = [image for image in images if self.holds(image) and not image.left]
        return [image for image in mine if image.png is None]

    # How an image ends

    def end(
        self,
        image: HeldImage,
        outcome: pb.TaskFinished | pb.TaskFailed | pb.TaskReleased | pb.TaskStopped,
    ) -> None:
        """Report how it ended; the link says it again until the broker has settled it."""
        if self.forget(image.key) is not None:
            self._link.outcome(image.key, outcome)
            self._flush()

    def release(self, images: Iterable[HeldImage], reason: str) -> None:
        """Others shall draw them from where they began here; that is no failure of theirs."""
        for image in images:
            self.end(image, pb.TaskReleased(reason=reason))

    def leave(self, images: Iterable[HeldImage], reason: str) -> None:
        """Others shall go on with them: said at once, and again with their last checkpoints."""
        leaving = list(images)
        for image in leaving:
            image.left = True
            self._link.outcome(image.key, pb.TaskReleased(releasing=True, reason=reason))
        self._flush()
        last_words = self._checkpoints.last_words(leaving, reason, self.end)
        self.beside(last_words, "last checkpoints")

    def refuse_checkpoints(self, images: Iterable[HeldImage], reason: str) -> None:
        """What these were to go on from is of no use."""
        for image in self.unfinished(images):
            refused = pb.TaskFailed(reason=reason, retryable=True, checkpoint_refused=True)
            self.end(image, pb.TaskStopped() if image.stopped else refused)

    # What is fetched and sent for it

    async def fetch(self, image: HeldImage) -> None:
        """Have what it goes on from; one that cannot be had ends it."""
        if not image.resumes_at or image.resume or not self.wanted(image):
            return
        try:
            await self._checkpoints.fetch(image)
        except CheckpointRefused as error:
            self.refuse_checkpoints([image], str(error))
        except Unreachable as error:
            self.end(image, pb.TaskFailed(reason=str(error), retryable=True))

    def save(self, image: HeldImage, step: int) -> None:
        """Have the checkpoint of this step stored."""
        if self.holds(image) and image.task.checkpoint_path:
            self.beside(self._checkpoints.save(image, step), f"checkpoint {image.item_id}")

    def deliver(self, image: HeldImage) -> None:
        """Send its picture, which ends it."""
        if self.holds(image):
            self.beside(self._send(image), f"send {image.item_id}")

    async def _send(self, image: HeldImage) -> None:
        assert image.png is not None
        task = image.task
        try:
            stored = await self._pictures.put(
                task.upload_path,
                task.upload_token,
                image.png.png,
                wanted=lambda: self.holds(image),
            )
        except PictureRefused as error:
            if error.stale:
                log.info("image %s belongs to somebody else by now", image.item_id)
            self.end(image, pb.TaskFailed(reason=str(error), retryable=True))
            return
        if stored is None:
            return
        picture = generation_pb2.Picture(
            width=image.png.width,
            height=image.png.height,
            seconds=image.png.seconds,
            sha256=stored.sha256,
            size=stored.size,
            batch_size=image.png.batch_size,
            placement=image.png.placement,
            versions=self._versions(),
        )
        self.on_picture()
        self.end(image, pb.TaskFinished(picture=picture, receipt=stored.receipt))

    # Beside the card's work

    def beside(self, doing: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        """Do this without waiting for it, and hold on to it: the event loop itself does not."""
        task = asyncio.create_task(doing, name=name)
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)
        return task

    async def last_things(self, within: float) -> None:
        """Wait, so many seconds at most, for what is on its way to the broker."""
        if self._beside:
            await asyncio.wait(set(self._beside), timeout=within)

    def break_off(self) -> None:
        """End all that goes on beside."""
        for task in self._beside:
            task.cancel()
