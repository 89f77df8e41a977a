"""How a batch lies on its card, and what is learnt from it: between a worker and its placer."""

from __future__ import annotations

from collections.abc import Sequence

from foxden_agent.drawing import Drawing, HeldImage
from foxden_agent.engine_errors import EngineFailed, EngineRefused
from foxden_agent.placement import Placement, Refusal
from foxden_agent.placement.placer import Placer, work_of


class PlacedBatches:
    """Without a placer the engine decides, and nothing is learnt."""

    def __init__(self, placer: Placer | None) -> None:
        self.placer = placer

    def choose(self, images: Sequence[HeldImage]) -> Placement | Refusal | None:
        """For images that share their batch key. None leaves it to the engine."""
        if self.placer is None:
            return None
        requests = [image.request for image in images]
        return self.placer.choose(requests[0].model_sha256, work_of(requests))

    def worth_it(self, images: Sequence[HeldImage]) -> bool:
        """Whether these are drawn together as fast as one alone is: a batch is not worth a slower
        placement, and loading the model again for it."""
        if len(images) < 2:
            return True
        alone, together = self.choose(images[:1]), self.choose(images)
        if isinstance(alone, Placement):
            return isinstance(together, Placement) and together.name == alone.name
        return True

    def step_down(self, drawing: Drawing, error: EngineFailed) -> bool:
        """Remember what was too much for the card. True: there is another placement to try."""
        if not (isinstance(error, EngineRefused) and error.out_of_memory):
            return False
        return self._too_much(drawing)

    def learn(self, drawing: Drawing) -> bool:
        """Correct the estimates by what a batch took. What the driver put into the machine's RAM
        was too much, although there is a picture. True: estimates are others now."""
        if self.placer is None or drawing.placement is None:
            return False
        if drawing.measured.spilled:
            self._too_much(drawing)
            return True
        requests = [image.request for image in drawing.images]
        model, peak = requests[0].model_sha256, drawing.measured.peak_memory
        return self.placer.took(
            model, work_of(requests), drawing.placement, peak, beside=drawing.beside
        )

    def _too_much(self, drawing: Drawing) -> bool:
        if self.placer is None or drawing.placement is None:
            return False
        requests = [image.request for image in drawing.images]
        model = requests[0].model_sha256
        return self.placer.ran_out(model, work_of(requests), drawing.placement)
