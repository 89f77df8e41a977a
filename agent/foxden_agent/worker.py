"""One card's worker: takes images in order, has its engine draw them, reports how each ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from foxden_agent.card_engine import CardEngine
from foxden_agent.engine_client import EngineFailed, EngineProcess, EngineRefused
from foxden_agent.models import LocalModel
from foxden_agent.pictures import PictureRefused, PictureSender
from foxden_proto import logs
from foxden_proto.link import AgentLink, LeaseKey
from foxden_proto.v1 import engine_pb2, generation_pb2
from foxden_proto.v1 import link_pb2 as pb

log = logging.getLogger(__name__)


@dataclass
class _Image:
    """An image this card holds, from assignment to outcome."""

    key: LeaseKey
    task: pb.AssignedTask
    stopped: bool = False  # the client cancelled it
    png: engine_pb2.EnginePicture | None = field(default=None, repr=False)

    @property
    def item_id(self) -> str:
        return f"{self.key.job_id}/{self.key.index}/{self.key.lease_no}"


class CardWorker:
    """Draws what one card is given. `run` is its loop; the other methods are told by the link."""

    def __init__(
        self,
        card_id: str,
        device: str,
        engine: CardEngine,
        models: dict[str, LocalModel],
        link: AgentLink,
        pictures: PictureSender,
        flush: Callable[[], None],
    ) -> None:
        self.card_id = card_id
        self.device = device
        self._engine = engine
        self._models = models  # by sha256
        self._link = link
        self._pictures = pictures
        self._flush = flush
        self._waiting: asyncio.Queue[_Image] = asyncio.Queue()
        self._images: dict[LeaseKey, _Image] = {}
        self._drawing: _Image | None = None
        self._beside: set[asyncio.Task[None]] = set()
        self.loaded = ""  # sha256 of the model in the card's memory

    # What the link says

    def assign(self, assignment: pb.Assignment) -> None:
        """Take images, or refuse those whose model is not here (any more)."""
        for task in assignment.tasks:
            key = LeaseKey.of(task.lease)
            if task.request.model_sha256 not in self._models:
                self._link.refuse([key], f"this card has no model {task.request.model}")
                continue
            image = _Image(key, task)
            self._images[key] = image
            self._waiting.put_nowait(image)
            self._link.acknowledge([key])

    def stop(self, key: LeaseKey) -> None:
        """The client cancelled it: what waits ends now, what is drawn at its next step."""
        image = self._images.get(key)
        if image is None:
            return
        image.stopped = True
        if image is self._drawing:
            self._stop_engine_at_next_step(image)
        elif image.png is None:
            self._end(image, pb.TaskStopped())

    def drop(self, key: LeaseKey) -> None:
        """It runs elsewhere now: stop, and say nothing."""
        image = self._images.pop(key, None)
        if image is not None:
            image.stopped = True
            if image is self._drawing:
                self._stop_engine_at_next_step(image)

    # The loop

    async def run(self) -> None:
        """Draw what comes, one after the other, until cancelled; then kill the engine."""
        try:
            while True:
                image = await self._waiting.get()
                if image.stopped or image.key not in self._images:
                    continue
                self._drawing = image
                try:
                    await self._draw(image)
                finally:
                    self._drawing = None
        finally:
            for task in self._beside:
                task.cancel()
            await self._engine.kill()

    async def _draw(self, image: _Image) -> None:
        self._link.started(image.key)
        self._flush()
        try:
            engine = await self._engine.ready()
            picture = await self._run_engine(engine, image)
        except EngineRefused as error:
            self._end(image, pb.TaskFailed(reason=str(error), retryable=error.retryable))
        except EngineFailed as error:
            self.loaded = ""
            log.error(
                *("the engine of %s is replaced: %s", self.device, error),
                extra=logs.fields(card=self.card_id),
            )
            self._end(image, pb.TaskFailed(reason=str(error), retryable=True))
            await self._engine.replace()
        else:
            if picture is None:
                self._end(image, pb.TaskStopped())
                return
            image.png = picture
            # Sent beside the next image, so that the card does not wait for the network.
            self._keep(asyncio.create_task(self._send(image), name=f"send {image.item_id}"))

    async def _run_engine(
        self, engine: EngineProcess, image: _Image
    ) -> engine_pb2.EnginePicture | None:
        """The finished picture; None where it was stopped."""
        model = self._models[image.task.request.model_sha256]
        item = engine_pb2.BatchItem(item_id=image.item_id, request=image.task.request)
        source = engine_pb2.ModelSource(
            name=model.model.name,
            sha256=model.model.sha256,
            path=str(model.path),
            family=model.model.family,
        )
        batch = engine_pb2.Batch(model=source, items=[item])
        picture = None
        async for event in engine.generate(batch):
            match event.WhichOneof("event"):
                case "step":
                    self.loaded = image.task.request.model_sha256
                    self._link.progress(image.key, event.step.step, event.step.steps)
                    self._flush()
                case "picture":
                    picture = event.picture
                case "stopped":
                    continue  # read on to the end: until then the engine refuses the next image
            if image.stopped:
                self._stop_engine_at_next_step(image)
        return picture

    async def _send(self, image: _Image) -> None:
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
        image: _Image,
        outcome: pb.TaskFinished | pb.TaskFailed | pb.TaskStopped,
    ) -> None:
        """Report how it ended; the link says it again until the broker has settled it."""
        if self._images.pop(image.key, None) is not None:
            self._link.outcome(image.key, outcome)
            self._flush()

    def _stop_engine_at_next_step(self, image: _Image) -> None:
        self._keep(asyncio.create_task(self._engine.stop(image.item_id)))

    def _keep(self, task: asyncio.Task[None]) -> None:
        """Hold on to a task beside the loop: the event loop itself does not."""
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)
