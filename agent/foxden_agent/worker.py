"""One card's worker: takes images in batches, has its engine draw them, reports how each ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from foxden_agent.card_engine import CardEngine
from foxden_agent.drawing import Drawing, HeldImage, Listener
from foxden_agent.engine_client import EngineFailed, EngineProcess, EngineRefused
from foxden_agent.models import LocalModel
from foxden_agent.pictures import PictureRefused, PictureSender
from foxden_agent.placed_batches import PlacedBatches
from foxden_agent.placement import Refusal
from foxden_agent.placement.placer import Placer
from foxden_agent.together import after_out_of_memory
from foxden_proto.batches import batches
from foxden_proto.link import AgentLink, LeaseKey
from foxden_proto.v1 import generation_pb2
from foxden_proto.v1 import link_pb2 as pb
from foxden_proto.v1.engine_pb2 import EngineStep

log = logging.getLogger(__name__)


class CardWorker:
    """Draws what one card is given. `run` is its loop; the other methods are told by the link.

    `together` is how many images ride in one batch (CardInfo.most_together). It shrinks where a
    batch did not fit into the card's memory. `placer` decides how models lie on the card; without
    one the engine does. `changed` is called when something that the card says of itself is
    another now.
    """

    def __init__(
        self,
        card_id: str,
        device: str,
        engine: CardEngine,
        models: dict[str, LocalModel],
        link: AgentLink,
        pictures: PictureSender,
        flush: Callable[[], None],
        *,
        together: int = 1,
        placer: Placer | None = None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.card_id = card_id
        self.device = device
        self.together = together
        self.placer = placer
        self._placed = PlacedBatches(placer)
        self._engine = engine
        self._models = models  # by sha256
        self._link = link
        self._pictures = pictures
        self._flush = flush
        self._changed = changed
        self._waiting: asyncio.Queue[list[HeldImage]] = asyncio.Queue()
        self._images: dict[LeaseKey, HeldImage] = {}
        self._drawing: Drawing | None = None
        self._beside: set[asyncio.Task[None]] = set()
        self._listener = Listener(
            step=self._tell_progress,
            picture=self._deliver,
            stopped=lambda image: self._end(image, pb.TaskStopped()),
            stop=self._stop_engine_at_next_step,
        )
        self.loaded = ""  # sha256 of the model in the card's memory
        engine.on_change = self._engine_changed

    @property
    def broken(self) -> str:
        """Why this card can draw nothing now; empty while it can."""
        return self._engine.broken

    # What the link says

    def assign(self, assignment: pb.Assignment) -> None:
        """Take images as one batch, or as several where they cannot ride together; refuse those
        whose model is not here (any more)."""
        taken = []
        for task in assignment.tasks:
            key = LeaseKey.of(task.lease)
            if task.request.model_sha256 not in self._models:
                self._link.refuse([key], f"this card has no model {task.request.model}")
                continue
            image = HeldImage(key, task)
            self._images[key] = image
            taken.append(image)
        if taken:
            self._link.acknowledge([image.key for image in taken])
        if self.broken:  # given before the broker heard of it
            self._give_back(taken)
            return
        for batch in batches(taken, lambda image: image.request, self.together):
            self._waiting.put_nowait(batch)

    def stop(self, key: LeaseKey) -> None:
        """The client cancelled it: what waits ends now, what is drawn at its next step."""
        image = self._images.get(key)
        if image is None:
            return
        image.stopped = True
        if self._in_engine(image):
            self._stop_engine_at_next_step(image)
        elif image.png is None:
            self._end(image, pb.TaskStopped())

    def drop(self, key: LeaseKey) -> None:
        """It runs elsewhere now: stop, and say nothing."""
        image = self._images.pop(key, None)
        if image is not None:
            image.stopped = True
            if self._in_engine(image):
                self._stop_engine_at_next_step(image)

    # The loop

    async def run(self) -> None:
        """Draw what comes, one batch after the other, until cancelled; then kill the engine."""
        try:
            while True:
                await self._draw(await self._waiting.get())
        finally:
            for task in self._beside:
                task.cancel()
            await self._engine.kill()

    async def _draw(self, batch: list[HeldImage]) -> None:
        """Draw a batch. Where it fails as a whole its images are drawn one by one, once: only the
        one that is to blame fails, and what its neighbours lose is time. One that is too much for
        the card alone is drawn once more, placed as takes less memory."""
        if not await self._try(batch):
            for image in batch:
                if not await self._try([image], last=len(batch) == 1):
                    await self._try([image], last=True)

    async def _try(self, batch: list[HeldImage], *, last: bool = False) -> bool:
        """Draw what is still wanted of a batch. False: each image is to be tried (again) alone;
        not where this is the `last` time."""
        engine = await self._ready_engine(batch)
        images = [image for image in batch if self._wanted(image)]
        if engine is None or not images:
            return True
        model = self._models[images[0].request.model_sha256]
        if not self._placed.worth_it(images):
            return False
        placement = self._placed.choose(images)
        if isinstance(placement, Refusal):
            for image in images:
                self._end(image, pb.TaskFailed(reason=placement.reason, retryable=True))
            return True
        drawing = self._drawing = Drawing(images, model, placement)
        for image in images:
            self._link.started(image.key)
        self._flush()
        try:
            await drawing.run(engine, self._listener)
        except EngineFailed as error:
            self._drawing = None
            another = self._placed.step_down(drawing, error) and not last
            apart = drawing.falls_apart(error) or another
            # The images first: they can be elsewhere while a new engine starts here.
            self._settle_failure(images, error, apart=apart)
            if await self._engine.mend(error):
                self.loaded = ""
            return not apart
        finally:
            self._drawing = None
        self._engine.drew()
        if self._placed.learn(drawing):
            self._changed()
        gone = EngineFailed("the engine ended the batch without this picture")
        self._settle_failure(images, gone, apart=False)
        return True

    async def _ready_engine(self, batch: list[HeldImage]) -> EngineProcess | None:
        """An engine for a batch, after as many tries as it takes: one that cannot start is no
        image's fault. None: nobody wants any of the images any more."""
        while any(self._wanted(image) for image in batch):
            try:
                return await self._engine.ready()
            except EngineFailed as error:
                self.loaded = ""
                await self._engine.mend(error)
        return None

    def _settle_failure(self, images: list[HeldImage], error: EngineFailed, *, apart: bool) -> None:
        """End what has no picture; but with `apart` only what nobody wants drawn again."""
        refused = error if isinstance(error, EngineRefused) else None
        if refused is not None and refused.out_of_memory:
            if apart and len(images) > 1:
                self._dare_less(images)
            if self.placer is not None or len(images) > 1:
                self._changed()  # what fits here, or how many, is another thing now
        for image in self._unfinished(images):
            if image.stopped:
                self._end(image, pb.TaskStopped())
            elif not apart:
                retryable = refused is None or refused.retryable
                self._end(image, pb.TaskFailed(reason=str(error), retryable=retryable))

    def _dare_less(self, images: list[HeldImage]) -> None:
        request = images[0].request
        self.together = after_out_of_memory(
            self.together, len(images), request.width, request.height
        )
        log.warning(
            "%d images at once were too many for %s: from now on %d of 256 x 256 pixels",
            len(images),
            self.device,
            self.together,
        )

    def _engine_changed(self) -> None:
        self._changed()
        if self.broken:
            self._give_back(self._unfinished(self._images.values()))

    def _give_back(self, images: Iterable[HeldImage]) -> None:
        """Others shall draw them; that is no failure of theirs."""
        for image in images:
            self._end(image, pb.TaskReleased(reason=f"the card is broken: {self.broken}"))

    def _tell_progress(self, images: Iterable[HeldImage], step: EngineStep) -> None:
        for image in images:
            self.loaded = image.request.model_sha256
            self._link.progress(image.key, step.step, step.steps)
        self._flush()

    def _in_engine(self, image: HeldImage) -> bool:
        return self._drawing is not None and self._drawing.holds(image)

    def _wanted(self, image: HeldImage) -> bool:
        return not image.stopped and image.key in self._images

    def _unfinished(self, images: Iterable[HeldImage]) -> list[HeldImage]:
        return [image for image in images if image.png is None and image.key in self._images]

    def _deliver(self, image: HeldImage) -> None:
        """Beside the next batch, so that the card does not wait for the network."""
        if image.key in self._images:
            self._keep(asyncio.create_task(self._send(image), name=f"send {image.item_id}"))

    async def _send(self, image: HeldImage) -> None:
        assert image.png is not None
        task = image.task
        try:
            stored = await self._pictures.put(
                task.upload_path,
                task.upload_token,
                image.png.png,
                wanted=lambda: image.key in self._images,
            )
        except PictureRefused as error:
            if error.stale:
                log.info("image %s belongs to somebody else by now", image.item_id)
            self._end(image, pb.TaskFailed(reason=str(error), retryable=True))
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
            versions=self._engine.description.versions,
        )
        self._end(image, pb.TaskFinished(picture=picture, receipt=stored.receipt))

    def _end(
        self,
        image: HeldImage,
        outcome: pb.TaskFinished | pb.TaskFailed | pb.TaskReleased | pb.TaskStopped,
    ) -> None:
        """Report how it ended; the link says it again until the broker has settled it."""
        if self._images.pop(image.key, None) is not None:
            self._link.outcome(image.key, outcome)
            self._flush()

    def _stop_engine_at_next_step(self, image: HeldImage) -> None:
        self._keep(asyncio.create_task(self._engine.stop(image.item_id)))

    def _keep(self, task: asyncio.Task[None]) -> None:
        """Hold on to a task beside the loop: the event loop itself does not."""
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)
