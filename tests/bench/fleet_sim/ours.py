"""The broker's scheduler, unchanged, as a policy of the simulator."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable

from foxden_broker.scheduler import backlog
from foxden_broker.scheduler.facts import CardFacts, Give, Image, JobFacts, Kind, Outcome
from foxden_broker.scheduler.planning import plan
from foxden_broker.scheduler.queue import State
from foxden_broker.scheduler.settings import Settings

from .simulator import Given
from .world import Model, SimBatch, SimCard, SimImage


def kind_of(model: Model, steps: int = 0) -> Kind:
    size = (model.side, model.side)
    return Kind(model.name, *size, steps or model.steps, model_bytes=int(model.size * 1e9))


class Foxden:
    """`ahead`: whether deep backlogs are planned with the linear programme. `primed`: whether the
    pool has worked before, so that means per card class and model are known."""

    name = "Foxden"

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        ahead: bool = True,
        primed: bool = True,
        together: int = 1,
        models: Iterable[Model] = (),
    ) -> None:
        self.settings, self.ahead, self.primed = settings, ahead, primed
        self.most_together, self.models = together, list(models)
        self.took: list[float] = []  # seconds of each round, if `timed`
        self.timed = False
        self.wake = float("inf")

    def begin(self, cards: list[SimCard]) -> None:
        self.cards = {card.card_id: card for card in cards}
        by_name = {model.name: model for model in self.models}

        def capable(card_id: str, kind: Kind) -> bool:
            return self.cards[card_id].fits(by_name[kind.model])

        self.state = State(capable, settings=self.settings)
        self.images: dict[Image, SimImage] = {}
        self.kinds: dict[tuple[str, int], Kind] = {}
        for card in cards:
            self._describe(card, 0.0, card.here)
        if self.primed:
            for card in cards:
                facts = CardFacts(card.card_id, card.kind.name)
                for model in self.models:
                    if card.fits(model):
                        kind = kind_of(model)
                        self.state.estimates.prime(facts.card_class, kind, card.draw(model))
                        self.state.estimates.loaded(facts, model.name, card.load(model))

    def _describe(self, card: SimCard, now: float, accepting: bool) -> None:
        loaded = [card.loaded.name] if card.loaded else []
        facts = CardFacts(
            card.card_id, card.kind.name, card.kind.memory * 10**9, self.most_together
        )
        self.state.card_here(facts, now, accepting=accepting, loaded=loaded)

    def came(self, images: list[SimImage], now: float) -> None:
        for job_id, group in itertools.groupby(images, key=lambda image: image.job_id):
            listed = list(group)
            first = listed[0]
            kind = self.kinds.get((first.model.name, first.steps))
            if kind is None:
                kind = self.kinds[first.model.name, first.steps] = kind_of(first.model, first.steps)
            facts = JobFacts(job_id, first.member, kind, first.created, first.priority)
            for image in listed:
                self.images[job_id, image.index] = image
            self.state.add_job(facts, [image.index for image in listed], now)

    def started(self, card: SimCard, batch: SimBatch, now: float) -> None:
        for image in batch.images:
            self.state.image_started(image.job_id, image.index, now)

    def ended(self, card: SimCard, batch: SimBatch, now: float) -> None:
        for image in batch.images:
            self.state.image_ended(image.job_id, image.index, now, Outcome.DONE)

    def gone(self, card: SimCard, images: list[SimImage], now: float) -> None:
        self.state.card_gone(card.card_id, now)
        for image in images:
            self.state.image_ended(image.job_id, image.index, now, Outcome.RELEASED, waits=True)

    def back(self, card: SimCard, now: float) -> None:
        self._describe(card, now, True)

    def decide(self, now: float) -> Iterable[Given]:
        while True:
            begun = time.perf_counter() if self.timed else 0.0
            todo = plan(self.state, now)
            if self.timed:
                self.took.append(time.perf_counter() - begun)
            self.wake = todo.wake_at
            if todo.wants_allotments and self.ahead:
                question = backlog.ask(self.state, now)
                if question is not None:
                    self.state.use_allotments(backlog.solve(question), now)
                    continue
            if not todo.actions:
                return
            for action in todo.actions:
                assert isinstance(action, Give)
                self.state.given(action, now)
                images = [self.images[image] for image in action.images]
                yield self.cards[action.card_id], images

    def wake_at(self, now: float) -> float:
        return self.wake
