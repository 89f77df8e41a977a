"""A pool at a desk: states, jobs and cards in a few words, and a driver that carries plans out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from foxden_broker.scheduler.facts import (
    CardFacts,
    Expire,
    Give,
    Image,
    JobFacts,
    Kind,
    Outcome,
)
from foxden_broker.scheduler.planning import plan
from foxden_broker.scheduler.queue import State
from foxden_broker.scheduler.settings import Settings

LOAD, RUN = 10.0, 5.0  # seconds, on every card unless said otherwise


def kind(model: str = "m", side: int = 512, steps: int = 20, **rest: Any) -> Kind:
    return Kind(model, side, side, steps, **rest)


@dataclass
class Desk:
    """A state with a clock. Cards take RUN seconds for an image and LOAD for a model."""

    state: State
    now: float = 0.0
    gives: list[Give] = field(default_factory=list)
    expired: list[Expire] = field(default_factory=list)
    done: list[Image] = field(default_factory=list)

    def job(
        self, name: str, images: int = 1, *, member: str = "ann", model: str = "m", **rest: Any
    ) -> None:
        rest.setdefault("created", self.now)
        of = rest.pop("kind", None) or kind(model)
        self.state.add_job(JobFacts(name, member, of, **rest), range(images), self.now)

    def card(
        self, name: str, loaded: str = "", *, speed: float = 1.0, together: int = 1, **rest: Any
    ) -> None:
        facts = CardFacts(name, f"class-{speed}", most_together=together)
        for model in "mnopqr":
            self.state.estimates.prime(facts.card_class, kind(model), RUN / speed)
            self.state.estimates.loaded(CardFacts("", facts.card_class), model, LOAD)
        self.state.card_here(facts, self.now, loaded=[loaded] if loaded else [], **rest)

    def plan(self) -> list[str]:
        """Carry out one plan after another; "j0+j1>card" for each Give, with "~" if staged."""
        said = []
        while (todo := plan(self.state, self.now)).actions:
            for action in todo.actions:
                if isinstance(action, Give):
                    self.state.given(action, self.now)
                    self.gives.append(action)
                    names = "+".join(f"{job}{index}" for job, index in action.images)
                    said.append(f"{names}>{action.card_id}" + "~" * action.staged)
                else:
                    self.state.image_left(action.job_id, action.index, self.now)
                    self.expired.append(action)
        self.wake_at = todo.wake_at
        return said

    def end(self, card: str, outcome: Outcome = Outcome.DONE, *, waits: bool = False) -> None:
        """The card's running batch ends."""
        for image in sorted(self.state.table.cards[card].held[0].images):
            self.state.image_ended(*image, self.now, outcome, waits=waits)
            if outcome is Outcome.DONE:
                self.done.append(image)

    def run(self, seconds: float) -> None:
        """Let the time pass: every batch ends when it is expected to."""
        until = self.now + seconds
        self.plan()
        while True:
            ends = [
                (card.held[0].ends, name)
                for name, card in self.state.table.cards.items()
                if card.held
            ]
            at, name = min([*ends, (self.wake_at, "")])
            if at > until or at == float("inf"):
                break
            self.now = max(self.now + 1e-6, at)
            if name:
                self.end(name)
            self.plan()
        self.now = until


@pytest.fixture
def desk() -> Desk:
    return Desk(State(lambda card_id, kind: True))


@pytest.fixture
def make_desk() -> Callable[..., Desk]:
    def make(capable: Any = None, **settings: Any) -> Desk:
        return Desk(State(capable or (lambda card_id, kind: True), settings=Settings(**settings)))

    return make
