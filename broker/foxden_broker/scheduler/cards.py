"""The cards of a pool as columns of numbers, so that a plan looks at thousands in a few vector
operations: when each will be free, what it has loaded, what work costs on it.

Rows are kept by events; a row's numbers change when something about its card does. Pure.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foxden_broker.scheduler.estimates import Estimates
from foxden_broker.scheduler.facts import CardFacts, Image, Kind, Need, Size

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
_MOST_COLUMNS = 256  # kept of each sort; those not used for longest are made again when needed


@dataclass
class Batch:
    """Images that ride through a card together."""

    kind: Kind
    images: set[Image]  # those that have not ended
    size: int  # images at the start
    setup: float  # seconds expected for the model
    run: float  # seconds expected for drawing
    begins: float  # when it was given, or when the one before it ended
    charges: dict[Image, tuple[str, int, float]] = field(default_factory=dict)
    started: float | None = None  # when the card said so

    @property
    def ends(self) -> float:
        return self.begins + self.setup + self.run


@dataclass
class Card:
    """One card, as it is now."""

    facts: CardFacts
    row: int
    accepting: bool = False
    here: bool = True
    away_since: float = -math.inf  # when it was given work last, unless it is now
    loaded: frozenset[str] = frozenset()  # models in its memory
    in_ram: frozenset[str] = frozenset()  # models that are warm in its machine's memory
    tells_loads: bool = False  # it says itself what it loaded, and how long that took
    hinted: str = ""  # the model that it was last told comes next
    held: list[Batch] = field(default_factory=list)  # the running one, the staged one
    preempted: float = -math.inf  # when it was asked to give way to urgent work last
    switched: float = -math.inf  # when its newest model was asked for

    @property
    def warm(self) -> frozenset[str]:
        """What will be in its memory when all it holds is done: nothing else is certain."""
        if not self.held:
            return self.loaded
        last = self.held[-1].kind.model
        if last in self.loaded and all(batch.kind.model in self.loaded for batch in self.held):
            return self.loaded
        return frozenset([last])


class Table:
    """The columns. Rows of forgotten cards are used again."""

    def __init__(self, estimates: Estimates, capable: Callable[[str, Kind], bool]) -> None:
        self.estimates = estimates
        self.cards: dict[str, Card] = {}
        self.rows: list[Card | None] = []
        self._capable_of = capable
        self._free_rows: list[int] = []
        self._room = 0
        self.layout = 0  # another number whenever a row is another card's
        self.end: Floats = np.empty(0)  # when the running batch is expected to end
        self.grace: Floats = np.empty(0)  # what it takes still where that moment has passed
        self.extra: Floats = np.empty(0)  # seconds of what is staged
        self.lead: Floats = np.empty(0)  # how long before the end the next may be staged
        self.slots: NDArray[np.int8] = np.empty(0, np.int8)  # batches that it holds
        self.accepting: Bools = np.empty(0, bool)
        self.paused: Floats = np.empty(0)  # until when it is left alone
        self.probing: Bools = np.empty(0, bool)  # one batch at a time, after a pause
        self.declined: Floats = np.empty(0)  # until when a deep queue has nothing for it
        self.keep_until: Floats = np.empty(0)  # it keeps its model so long while that is wanted
        self.model: NDArray[np.int32] = np.empty(0, np.int32)  # number of its newest model
        self._numbers: dict[str, int] = {}
        self._rates: OrderedDict[tuple[str, Size], tuple[Kind, Floats]] = OrderedDict()
        self._setups: OrderedDict[str, tuple[int, Floats, Floats]] = OrderedDict()
        self._capable: OrderedDict[Need, tuple[Kind, Bools]] = OrderedDict()

    # Rows

    def add(self, facts: CardFacts) -> Card:
        card = self.cards.get(facts.card_id)
        if card is None:
            row = self._free_rows.pop() if self._free_rows else len(self.rows)
            if row == len(self.rows):
                self.rows.append(None)
                self._grow()
            self.layout += 1
            card = self.cards[facts.card_id] = Card(facts, row)
            self.rows[row] = card
        card.facts = facts
        self.changed(card)
        return card

    def remove(self, card_id: str) -> Card | None:
        card = self.cards.pop(card_id, None)
        if card is not None:
            self.layout += 1
            self.rows[card.row] = None
            self.accepting[card.row] = self.probing[card.row] = False
            self.paused[card.row] = self.keep_until[card.row] = -math.inf
            for _, able in self._capable.values():
                able[card.row] = False
            self._free_rows.append(card.row)
        return card

    def changed(self, card: Card) -> None:
        """What the card can do or what it costs is another now: every column of its row anew."""
        row = card.row
        for kind, rates in self._rates.values():
            rates[row] = self.estimates.rate(card.facts, kind)
        for kind, able in self._capable.values():
            able[row] = self._capable_of(card.facts.card_id, kind)
        self.holds(card)

    def learnt(self, card: Card, model: str) -> None:
        """An estimate of this card with this model is new."""
        for (of, _), (kind, rates) in self._rates.items():
            if of == model:
                rates[card.row] = self.estimates.rate(card.facts, kind)
        self._set_up(card, model)

    def relearn(self) -> None:
        """Estimates of whole classes are new; the columns are made again when needed."""
        self._rates.clear()
        self._setups.clear()

    def holds(self, card: Card) -> None:
        """What the card holds, has loaded or is allowed is another now."""
        row = card.row
        held = card.held
        self.slots[row] = len(held)
        self.accepting[row] = card.accepting and card.here
        self.end[row] = held[0].ends if held else -math.inf
        self.extra[row] = sum(batch.setup + batch.run for batch in held[1:])
        self.grace[row] = self.lead[row] = 0.0
        warm = card.warm
        self.declined[row] = -math.inf
        newest = held[-1].kind.model if held else next(iter(warm), "")
        self.model[row] = self.number(newest) if newest else -1
        for model in self._setups:
            self._set_up(card, model)

    def timing(self, card: Card, lead: float, grace: float) -> None:
        self.lead[card.row], self.grace[card.row] = lead, grace

    # Columns

    def number(self, model: str) -> int:
        """Models have small numbers, so that columns can name them."""
        return self._numbers.setdefault(model, len(self._numbers))

    def rates(self, kind: Kind) -> Floats:
        """Seconds per unit of work."""
        key = (kind.model, kind.size)
        found = self._rates.get(key)
        if found is None:
            column = np.full(self._room, np.inf)
            for card in self.cards.values():
                column[card.row] = self.estimates.rate(card.facts, kind)
            found = self._rates[key] = (kind, column)
            _trim(self._rates)
        self._rates.move_to_end(key)
        return found[1]

    def setups(self, kind: Kind) -> tuple[Floats, Floats]:
        """Seconds until the model is in the card's memory, after all that the card holds; and the
        same where it has to be loaded in any case."""
        found = self._setups.get(kind.model)
        if found is None:
            columns = np.full(self._room, np.inf), np.full(self._room, np.inf)
            found = self._setups[kind.model] = (kind.model_bytes, *columns)
            for card in self.cards.values():
                self._set_up(card, kind.model)
            _trim(self._setups)
        self._setups.move_to_end(kind.model)
        return found[1], found[2]

    def capable(self, kind: Kind) -> Bools:
        found = self._capable.get(kind.need)
        if found is None:
            column = np.zeros(self._room, bool)
            for card_id, card in self.cards.items():
                column[card.row] = self._capable_of(card_id, kind)
            found = self._capable[kind.need] = (kind, column)
            _trim(self._capable)
        self._capable.move_to_end(kind.need)
        return found[1]

    def free(self, now: float) -> Floats:
        """When each card has done all it holds: absolute, `now` at the earliest."""
        result: Floats = np.maximum(self.end, now + self.grace) + self.extra
        return result

    def load(self, card: Card, model: str, model_bytes: int) -> float:
        """Seconds to bring the model into the card's memory from where it is now."""
        in_ram = model in card.in_ram
        return self.estimates.load(card.facts, model, model_bytes, in_ram=in_ram)

    def _set_up(self, card: Card, model: str) -> None:
        if (found := self._setups.get(model)) is not None:
            size, setups, loads = found
            load = self.load(card, model, size)
            loads[card.row] = load
            setups[card.row] = 0.0 if model in card.warm else load

    def _grow(self) -> None:
        if len(self.rows) <= self._room:
            return
        old, self._room = self._room, max(16, 2 * self._room)
        for name, filling in (
            ("end", -np.inf), ("grace", 0.0), ("extra", 0.0), ("lead", 0.0), ("slots", 0),
            ("accepting", False), ("paused", -np.inf), ("probing", False), ("declined", -np.inf),
            ("keep_until", -np.inf), ("model", -1),
        ):  # fmt: skip
            column = getattr(self, name)
            grown = np.full(self._room, filling, column.dtype)
            grown[:old] = column
            setattr(self, name, grown)
        self._rates.clear()
        self._setups.clear()
        self._capable.clear()


def _trim(columns: OrderedDict[Any, Any]) -> None:
    while len(columns) > _MOST_COLUMNS:
        columns.popitem(last=False)
