"""How long things take: drawing a batch, and loading a model. Learnt, starting from card classes.

Drawing is rate x steps x pixels; the rate is a moving average per (card, model, size), and where
that was never measured the next best of: (card, model), (class, model, size), (class, model), the
class's own speed, a guess. Loading is a moving average per (card, model), else per (class, model),
else bytes / speed + a constant. Each figure's errors are kept as well. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, field

from foxden_broker.scheduler.facts import CardFacts, Kind

_NEWEST = 0.25  # weight of the newest measurement
_MOST_KEYS = 200_000  # averages kept; the oldest go first

# Seconds per step and megapixel of an SD 1.5-sized model, to begin with. Only their order of
# magnitude and their ratios matter: the first picture replaces them. The ratios follow the vendors'
# fp16 figures; the first word found in a card's class counts.
_FIRST_RATES = (
    ("5090", 0.10), ("4090", 0.12), ("5080", 0.15), ("4080", 0.17), ("5070", 0.20), ("3090", 0.23),
    ("4070", 0.25), ("3080", 0.27), ("5060", 0.31), ("3070", 0.38), ("4060", 0.38), ("2080", 0.45),
    ("3060", 0.55), ("2070", 0.60), ("2060", 0.75), ("1080", 1.4), ("1070", 1.9), ("1660", 1.6),
    ("1060", 2.6), ("cpu", 30.0),
)  # fmt: skip
_UNKNOWN_RATE = 0.5

_LOAD_SPEED = 0.5e9  # bytes per second from a disk into VRAM, the transformation included
_LOAD_CONSTANT = 2.0  # seconds
_LOAD_BYTES = 4e9  # of a model whose size is unknown
_RAM_SPEED, _RAM_CONSTANT = 4e9, 0.5  # the same where it is warm in the machine's memory


@dataclass(slots=True)
class Average:
    """A moving average, with the mean relative error that it made."""

    value: float
    error: float = 0.3
    seen: int = 1

    def take(self, value: float) -> None:
        off = abs(value - self.value) / max(self.value, 1e-9)
        weight = max(_NEWEST, 1 / (self.seen + 1))
        self.error += _NEWEST * (min(off, 4.0) - self.error)
        self.value += weight * (value - self.value)
        self.seen += 1


@dataclass
class Estimates:
    """Of one pool."""

    _averages: dict[Hashable, Average] = field(default_factory=dict)

    # What is expected

    def rate(self, card: CardFacts, kind: Kind) -> float:
        """Seconds per unit of work for a single image."""
        found = self._averages
        name, of_class = card.card_id, card.card_class
        for key in (
            ("run", name, kind.model, kind.size),
            ("run", name, kind.model),
            ("class", of_class, kind.model, kind.size),
            ("class", of_class, kind.model),
        ):
            if (known := found.get(key)) is not None:
                return known.value
        return self._first_rate(card, kind)

    def seconds(self, card: CardFacts, kind: Kind, images: int = 1) -> float:
        """A batch of so many images, the model loaded."""
        single = self.rate(card, kind) * kind.work
        return single * (1 + (images - 1) * self.further(card, kind)) if images > 1 else single

    def further(self, card: CardFacts, kind: Kind) -> float:
        """What one more image in a batch costs, as a share of a single one: 0 to 1.5."""
        for key in (("more", card.card_id, kind.model), ("more", card.card_class, kind.model)):
            if (known := self._averages.get(key)) is not None:
                return known.value
        return 0.8 if card.most_together > 1 else 1.0

    def load(
        self, card: CardFacts, model: str, model_bytes: int = 0, *, in_ram: bool = False
    ) -> float:
        """Setting the model up where it is not in the card's memory; `in_ram`: but in the
        machine's, which is never slower."""
        from_disk = self._from_disk(card, model, model_bytes)
        if not in_ram:
            return from_disk
        for key in (("load ram", card.card_id, model), ("load ram", card.card_class, model)):
            if (known := self._averages.get(key)) is not None:
                return min(known.value, from_disk)
        return min(from_disk, _RAM_CONSTANT + (model_bytes or _LOAD_BYTES) / _RAM_SPEED)

    def _from_disk(self, card: CardFacts, model: str, model_bytes: int) -> float:
        for key in (("load", card.card_id, model), ("load", card.card_class, model)):
            if (known := self._averages.get(key)) is not None:
                return known.value
        return _LOAD_CONSTANT + (model_bytes or _LOAD_BYTES) / _LOAD_SPEED

    def measured(self, card: CardFacts, kind: Kind) -> bool:
        """Whether this card, or its class, drew with this model before."""
        keys = (("run", card.card_id, kind.model), ("class", card.card_class, kind.model))
        return any(key in self._averages for key in keys)

    def error(self, card: CardFacts, kind: Kind) -> float:
        """The mean relative error of the estimate: 0 to 4."""
        known = self._averages.get(("run", card.card_id, kind.model, kind.size))
        return known.error if known else 0.5

    # What was measured

    def drew(self, card: CardFacts, kind: Kind, images: int, seconds: float) -> None:
        """A batch took so long, loading apart. Senseless figures are ignored: an agent can say
        anything."""
        if not 0 < seconds < 86400 or images < 1:
            return
        if images > 1:
            single = self.rate(card, kind) * kind.work
            share = min(1.5, max(0.05, (seconds / single - 1) / (images - 1)))
            self._take(("more", card.card_id, kind.model), share)
            self._take(("more", card.card_class, kind.model), share)
            return
        rate = seconds / kind.work
        self._take_cost(card, kind, rate)
        for who, name in (("run", card.card_id), ("class", card.card_class)):
            self._take((who, name, kind.model), rate)
            self._take((who, name, kind.model, kind.size), rate)

    def loaded(
        self, card: CardFacts, model: str, seconds: float, *, from_ram: bool = False
    ) -> None:
        """A load took so long; senseless figures are ignored, as above."""
        if 0 <= seconds < 86400:
            what = "load ram" if from_ram else "load"
            self._take((what, card.card_id, model), seconds)
            self._take((what, card.card_class, model), seconds)

    def prime(self, card_class: str, kind: Kind, seconds: float) -> None:
        """A figure known beforehand, e.g. of a benchmark at the first start."""
        self._averages.setdefault(("class", card_class, kind.model), Average(seconds / kind.work))

    def _first_rate(self, card: CardFacts, kind: Kind) -> float:
        """The class's speed, times what this model costs more than others where that is known."""
        cost = self._averages.get(("cost", kind.model))
        speed = self._averages.get(("speed", card.card_class))
        rate = _table_rate(card.card_class) * (speed.value if speed else 1.0)
        return rate * (cost.value if cost else 1.0) / 1e6

    def _take_cost(self, card: CardFacts, kind: Kind, rate: float) -> None:
        """Split a new rate into what the model costs and how fast the class is."""
        table = _table_rate(card.card_class) / 1e6
        cost = self._averages.get(("cost", kind.model))
        speed = self._averages.get(("speed", card.card_class))
        self._take(("cost", kind.model), rate / (table * (speed.value if speed else 1.0)))
        if cost is not None:
            self._take(("speed", card.card_class), rate / (table * cost.value))

    def _take(self, key: Hashable, value: float) -> None:
        if (known := self._averages.get(key)) is not None:
            known.take(value)
            return
        if len(self._averages) >= _MOST_KEYS:
            del self._averages[next(iter(self._averages))]
        self._averages[key] = Average(value)


def _table_rate(card_class: str) -> float:
    words = card_class.lower()
    return next((rate for word, rate in _FIRST_RATES if word in words), _UNKNOWN_RATE)


@dataclass
class Errors:
    """How wrong predictions turned out: the last ratios of what was to what was said, per key.

    Quantiles are read far more rarely than ratios come in, so they are sorted when asked for.
    """

    most: int = 256
    _ratios: dict[Hashable, list[float]] = field(default_factory=dict)
    _next: dict[Hashable, int] = field(default_factory=dict)
    _sorted: dict[Hashable, list[float]] = field(default_factory=dict)

    def take(self, key: Hashable, said: float, was: float) -> None:
        if not (said > 0 and was >= 0 and math.isfinite(said) and math.isfinite(was)):
            return
        ratios = self._ratios.setdefault(key, [])
        if len(ratios) < self.most:
            ratios.append(was / said)
        else:
            place = self._next.get(key, 0)
            ratios[place] = was / said
            self._next[key] = (place + 1) % self.most
        self._sorted.pop(key, None)

    def known(self, key: Hashable) -> int:
        return len(self._ratios.get(key, ()))

    def quantile(self, key: Hashable, share: float) -> float | None:
        """None where fewer than 12 were seen."""
        if self.known(key) < 12:
            return None
        ordered = self._sorted.get(key)
        if ordered is None:
            ordered = self._sorted[key] = sorted(self._ratios[key])
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
