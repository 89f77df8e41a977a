"""One batch on its way through the engine: which of its images are still in there, and what its
events mean for each of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from foxden_agent.engine_client import EngineProcess
from foxden_agent.engine_errors import EngineFailed, EngineRefused
from foxden_agent.model_loader import ModelLoader, source
from foxden_agent.models import LocalModel
from foxden_agent.placement import Placement
from foxden_proto.link import LeaseKey
from foxden_proto.v1 import link_pb2 as pb
from foxden_proto.v1.engine_pb2 import (
    Batch,
    BatchItem,
    EngineCheckpoint,
    EngineMeasured,
    EnginePicture,
    EngineStep,
)
from foxden_proto.v1.generation_pb2 import ImageRequest

# A batch tells its progress in one word per image, and a card's words together are no more than
# ten a second: thirty cards talk to one broker.
_PROGRESS_SECONDS = 0.1
_KEPT = 2  # checkpoints of an image


@dataclass(eq=False)
class HeldImage:
    """An image that a card holds, from assignment to outcome."""

    key: LeaseKey
    task: pb.AssignedTask
    resume: bytes = field(default=b"", repr=False)  # the checkpoint that it goes on from
    checkpoints: dict[int, bytes] = field(default_factory=dict, repr=False)  # the newest, by step
    stored: tuple[pb.Checkpoint, str] | None = None  # the newest the broker has, with its receipt
    unstorable: bool = False  # this broker takes no checkpoints
    leaving: str = ""  # why it is to be released at its next step
    left: bool = False  # it is another's to go on with; held until its last checkpoint is there
    stopped: bool = False  # the client cancelled it, or it is another card's by now
    png: EnginePicture | None = field(default=None, repr=False)

    @property
    def item_id(self) -> str:
        return f"{self.key.job_id}/{self.key.index}/{self.key.lease_no}"

    @property
    def request(self) -> ImageRequest:
        return self.task.request

    @property
    def resumes_at(self) -> int:
        """Model calls that are behind the checkpoint it goes on from; 0: it begins."""
        return int(self.task.resume.step) if self.task.HasField("resume") else 0

    def keep(self, step: int, data: bytes) -> None:
        """Two, so that a batch whose engine is killed between the words of one step has a step
        that all of its images have a checkpoint of."""
        self.checkpoints[step] = data
        while len(self.checkpoints) > _KEPT:
            del self.checkpoints[min(self.checkpoints)]


@dataclass(frozen=True)
class Listener:
    """Who is told what happens to a batch's images."""

    step: Callable[[Iterable[HeldImage], EngineStep], None]
    picture: Callable[[HeldImage], None]  # it is in image.png
    stopped: Callable[[HeldImage], None]
    save: Callable[[HeldImage, int], None]  # the checkpoint of this step is worth storing
    stop: Callable[[HeldImage], None]  # shall tell the engine to stop this one


class Drawing:
    """A batch in the engine. `images` are at least one and share their batch key. Without a
    `placement` the engine decides how the model lies."""

    def __init__(
        self,
        images: Sequence[HeldImage],
        model: LocalModel,
        placement: Placement | None = None,
        *,
        save_every: float,
    ) -> None:
        """`save_every`: seconds between two checkpoints that are stored."""
        self.images = images
        self.placement = placement
        self.measured = EngineMeasured()  # what it took, once it has ended
        self.beside = 0  # bytes of other models that lay on the card meanwhile
        self.step, self.steps = 0, 0  # how far it is; both 0 before the first step
        self._save_every = save_every
        self._save_at = time.monotonic() + save_every
        self._saved_step = 0
        for image in images:
            image.checkpoints.clear()  # of an earlier try, which took another way
        self._model = model
        self._inside = {image.item_id: image for image in images}
        self._stage = ""
        self._next_word = 0.0

    @property
    def model_name(self) -> str:
        """What it draws with."""
        return self._model.model.name

    def holds(self, image: HeldImage) -> bool:
        """True until the engine has ended this image."""
        return image.item_id in self._inside

    def falls_apart(self, error: EngineFailed) -> bool:
        """True where one of the images may be to blame, so that each deserves a try of its own.

        A model that cannot be loaded is no image's fault, and would be as bad at the next try.
        """
        about_the_model = isinstance(error, EngineRefused) and error.about_the_model
        return len(self.images) > 1 and not about_the_model and self._stage != "loading"

    async def run(self, engine: EngineProcess, models: ModelLoader, listener: Listener) -> None:
        """Returns when the engine has ended the batch. Raises EngineFailed."""
        try:
            self._stage = "loading"
            await models.ready(engine, self._model, self.placement)
            self._stage = ""
            try:
                await self._draw(engine, models, listener)
            except EngineRefused as error:
                # What the card lacked, models beside this one may have had.
                if not error.out_of_memory or not await models.put_out_others(engine, self._model):
                    raise
                await self._draw(engine, models, listener)
        except EngineFailed as error:
            raise models.explained(error, self._model) from error

    async def _draw(self, engine: EngineProcess, models: ModelLoader, listener: Listener) -> None:
        """Draw what the engine has not ended yet."""
        self.beside = models.beside(self._model)
        batch = Batch(
            model=source(self._model),
            items=[
                BatchItem(item_id=item_id, request=image.request, checkpoint=image.resume)
                for item_id, image in self._inside.items()
            ],
            placement=self.placement.message() if self.placement is not None else None,
            checkpoints=any(image.task.checkpoint_path for image in self.images),
        )
        async for event in engine.generate(batch):
            match event.WhichOneof("event"):
                case "stage":
                    self._stage = event.stage.stage
                case "step":
                    self.step, self.steps = event.step.step, event.step.steps
                    if self._due(event.step):
                        listener.step(self._inside.values(), event.step)
                case "checkpoint":
                    if image := self._inside.get(event.checkpoint.item_id):
                        self._keep(image, event.checkpoint, listener)
                case "picture":
                    if image := self._inside.pop(event.picture.item_id, None):
                        image.png = event.picture
                        listener.picture(image)
                case "stopped":
                    # Read on to the end: until then the engine refuses the next batch.
                    if image := self._inside.pop(event.stopped.item_id, None):
                        listener.stopped(image)
                case "measured":
                    self.measured = event.measured
                    if event.measured.load_seconds > 0:
                        models.loaded_by_itself(self._model, event.measured, self.placement)
            for image in self._inside.values():
                if (
                    image.stopped or image.leaving
                ):  # again: a word that came before the batch had begun was lost
                    listener.stop(image)

    def _keep(self, image: HeldImage, checkpoint: EngineCheckpoint, listener: Listener) -> None:
        """Now and then one is stored: of all images those of the same step, so that they can go on
        together."""
        image.keep(checkpoint.step, checkpoint.data)
        if checkpoint.step != self._saved_step and time.monotonic() >= self._save_at:
            self._saved_step = checkpoint.step
            self._save_at = time.monotonic() + self._save_every
        if checkpoint.step == self._saved_step:
            listener.save(image, checkpoint.step)

    def _due(self, step: EngineStep) -> bool:
        now = time.monotonic()
        if now < self._next_word and step.step < step.steps:
            return False
        self._next_word = now + _PROGRESS_SECONDS * len(self.images)
        return True
