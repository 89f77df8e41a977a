"""The event loop: images come, a policy hands them out, cards load and draw, owners come and go."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from .world import ROUND_TRIP, SimBatch, SimCard, SimImage

Given = tuple[SimCard, list[SimImage]]


class Policy(Protocol):
    """Who decides. A card may be given a batch while it has one (it is staged), not while it has
    two."""

    def begin(self, cards: list[SimCard]) -> None: ...
    def came(self, images: list[SimImage], now: float) -> None: ...
    def started(self, card: SimCard, batch: SimBatch, now: float) -> None: ...
    def ended(self, card: SimCard, batch: SimBatch, now: float) -> None: ...
    def gone(self, card: SimCard, images: list[SimImage], now: float) -> None: ...
    def back(self, card: SimCard, now: float) -> None: ...
    def decide(self, now: float) -> Iterable[Given]: ...
    def wake_at(self, now: float) -> float: ...


@dataclass
class Result:
    images: list[SimImage]
    cards: list[SimCard]
    makespan: float = 0.0
    loads: int = 0
    busy: dict[str, float] = field(default_factory=dict)  # GPU-seconds by member
    at_horizon: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Absence:
    """A card is away, or its owner has it, for a while."""

    card: int
    at: float
    until: float


def simulate(
    policy: Policy,
    cards: list[SimCard],
    images: list[SimImage],
    *,
    absences: Iterable[Absence] = (),
    horizon: float = math.inf,
) -> Result:
    """Until every image is done, or `horizon` seconds have passed."""
    return _Simulation(policy, cards, images, absences, horizon).run()


class _Simulation:
    def __init__(
        self,
        policy: Policy,
        cards: list[SimCard],
        images: list[SimImage],
        absences: Iterable[Absence],
        horizon: float,
    ) -> None:
        self.policy, self.cards, self.horizon = policy, cards, horizon
        self.result = Result(images, cards)
        self.count = itertools.count()
        self.events: list[tuple[float, int, str, object, object]] = []
        self.woken = math.inf
        self.left = len(images)
        by_time: dict[float, list[SimImage]] = {}
        for image in images:
            by_time.setdefault(image.created, []).append(image)
        for at, group in by_time.items():
            self.at(at, "came", group)
        for absence in absences:
            self.at(absence.at, "gone", cards[absence.card])
            self.at(absence.until, "back", cards[absence.card])

    def at(self, when: float, what: str, one: object = None, other: object = None) -> None:
        heapq.heappush(self.events, (when, next(self.count), what, one, other))

    def run(self) -> Result:
        self.policy.begin(self.cards)
        while self.events and self.left:
            now = self.events[0][0]
            if now > self.horizon:
                break
            changed = False
            while self.events and self.events[0][0] <= now:
                _, _, what, one, other = heapq.heappop(self.events)
                changed |= bool(getattr(self, "_" + what)(now, one, other))
            if changed:
                for card, images in self.policy.decide(now):
                    self.give(card, images, now)
                wake = max(self.policy.wake_at(now), now + 1e-3)
                if wake < self.woken or self.woken <= now:
                    self.woken = wake
                    if wake < math.inf:
                        self.at(wake, "wake")
        self.account(min(self.horizon, self.result.makespan))
        return self.result

    def give(self, card: SimCard, images: list[SimImage], now: float) -> None:
        assert card.here, f"{card.card_id} is not there"
        assert len(card.held) < 2, f"{card.card_id} holds two batches"
        batch = SimBatch(images)
        card.held.append(batch)
        if len(card.held) == 1:
            self.at(now + ROUND_TRIP, "start", card, batch)

    def account(self, until: float) -> None:
        """Count what runs still."""
        for card in self.cards:
            for batch in card.held:
                if 0 <= batch.started < until:
                    self.spent(batch, until - batch.started)

    def spent(self, batch: SimBatch, seconds: float) -> None:
        for image in batch.images:
            had = self.result.busy.get(image.member, 0.0)
            self.result.busy[image.member] = had + seconds / len(batch.images)

    # Events; True: there may be something to decide

    def _wake(self, now: float, one: object, other: object) -> bool:
        return now >= self.woken

    def _came(self, now: float, group: list[SimImage], other: object) -> bool:
        self.policy.came(group, now)
        return True

    def _start(self, now: float, card: SimCard, batch: SimBatch) -> bool:
        if batch not in card.held:
            return False
        model = batch.images[0].model
        if card.loaded is not model:
            batch.load = card.load(model)
            card.loaded = model
            self.result.loads += 1
        single = [card.draw(model, i.steps) * i.noise * i.left for i in batch.images]
        run = max(single) + 0.7 * (sum(single) - max(single))
        batch.started, batch.ends = now, now + batch.load + run
        for image in batch.images:
            if image.started_at < 0:
                image.started_at = now
        self.at(batch.ends, "end", card, batch)
        self.policy.started(card, batch, now)
        return False

    def _end(self, now: float, card: SimCard, batch: SimBatch) -> bool:
        if batch not in card.held:
            return False
        card.held.remove(batch)
        self.spent(batch, now - batch.started)
        for image in batch.images:
            image.done_at = now
        self.left -= len(batch.images)
        self.result.makespan = now
        self.policy.ended(card, batch, now)
        if card.held:
            self._start(now, card, card.held[0])
        return True

    def _gone(self, now: float, card: SimCard, other: object) -> bool:
        if not card.here:
            return False
        card.here = False
        images = []
        for batch in card.held:
            if batch.started >= 0:
                self.spent(batch, now - batch.started)
                run = batch.ends - batch.started - batch.load
                drawn = max(0.0, now - batch.started - batch.load) / run
                for image in batch.images:
                    image.left *= max(0.05, 1 - drawn)  # the checkpoint goes with it
            images += batch.images
        card.held.clear()
        card.loaded = None
        self.policy.gone(card, images, now)
        return True

    def _back(self, now: float, card: SimCard, other: object) -> bool:
        if card.here:
            return False
        card.here = True
        self.policy.back(card, now)
        return True
