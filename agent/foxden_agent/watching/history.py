"""The last hours of each card, for plots: a ring of numbers per figure, of a fixed size."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable

from foxden_agent.readings import CardReadings, Readings

FIGURES: dict[str, Callable[[CardReadings], float | None]] = {
    "memory_used": lambda card: card.memory_used,  # bytes
    "temperature": lambda card: card.temperature,  # degrees Celsius
    "utilisation": lambda card: card.utilisation,  # 0 to 1
    "power": lambda card: card.power,  # watts
    "clock": lambda card: card.clock,  # MHz
    "fan": lambda card: card.fan,  # 0 to 1
}
_SLOTS = 3 * 3600 // 5  # three hours: 8 bytes each and seven numbers, 121 kB per card
_STEP = 5.0


class History:
    """`add` takes every reading; one is kept per `step` seconds, `slots` of them per card."""

    def __init__(self, slots: int = _SLOTS, step: float = _STEP) -> None:
        self._slots = slots
        self._step = step
        self._rings: dict[str, _Ring] = {}

    def add(self, readings: Readings) -> None:
        for card in readings.cards:
            ring = self._rings.setdefault(card.device, _Ring(self._slots))
            if readings.machine.at - ring.newest >= self._step:
                values = [tell(card) for tell in FIGURES.values()]
                ring.add(readings.machine.at, values)

    def series(self, device: str, figure: str) -> list[tuple[float, float | None]]:
        """(seconds of the monotonic clock, value) from the oldest to the newest; [] where none is
        known. None where the card did not tell. Raises KeyError for an unknown figure."""
        column = list(FIGURES).index(figure) if figure in FIGURES else None
        if column is None:
            raise KeyError(figure)
        ring = self._rings.get(device)
        return ring.series(column) if ring else []


class _Ring:
    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._times = array("d")
        self._columns = [array("d") for _ in FIGURES]
        self._next = 0
        self.newest = -math.inf

    def add(self, at: float, values: list[float | None]) -> None:
        self.newest = at
        row = [math.nan if value is None else value for value in values]
        if len(self._times) < self._slots:
            self._times.append(at)
            for column, value in zip(self._columns, row, strict=True):
                column.append(value)
        else:
            self._times[self._next] = at
            for column, value in zip(self._columns, row, strict=True):
                column[self._next] = value
        self._next = (self._next + 1) % self._slots

    def series(self, column: int) -> list[tuple[float, float | None]]:
        begin = self._next if len(self._times) == self._slots else 0
        order = [*range(begin, len(self._times)), *range(begin)]
        values = self._columns[column]
        return [(self._times[i], None if math.isnan(values[i]) else values[i]) for i in order]
