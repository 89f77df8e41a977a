"""The last hours of a card, in a fixed size."""

from __future__ import annotations

import pytest

from foxden_agent.readings import CardReadings, MachineReadings, Readings
from foxden_agent.watching.history import FIGURES, History


def read(at: float, **cards: float | None) -> Readings:
    return Readings(
        MachineReadings(at, at),
        tuple(CardReadings(device, at, temperature=heat) for device, heat in cards.items()),
    )


def test_ring_keeps_the_newest_in_order() -> None:
    history = History(slots=3, step=1)
    for at in range(5):
        history.add(read(at, cpu=10 * at))
    assert history.series("cpu", "temperature") == [(2, 20), (3, 30), (4, 40)]


def test_readings_between_two_steps_are_left_out() -> None:
    history = History(slots=10, step=5)
    for at in range(12):
        history.add(read(at, cpu=at))
    assert history.series("cpu", "temperature") == [(0, 0), (5, 5), (10, 10)]


def test_what_a_card_does_not_tell_stays_untold() -> None:
    history = History(slots=10, step=1)
    history.add(read(0, one=None, two=3))
    assert history.series("one", "temperature") == [(0, None)]
    assert history.series("two", "temperature") == [(0, 3)]
    assert history.series("two", "fan") == [(0, None)]


def test_unknown_card_has_no_history_and_an_unknown_figure_is_an_error() -> None:
    assert History().series("cuda:9", "fan") == []
    with pytest.raises(KeyError):
        History().series("cpu", "horsepower")


def test_three_hours_of_a_card_take_little_memory() -> None:
    history = History()
    for at in range(0, 4 * 3600, 5):
        history.add(read(at, cpu=at))
    series = history.series("cpu", "temperature")
    assert series[-1][0] - series[0][0] == 3 * 3600 - 5
    assert (len(FIGURES) + 1) * 8 * len(series) < 130_000
