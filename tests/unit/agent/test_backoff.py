"""Delays grow to their most, and no two agents wait alike."""

from __future__ import annotations

import random
from itertools import islice

from foxden_agent.backoff import delays


def test_delays_grow_to_the_most_and_stay_there() -> None:
    ceilings = [1, 2, 4, 8, 8, 8]
    for seed in range(50):
        taken = list(islice(delays(1, 8, random.Random(seed)), 6))
        for delay, ceiling in zip(taken, ceilings, strict=True):
            assert ceiling / 2 <= delay <= ceiling


def test_two_agents_wait_differently() -> None:
    first, second = (list(islice(delays(1, 8, random.Random(seed)), 5)) for seed in (1, 2))
    assert first != second


def test_first_above_most_falls_to_the_most() -> None:
    assert list(islice(delays(10, 2, random.Random(1)), 2))[1] <= 2
