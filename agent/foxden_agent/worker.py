"""One card's worker: takes images in batches, has its engine draw them, reports how each ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable

from foxden_agent.card_engine import CardEngine
from foxden_agent.drawing import Drawing, HeldImage, Listener
from foxden_agent.engine_client import EngineProcess
from foxden_agent.engine_errors import EngineFailed, EngineRefused
from foxden_agent.held_images import HeldImages
from foxden_agent.model_cache import ModelCache
from foxden_agent.model_files import ModelFilesChanged
from foxden_agent.models import LocalModel
from foxden_agent.placed_batches import PlacedBatches
from foxden_agent.placement import Refusal
from foxden_agent.placement.placer import Placer
from foxden_agent.reports import Bytes, Reports
from foxden_agent.together import after_out_of_memory
from foxden_proto.batches import batches
from foxden_proto.link import LeaseKey
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
        self._flush = flush
        self._changed = changed
        self._waiting: asyncio.Queue[list[HeldImage]] = asyncio.Queue()
        self.held = HeldImages(link, pictures, flush, lambda: engine.description.versions)
        self._drawing: Drawing | None = None
        self._batch: list[HeldImage] = []  # taken from the queue last; may have ended
        self._doing: asyncio.Task[None] | None = None
        self._leaving: asyncio.Task[None] | None = None  # the engine's end after a give-back
        self._lent = asyncio.Event()
        self._lent.set()
        self._to_stop: list[str] = []
        self._listener = Listener(
            step=self._tell_progress,
            picture=self.held.deliver,
            stopped=self._stopped,
            save=self.held.save,
            stop=self._stop_engine_at_next_step,
        )
        self.not_ready = ""  # why its owner does not lend it now; empty while he does
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
            self.held.add(image)
            taken.append(image)
        if taken:
            self._link.acknowledge([image.key for image in taken])
        if self.broken:  # given before the broker heard of it
            self.held.release(taken, f"the card is broken: {self.broken}")
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
        return len(self.held) > 0

    @property
    def cache(self) -> ModelCache:
        """Which models are in memory."""
        return self._engine.models.cache

    def stop(self, key: LeaseKey) -> None:
        """The client cancelled it: what waits ends now, what is drawn at its next step."""
        image = self.held.get(key)
        if image is None:
            return
        image.stopped = True
        if self._in_engine(image):
            self._stop_engine_at_next_step(image)
        elif image.png is None:
            self.held.end(image, pb.TaskStopped())

    def drop(self, key: LeaseKey) -> None:
        """It runs elsewhere now: stop, and say nothing."""
        image = self.held.forget(key)
        if image is not None:
            image.stopped = True
            if self._in_engine(image):
                self._stop_engine_at_next_step(image)

    def preempt(self, key: LeaseKey, reason: str) -> None:
        """More urgent work needs the card: what waits goes back now, what is drawn at its next
        step, with its checkpoint."""
        image = self.held.get(key)
        if image is None or image.stopped or not self.held.unfinished([image]):
            return
        why = reason[:_REASON_CHARACTERS] or "more urgent work needs the card"
        if self._in_engine(image):
            image.leaving = why
            self._stop_engine_at_next_step(image)
        else:
            self.held.release([image], why)

    # What the owner says. Mode and reasons are told to the broker first, by whoever decides.

    def allow(self) -> None:
        """The card is lent again."""
        self.not_ready = ""
        self._lent.set()

    def finish_current(self, reasons: Iterable[str]) -> None:
        """What is drawn is drawn to its end; all else goes back, and nothing new is taken."""
        self._bar(reasons)
        self.held.release(self._not_begun(), self.not_ready)

    def give_back(self, reasons: Iterable[str]) -> asyncio.Task[None]:
        """The owner wants the card now. Nothing new is taken, what waits goes back, what is drawn
        goes back with its last checkpoint, and the engine is killed whatever it is doing. The task
        ends when the engine is gone and the card's memory is free; what it drew may still be on
        its way to the broker then. Works as well without a link: it is said when there is one."""
        self._bar(reasons)
        why = self.not_ready
        self.held.release(self._not_begun(), why)
        self.held.leave(self.held.unfinished(self._batch), why)
        if self._doing is not None:
            self._doing.cancel()
        self._leaving = self.held.beside(self._engine_gone(self._doing), "engine given back")
        return self._leaving

    def _bar(self, reasons: Iterable[str]) -> None:
        self.not_ready = "; ".join(reasons)[:_REASON_CHARACTERS] or "its owner needs it"
        self._lent.clear()

    def _not_begun(self) -> list[HeldImage]:
        return [one for one in self.held.unfinished(self.held) if one not in self._batch]

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
            self.held.break_off()
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
        await asyncio.gather(*(self.held.fetch(image) for image in batch))
        engine = await self._ready_engine(batch)
        images = [image for image in batch if self.held.wanted(image)]
        if engine is None or not images:
            return True
        model = self._models.get(images[0].request.model_sha256)
        if model is None:  # another image, or another card, found its files changed meanwhile
            self.held.release(images, "the files of its model have changed on this card's PC")
            return True
        if not self._placed.worth_it(images):
            return False
        placement = self._placed.choose(images)
        if isinstance(placement, Refusal):
            for image in images:
                self.held.end(image, pb.TaskFailed(reason=placement.reason, retryable=True))
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
                self.held.refuse_checkpoints(images, str(error))
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
        while any(self.held.wanted(image) for image in batch):
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
        for image in self.held.unfinished(images):
            if image.stopped:
                self.held.end(image, pb.TaskStopped())
            elif not apart:
                retryable = refused is None or refused.retryable
                self.held.end(image, pb.TaskFailed(reason=str(error), retryable=retryable))

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
            unfinished = self.held.unfinished(self.held)
            self.held.release(unfinished, f"the card is broken: {self.broken}")

    def _set_aside(self, model: LocalModel, images: list[HeldImage], why: str) -> None:
        """The model is not offered until its files are whole again (mended_models.py); nobody is
        blamed, and what was drawn goes on from its last step, elsewhere or here after that."""
        log.warning("%s", why)
        self._models.pop(model.model.sha256, None)
        self._changed()  # said first: what is released must not come back at once
        waiting = [
            one for one in self._not_begun() if one.request.model_sha256 == model.model.sha256
        ]
        self.held.release(waiting, why)
        for image in self.held.unfinished(images):
            if image.stopped:
                self.held.end(image, pb.TaskStopped())
        self.held.leave(self.held.unfinished(images), why)

    def _stopped(self, image: HeldImage) -> None:
        """The engine has stopped it: the client wanted that, or more urgent work."""
        if image.stopped or not image.leaving:
            self.held.end(image, pb.TaskStopped())
        else:
            self.held.leave(self.held.unfinished([image]), image.leaving)

    def _tell_progress(self, images: Iterable[HeldImage], step: EngineStep) -> None:
        for image in images:
            self._link.progress(image.key, step.step, step.steps)
        self._flush()

    def _tell_loaded(self, sha256: str, seconds: float, came_from: Tier.ValueType) -> None:
        self._link.model_loaded(self.card_id, sha256, seconds, came_from)
        self._flush()

    def _in_engine(self, image: HeldImage) -> bool:
        return self._drawing is not None and self._drawing.holds(image)

    def _stop_engine_at_next_step(self, image: HeldImage) -> None:
        self._to_stop.append(image.item_id)
        if len(self._to_stop) == 1:
            self.held.beside(self._stop_together(), "stop")

    async def _stop_together(self) -> None:
        # In one word: images of a batch that stop at the same step can go on together.
        items, self._to_stop = self._to_stop, []
        await self._engine.stop(items)
