"""Delays between tries, as a generator: only the caller sleeps."""

from __future__ import annotations

import random
from collections.abc import Iterator


def delays(first: float, most: float, draw: random.Random) -> Iterator[float]:
    """Seconds to wait before each new try: between half of a ceiling and the whole, which
    doubles from `first` to `most`.

    The jitter matters after a broker's restart: thirty agents that lost it at one moment must not
    come back at one moment.

    >>> [round(d, 2) for d, _ in zip(delays(1, 8, random.Random(1)), range(5))]
    [0.57, 1.85, 3.53, 4.02, 5.98]
    """
    ceiling = first
    while True:
        yield ceiling * (0.5 + 0.5 * draw.random())
        ceiling = min(most, ceiling * 2)
