"""One card's placements while the agent runs: chosen for each batch, corrected after it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from foxden_agent.models import LocalModel
from foxden_agent.placement import estimates
from foxden_agent.placement.facts import CardFacts, ModelFacts, Placement, Refusal, Work
from foxden_agent.placement.ladder import largest_pixels, place
from foxden_agent.placement.model_files import Unreadable, read_model
from foxden_agent.placement.remembered import Measurements, Remembered
from foxden_agent.together import images_together
from foxden_proto.v1.generation_pb2 import ImageRequest
from foxden_proto.v1.pool_pb2 import ModelFit

log = logging.getLogger(__name__)

_REASON_CHARACTERS = 200


def read_models(found: Iterable[LocalModel]) -> dict[str, ModelFacts]:
    """The facts of these models by sha256; one whose sizes can't be told is left out, with a
    warning, and taken to fit. Reads headers: call it on a thread."""
    facts = {}
    for one in found:
        try:
            facts[one.model.sha256] = read_model(one.path, one.model.family)
        except (Unreadable, OSError) as error:
            log.warning("what model %s takes is not known: %s", one.model.name, error)
    return facts


def work_of(requests: Sequence[ImageRequest]) -> Work:
    """What a batch asks of a card; its requests share their batch key."""
    first = requests[0]
    guided = first.guidance_scale > 1.0
    return Work(first.width * first.height, len(requests), guided)


class Placer:
    """Chooses how batches are laid out on one card, and remembers what they took.

    `models` are the facts by sha256; a model that is not among them is left to the engine. The
    measurements may be shared by several cards. `memory_free`, where given, tells the bytes of
    the card that nobody but the engine holds now, None where that is not known.
    """

    def __init__(
        self,
        card_id: str,
        card: CardFacts,
        models: Mapping[str, ModelFacts],
        measurements: Measurements,
        file: Path | None = None,
        memory_free: Callable[[], int | None] = lambda: None,
    ) -> None:
        self.card_id = card_id
        self.card = card  # replaced when its owner changes the budget
        self._models = models
        self._measurements = measurements
        self._file = file
        self.memory_free = memory_free

    def choose(self, model_sha256: str, work: Work) -> Placement | Refusal | None:
        """How to draw this now; None leaves it to the engine."""
        model = self._models.get(model_sha256)
        if model is None:
            return None
        card = replace(self.card, memory_free=self.memory_free())
        return place(model, card, work, self._remembered(model_sha256))

    def took(
        self, model_sha256: str, work: Work, placement: Placement, peak: int, *, beside: int = 0
    ) -> bool:
        """A batch was drawn and the engine held `peak` bytes at most (EngineMeasured), `beside` of
        them for other models. True: estimates are others now."""
        model = self._models.get(model_sha256)
        if model is None or peak <= 0:
            return False
        context = estimates.CONTEXT if self.card.cuda and not placement.cpu else 0
        return self._note(model_sha256, model, work, placement, peak - beside + context, False)

    def ran_out(self, model_sha256: str, work: Work, placement: Placement) -> bool:
        """It was too much for the card, or the driver put some of it into RAM. True: another
        placement is left to try."""
        model = self._models.get(model_sha256)
        if model is None:
            return False
        card = replace(self.card, memory_free=self.memory_free())
        had = estimates.usable(card)
        if placement.cpu:
            had = estimates.usable_ram(card)
        self._note(model_sha256, model, work, placement, max(had, placement.need), True)
        left = self.choose(model_sha256, work)
        log.warning(
            "%d x %d pixels were too many for %s placed as %s: %s",
            work.images,
            work.pixels,
            self.card.device,
            placement.name,
            f"from now on {left.name}" if isinstance(left, Placement) else "nothing is left to try",
        )
        return isinstance(left, Placement)

    def fits(self, models: Iterable[LocalModel]) -> list[ModelFit]:
        """What to tell the pool of each model whose sizes are known."""
        return [
            self._fit(one, model)
            for one in models
            if (model := self._models.get(one.model.sha256)) is not None
        ]

    def together(self, models: Iterable[LocalModel], cores: int) -> int:
        """CardInfo.most_together; see together.py."""
        known = [
            (facts, one.model.default_width * one.model.default_height, one.model.sha256)
            for one in models
            if not one.model.demo and (facts := self._models.get(one.model.sha256)) is not None
        ]
        return images_together(
            self.card,
            [(facts, pixels, self._remembered(sha256)) for facts, pixels, sha256 in known],
            cores=cores,
        )

    def _fit(self, one: LocalModel, model: ModelFacts) -> ModelFit:
        told, remembered = one.model, self._remembered(one.model.sha256)
        usual = place(model, self.card, Work(told.default_width * told.default_height), remembered)
        largest = largest_pixels(model, self.card, remembered)
        fit = ModelFit(model_sha256=told.sha256, max_pixels=largest)
        if isinstance(usual, Placement):
            fit.placement = usual.name
        if largest < told.max_size**2:
            over = place(model, self.card, Work(told.max_size**2), remembered)
            refusal = usual if isinstance(usual, Refusal) else over
            if isinstance(refusal, Refusal):
                fit.refusal = refusal.reason[:_REASON_CHARACTERS]
        return fit

    def _note(
        self,
        sha256: str,
        model: ModelFacts,
        work: Work,
        placement: Placement,
        peak: int,
        too_much: bool,
    ) -> bool:
        news = self._measurements.note(
            self.card_id, sha256, model, self.card, placement, work, peak, too_much=too_much
        )
        if (news or self._measurements.unwritten) and self._file is not None:
            self._measurements.write(self._file)
        return news

    def _remembered(self, sha256: str) -> Remembered:
        return self._measurements.of(self.card_id, sha256)
