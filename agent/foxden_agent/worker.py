"""One card's worker: takes images in batches, has its engine draw them, reports how each ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable

from foxden_agent.card_engine import CardEngine
from foxden_agent.checkpoints import CheckpointRefused, Checkpoints, Unreachable
from foxden_agent.drawing import Drawing, HeldImage, Listener
from foxden_agent.engine_client import EngineFailed, EngineProcess, EngineRefused
from foxden_agent.model_cache import ModelCache
from foxden_agent.model_files import ModelFilesChanged
from foxden_agent.models import LocalModel
from foxden_agent.pictures import PictureRefused
from foxden_agent.placed_batches import PlacedBatches
from foxden_agent.placement import Refusal
from foxden_agent.placement.placer import Placer
from foxden_agent.reports import Bytes, Reports
from foxden_agent.together import after_out_of_memory
from foxden_proto.batches import batches
from foxden_proto.link import LeaseKey
from foxden_proto.v1 import generation_pb2
from foxden_proto.v1 import link_pb2 as pb
from foxden_proto.v1.engine_pb2 import EngineStep
from foxden_proto.v1.pool_pb2 import Tier

log = logging.getLogger(__name__)

_REASON_CHARACTERS = 300


class CardWorker:
    """Draws what one card is given. `run` is its loop; the other methods are told by the link.

    `together` is how many images ride in one batch (CardInfo.most_together). It shrinks where a
    batch did not fit into the card's memory. `placer` decides how models lie on the card; without
    one the engine does. `models` are those offered, by sha256, shared by all cards of the agent:
    one whose files have changed is taken out. `changed` is called when something that the card
    says of itself is another now.
    """

    def __init__(
        self,
        card_id: str,
        device: str,
        engine: CardEngine,
        models: dict[str, LocalModel],
        link: Reports,
        pictures: Bytes,
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
        self._models = models
        self._link = link
        self._pictures = pictures
        self._flush = flush
        self._changed = changed
        self._waiting: asyncio.Queue[list[HeldImage]] = asyncio.Queue()
        self._images: dict[LeaseKey, HeldImage] = {}
        self._drawing: Drawing | None = None
        self._batch: list[HeldImage] = []  # taken from the queue last; may have ended
        self._doing: asyncio.Task[None] | None = None
        self._leaving: asyncio.Task[None] | None = None  # the engine's end after a give-back
        self._checkpoints = Checkpoints(link, pictures, flush, self._holds)
        self._lent = asyncio.Event()
        self._lent.set()
        self._beside: set[asyncio.Task[None]] = set()
        self._to_stop: list[str] = []
        self._listener = Listener(
            step=self._tell_progress,
            picture=self._deliver,
            stopped=self._stopped,
            save=self._save,
            stop=self._stop_engine_at_next_step,
        )
        self.not_ready = ""  # why its owner does not lend it now; empty while he does
        self.on_picture: Callable[[], None] = lambda: None  # called when the broker has a picture
        engine.on_change = self._engine_changed
        engine.models.on_loaded = self._tell_loaded

    @property
    def broken(self) -> str:
        """Why this card can draw nothing now; empty while it can."""
        return self._engine.broken

    @property
    def drawing(self) -> Drawing | None:
        """The batch that its engine loads for or draws now."""
        return self._drawing

    @property
    def busy(self) -> bool:
        """Whether its engine has something to do now: start, load or draw."""
        return self._doing is not None

    # What the link says

    def assign(self, assignment: pb.Assignment) -> None:
        """Take images as one batch, or as several where they cannot ride together; refuse those
        whose model is not here (any more)."""
        if self.not_ready:  # given before the broker heard of it
            keys = [LeaseKey.of(task.lease) for task in assignment.tasks]
            self._link.refuse(keys, f"not ready: {self.not_ready}", not_ready=True)
            return
        taken = []
        for task in assignment.tasks:
            key = LeaseKey.of(task.lease)
            if task.request.model_sha256 not in self._models:
                why = f"this card has no model {task.request.model or task.request.model_sha256}"
                self._link.refuse([key], why)
                continue
            image = HeldImage(key, task)
            self._images[key] = image
            taken.append(image)
        if taken:
            self._link.acknowledge([image.key for image in taken])
        if self.broken:  # given before the broker heard of it
            self._release(taken, f"the card is broken: {self.broken}")
            return
        for batch in batches(
            taken, lambda image: image.request, self.together, lambda image: image.resumes_at
        ):
            self._waiting.put_nowait(batch)
            if self._drawing is not None:
                self.prefetch(batch[0].request.model_sha256)

    def prefetch(self, sha256: str) -> None:
        """This model comes next: bring it into RAM meanwhile, if it is one of ours."""
        local = self._models.get(sha256)
        if local is not None and not self.not_ready:
            self._engine.prefetch(local)

    def is_busy(self) -> bool:
        """Whether it has anything to draw, or to hand over."""
        return bool(self._images)

    @property
    def cache(self) -> ModelCache:
        """Which models are in memory."""
        return self._engine.models.cache

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

    def preempt(self, key: LeaseKey, reason: str) -> None:
        """More urgent work needs the card: what waits goes back now, what is drawn at its next
        step, with its checkpoint."""
        image = self._images.get(key)
        if image is None or image.stopped or image.png is not None:
            return
        why = reason[:_REASON_CHARACTERS] or "more urgent work needs the card"
        if self._in_engine(image):
            image.leaving = why
            self._stop_engine_at_next_step(image)
        else:
            self._release([image], why)

    # What the owner says. Mode and reasons are told to the broker first, by whoever decides.

    def allow(self) -> None:
        """The card is lent again."""
        self.not_ready = ""
        self._lent.set()

    def finish_current(self, reasons: Iterable[str]) -> None:
        """What is drawn is drawn to its end; all else goes back, and nothing new is taken."""
        self._bar(reasons)
        self._release(self._not_begun(), self.not_ready)

    def give_back(self, reasons: Iterable[str]) -> asyncio.Task[None]:
        """The owner wants the card now. Nothing new is taken, what waits goes back, what is drawn
        goes back with its last checkpoint, and the engine is killed whatever it is doing. The task
        ends when the engine is gone and the card's memory is free; what it drew may still be on
        its way to the broker then. Works as well without a link: it is said when there is one."""
        self._bar(reasons)
        why = self.not_ready
        self._release(self._not_begun(), why)
        drawn = self._unfinished(self._batch)
        for image in drawn:
            self._link.outcome(image.key, pb.TaskReleased(releasing=True, reason=why))
        self._flush()
        if self._doing is not None:
            self._doing.cancel()
        self._keep(asyncio.create_task(self._last_words(drawn, why), name="last checkpoints"))
        gone = asyncio.create_task(self._engine_gone(self._doing), name="engine given back")
        self._keep(gone)
        self._leaving = gone
        return gone

    async def last_things(self, within: float) -> None:
        """Wait, so many seconds at most, for what is on its way to the broker."""
        if self._beside:
            await asyncio.wait(set(self._beside), timeout=within)

    def _bar(self, reasons: Iterable[str]) -> None:
        self.not_ready = "; ".join(reasons)[:_REASON_CHARACTERS] or "its owner needs it"
        self._lent.clear()

    def _not_begun(self) -> list[HeldImage]:
        return [one for one in self._unfinished(self._images.values()) if one not in self._batch]

    async def _engine_gone(self, doing: asyncio.Task[None] | None) -> None:
        await self._engine.kill()
        if doing is not None:
            await asyncio.wait([doing])  # it may have been starting another
            await self._engine.kill()

    # The loop

    async def run(self) -> None:
        """Draw what comes, one batch after the other, until cancelled; then kill the engine."""
        try:
            while True:
                await self._lent.wait()
                if self._leaving is not None:
                    # Lent again while its engine is still being ended: a new one would be killed.
                    await asyncio.wait([self._leaving])
                    self._leaving = None
                elif self.broken:  # its owner came while that was looked into
                    await self._unless_given_back(self._engine.recover())
                else:
                    self._batch = await self._waiting.get()
                    await self._unless_given_back(self._draw(self._batch))
                    self._batch = []
        finally:
            for task in self._beside:
                task.cancel()
            await self._engine.kill()

    async def _unless_given_back(self, doing: Coroutine[None, None, None]) -> None:
        """Do it; `give_back` breaks it off."""
        self._doing = task = asyncio.create_task(doing, name=f"card {self.card_id}")
        try:
            await asyncio.wait([task])
        finally:
            self._doing = None
            if not task.done():
                task.cancel()
                await asyncio.wait([task])
        if not task.cancelled():
            task.result()

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
        await asyncio.gather(*(self._fetch(image) for image in batch))
        engine = await self._ready_engine(batch)
        images = [image for image in batch if self._wanted(image)]
        if engine is None or not images:
            return True
        model = self._models.get(images[0].request.model_sha256)
        if model is None:  # another image, or another card, found its files changed meanwhile
            self._release(images, "the files of its model have changed on this card's PC")
            return True
        if not self._placed.worth_it(images):
            return False
        placement = self._placed.choose(images)
        if isinstance(placement, Refusal):
            for image in images:
                self._end(image, pb.TaskFailed(reason=placement.reason, retryable=True))
            return True
        every = self._link.timers.checkpoint
        drawing = self._drawing = Drawing(images, model, placement, save_every=every)
        for image in images:
            self._link.started(image.key)
        self._flush()
        try:
            await drawing.run(engine, self._engine.models, self._listener)
        except EngineFailed as error:
            self._drawing = None
            if isinstance(error, ModelFilesChanged):
                self._set_aside(model, images, str(error)[:_REASON_CHARACTERS])
                return True
            if isinstance(error, EngineRefused) and error.about_the_checkpoint:
                self._refuse_checkpoints(images, str(error))
                return True
            another = self._placed.step_down(drawing, error) and not last
            apart = drawing.falls_apart(error) or another
            # The images first: they can be elsewhere while a new engine starts here.
            self._settle_failure(images, error, apart=apart)
            await self._engine.mend(error)
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
            unfinished = self._unfinished(self._images.values())
            self._release(unfinished, f"the card is broken: {self.broken}")

    def _set_aside(self, model: LocalModel, images: list[HeldImage], why: str) -> None:
        """The model is not offered until its files are whole again (mended_models.py); nobody is
        blamed, and what was drawn goes on from its last step, elsewhere or here after that."""
        log.warning("%s", why)
        self._models.pop(model.model.sha256, None)
        self._changed()  # said first: what is released must not come back at once
        waiting = [
            one for one in self._not_begun() if one.request.model_sha256 == model.model.sha256
        ]
        self._release(waiting, why)
        for image in self._unfinished(images):
            if image.stopped:
                self._end(image, pb.TaskStopped())
        drawn = self._unfinished(images)
        for image in drawn:
            self._link.outcome(image.key, pb.TaskReleased(releasing=True, reason=why))
        self._flush()
        self._keep(asyncio.create_task(self._last_words(drawn, why), name="last checkpoints"))

    # Going on elsewhere

    def _release(self, images: Iterable[HeldImage], reason: str) -> None:
        """Others shall draw them; that is no failure of theirs."""
        for image in images:
            self._end(image, pb.TaskReleased(reason=reason))

    def _stopped(self, image: HeldImage) -> None:
        """The engine has stopped it: the client wanted that, or more urgent work."""
        if image.stopped or not image.leaving:
            self._end(image, pb.TaskStopped())
        elif image.key in self._images:
            self._link.outcome(image.key, pb.TaskReleased(releasing=True, reason=image.leaving))
            self._flush()
            self._keep(asyncio.create_task(self._last_words([image], image.leaving)))

    async def _last_words(self, images: list[HeldImage], reason: str) -> None:
        await self._checkpoints.last_words(images, reason, self._end)

    def _save(self, image: HeldImage, step: int) -> None:
        if image.key in self._images and image.task.checkpoint_path:
            self._keep(asyncio.create_task(self._checkpoints.save(image, step)))

    async def _fetch(self, image: HeldImage) -> None:
        """Have what it goes on from; one that cannot be had ends it."""
        if not image.resumes_at or image.resume or not self._wanted(image):
            return
        try:
            await self._checkpoints.fetch(image)
        except CheckpointRefused as error:
            self._refuse_checkpoints([image], str(error))
        except Unreachable as error:
            self._end(image, pb.TaskFailed(reason=str(error), retryable=True))

    def _refuse_checkpoints(self, images: Iterable[HeldImage], reason: str) -> None:
        for image in self._unfinished(images):
            refused = pb.TaskFailed(reason=reason, retryable=True, checkpoint_refused=True)
            self._end(image, pb.TaskStopped() if image.stopped else refused)

    def _holds(self, image: HeldImage) -> bool:
        return image.key in self._images

    def _tell_progress(self, images: Iterable[HeldImage], step: EngineStep) -> None:
        for image in images:
            self._link.progress(image.key, step.step, step.steps)
        self._flush()

    def _tell_loaded(self, sha256: str, seconds: float, came_from: Tier.ValueType) -> None:
        self._link.model_loaded(self.card_id, sha256, seconds, came_from)
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
        self.on_picture()
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
        self._to_stop.append(image.item_id)
        if len(self._to_stop) == 1:
            self._keep(asyncio.create_task(self._stop_together()))

    async def _stop_together(self) -> None:
        # In one word: images of a batch that stop at the same step can go on together.
        items, self._to_stop = self._to_stop, []
        await self._engine.stop(items)

    def _keep(self, task: asyncio.Task[None]) -> None:
        """Hold on to a task beside the loop: the event loop itself does not."""
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)
