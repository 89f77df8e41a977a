"""What others do, each in a few lines: one image per card, given when the card is free."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

from .simulator import Given
from .world import Model, SimBatch, SimCard, SimImage


class Baseline:
    """Queues by model, oldest first; `pick` is the rule."""

    name = ""

    def begin(self, cards: list[SimCard]) -> None:
        self.cards = cards
        self.free = {card.card_id: card for card in cards if card.here}
        self.used: dict[str, float] = {card.card_id: -math.inf for card in cards}
        self.queues: dict[Model, deque[SimImage]] = {}

    def came(self, images: list[SimImage], now: float) -> None:
        for image in images:
            self.queues.setdefault(image.model, deque()).append(image)

    def started(self, card: SimCard, batch: SimBatch, now: float) -> None: ...

    def ended(self, card: SimCard, batch: SimBatch, now: float) -> None:
        self.free[card.card_id] = card
        self.used[card.card_id] = now

    def gone(self, card: SimCard, images: list[SimImage], now: float) -> None:
        self.free.pop(card.card_id, None)
        for image in images:
            self.queues.setdefault(image.model, deque()).appendleft(image)

    def back(self, card: SimCard, now: float) -> None:
        self.free[card.card_id] = card

    def decide(self, now: float) -> Iterable[Given]:
        while self.free and any(self.queues.values()):
            found = self.pick(now)
            if found is None:
                return
            card, model = found
            image = self.queues[model].popleft()
            if not self.queues[model]:
                del self.queues[model]
            del self.free[card.card_id]
            yield card, [image]

    def pick(self, now: float) -> tuple[SimCard, Model] | None:
        raise NotImplementedError

    def wake_at(self, now: float) -> float:
        return math.inf

    def by_age(self) -> list[Model]:
        return sorted(self.queues, key=lambda m: self.queues[m][0].number)


class Fifo(Baseline):
    """The oldest job that a free card can run goes to the fastest free card."""

    name = "FIFO, fastest free card"

    def pick(self, now: float) -> tuple[SimCard, Model] | None:
        for model in self.by_age():
            able = [card for card in self.free.values() if card.fits(model)]
            if able:
                return min(able, key=lambda c: c.draw(model)), model
        return None


class LoadedFirst(Baseline):
    """A free card takes the oldest job of the model it has; else the oldest job goes to the free
    card that was used least recently (Ray Serve, LocalAI)."""

    name = "loaded model first"
    fastest = False  # else: to the fastest free card

    def pick(self, now: float) -> tuple[SimCard, Model] | None:
        order = self.by_age()
        for model in order:
            warm = [card for card in self.free.values() if card.loaded is model]
            if warm:
                return min(warm, key=lambda c: c.draw(model)), model
        for model in order:
            able = [card for card in self.free.values() if card.fits(model)]
            if able and self.fastest:
                return min(able, key=lambda c: c.draw(model)), model
            if able:
                return min(able, key=lambda c: self.used[c.card_id]), model
        return None


class LoadedFirstFastest(LoadedFirst):
    name = "loaded model first, else fastest"
    fastest = True


class Pressure(Baseline):
    """SwarmUI's rule: a card goes on with its model; another one is loaded for the model with the
    highest pressure (10 x waiting + age in seconds) that has waited 1.5 s."""

    name = "SwarmUI's pressure"
    hold = 1.5

    def pick(self, now: float) -> tuple[SimCard, Model] | None:
        for card in self.free.values():
            if card.loaded is not None and card.loaded in self.queues:
                return card, card.loaded
        old = [m for m in self.queues if now - self.queues[m][0].created >= self.hold]
        old.sort(key=lambda m: 10 * len(self.queues[m]) + now - self.queues[m][0].created)
        for model in reversed(old):
            able = [card for card in self.free.values() if card.fits(model)]
            if able:
                return min(able, key=lambda c: self.used[c.card_id]), model
        return None

    def wake_at(self, now: float) -> float:
        young = [self.queues[m][0].created + self.hold for m in self.queues]
        young = [at for at in young if at > now]
        return min(young) if young and self.free else math.inf


class Pull(Baseline):
    """AI Horde's rule: a worker that is free asks, and gets the oldest job that it can run."""

    name = "AI Horde's pull"

    def pick(self, now: float) -> tuple[SimCard, Model] | None:
        order = self.by_age()
        for card in self.free.values():  # in the order in which they came free
            for model in order:
                if card.fits(model):
                    return card, model
        return None
