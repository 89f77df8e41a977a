"""What it would cost to do something on each card, during one round of planning. Pure.

A round places images one after another; each placement changes what others would cost there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foxden_broker.scheduler.cards import Bools, Card, Floats
from foxden_broker.scheduler.facts import Kind, Need
from foxden_broker.scheduler.queue import State


@dataclass
class _Known:
    """Of one kind of work, by card."""

    costs: Floats
    weight: float  # of set-ups
    seen: int = 0  # placements of this round that it reckons with


class Costs:
    """The cards as they would be with all that was placed so far."""

    def __init__(self, state: State, now: float) -> None:
        table = state.table
        self.state, self.now, self.table = state, now, table
        self.free: Floats = table.free(now)
        self.usable: Bools = table.accepting & (table.paused <= now)
        self.backlog_here = 0.0  # of the class in hand and better ones
        self._keeps: Bools = table.keep_until > now
        self._wanted: Bools = self._wanted_models()
        self._known: dict[tuple[Kind, bool], _Known] = {}
        # Rows whose only model is `_model`, and rows that do something more, in this round's view.
        self._model = table.model.copy()
        # As `_keeps` and `_wanted` saw them. A forecast is asked again while the pool goes on, and
        # a model that came meanwhile has a number that is not in these columns.
        self._held: NDArray[np.int32] = table.model.copy()
        self._switched: Bools = np.zeros(len(self._model), bool)
        self._occupied: list[int] = []
        self._unpause = math.inf  # when the first pause that mattered ends
        self._speeds: dict[Need, float] = {}

    def _occupy(self, card: Card, kind: Kind, images: int) -> None:
        """The card does this, after all else: what others would cost there changes."""
        row, state = card.row, self.state
        warm = self._warm(card, row, kind.model)
        setup = 0.0 if warm else self._load(card, kind)
        self.free[row] += setup + state.estimates.seconds(card.facts, kind, images)
        if not warm:
            self._model[row] = self.table.number(kind.model)
            self._switched[row] = True
        self._occupied.append(row)

    def _cost(self, kind: Kind, *, urgent: bool = False) -> Floats:
        """When each card would have drawn one image of this kind, set-up weighed; inf where it may
        not."""
        found = self._known.get((kind, urgent))
        if found is not None:
            self._catch_up(kind, found)
            return found.costs
        table, settings = self.table, self.state.settings
        weight = 1.0
        if not urgent:
            backlog = self.backlog_here / settings.setup_weight_scale
            weight += min(settings.setup_weight_most, backlog)
        setups, _ = table.setups(kind)
        costs: Floats = self.free + weight * setups + table.rates(kind) * kind.work
        barred = ~(self.usable & table.capable(kind))
        if not urgent:
            # Cards that keep another model yet, because that is wanted.
            barred |= self._keeps & (setups > 0) & self._wanted[self._held]
        costs[barred] = np.inf
        for what in (kind.model, kind.need):
            self._keep_away(costs, what)
        found = self._known[kind, urgent] = _Known(costs, weight)
        self._catch_up(kind, found)
        return found.costs

    def _catch_up(self, kind: Kind, known: _Known) -> None:
        """Reckon with what was placed since these costs were looked at."""
        if known.seen == len(self._occupied):
            return
        rows = np.array(self._occupied[known.seen :])
        known.seen = len(self._occupied)
        setups, loads = self.table.setups(kind)
        same = self._model[rows] == self.table.number(kind.model)
        setup = np.where(self._switched[rows], np.where(same, 0.0, loads[rows]), setups[rows])
        new = self.free[rows] + known.weight * setup + self.table.rates(kind)[rows] * kind.work
        new[np.isinf(known.costs[rows])] = np.inf
        known.costs[rows] = new

    def _keep_away(self, costs: Floats, what: str | Need) -> None:
        quarantine, now = self.state.quarantine, self.now
        for card_id in quarantine.cards_kept_from(what):
            card = self.table.cards.get(card_id)
            if card is None:
                continue
            until = quarantine.until(card_id, what)
            if until > now:
                self._unpause = min(self._unpause, until)
                costs[card.row] = np.inf
            elif quarantine.probing(card_id, what) and card.held:
                costs[card.row] = np.inf

    def _without(self, costs: Floats, kind: Kind, avoid: frozenset[str]) -> Floats:
        """Cards that failed on an image come last: only where no other can run it, those that were
        taken away a short while ago included."""
        able = self.table.capable(kind)
        away = self.state.settings.away
        spared = [card.row for i in avoid if (card := self.table.cards.get(i)) is not None]
        others = able.copy()
        others[spared] = False
        for row in np.flatnonzero(others).tolist():
            card = self.table.rows[row]
            if card is None:
                continue
            if not self.table.accepting[row]:
                back = card.away_since + away
                if self.now >= back:
                    continue
                self._unpause = min(self._unpause, back)
            costs = costs.copy()
            costs[spared] = np.inf
            return costs
        return costs

    def _end(self, kind: Kind, row: int) -> float:
        """When this card would have drawn one image of this kind."""
        card = self.table.rows[row]
        assert card is not None
        costs = self._cost(kind)
        if not self.usable[row] or not self.table.capable(kind)[row]:
            return math.inf
        if math.isinf(costs[row]) and self._paused(card, kind):
            return math.inf
        setup = 0.0 if self._warm(card, row, kind.model) else self._load(card, kind)
        rate = float(self.table.rates(kind)[row])
        return float(self.free[row]) + setup + rate * kind.work

    def _paused(self, card: Card, kind: Kind) -> bool:
        quarantine, card_id = self.state.quarantine, card.facts.card_id
        return any(
            quarantine.until(card_id, what) > self.now
            or (quarantine.probing(card_id, what) and bool(card.held))
            for what in (kind.model, kind.need)
        )

    def _warm(self, card: Card, row: int, model: str) -> bool:
        if self._switched[row]:
            return bool(self._model[row] == self.table.number(model))
        return model in card.warm

    def _load(self, card: Card, kind: Kind) -> float:
        return self.table.load(card, kind.model, kind.model_bytes)

    def _wanted_models(self) -> Bools:
        """By number of a model; the last is for cards that have none."""
        wanted = [self.table.number(model) for model in self.state.lines.models]
        found = np.zeros(max([*wanted, int(self.table.model.max(initial=-1))]) + 2, bool)
        found[wanted] = True
        return found

    def _backlog(self, priority: int) -> float:
        """Seconds that all usable cards together need for what waits in this class and better."""
        seconds = 0.0
        for (of, need), (_, work) in self.state.lines.work.items():
            if of <= priority and work > 0:
                speed = self._speed(need, self.state.lines.sample[of, need])
                seconds += work / speed if speed > 0 else 0.0
        return seconds

    def _speed(self, need: Need, kind: Kind) -> float:
        """Units of work per second of all usable cards that can do this."""
        if need not in self._speeds:
            able = self.usable & self.table.capable(kind)
            self._speeds[need] = float((1 / self.table.rates(kind)[able]).sum())
        return self._speeds[need]
