"""How long an image takes on a card: moving averages of what was measured. Times in seconds."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from foxden_proto.v1.generation_pb2 import ImageRequest

_WEIGHT_OF_NEWEST = 0.3


def work(request: ImageRequest) -> float:
    """The size of one image's work: steps x pixels, the model's own speed apart."""
    return float(max(1, request.steps) * max(1, request.width) * max(1, request.height))


@dataclass
class Estimates:
    """Seconds per unit of work, per (card, model), with how far the measurements stray."""

    _rates: dict[tuple[str, str], tuple[float, float]] = field(default_factory=dict)

    def observe(self, card_id: str, request: ImageRequest, seconds: float) -> None:
        """Take in a finished image."""
        if not 0 < seconds < math.inf:  # an agent can say anything
            return
        rate = seconds / work(request)
        key = (card_id, request.model_sha256)
        old, stray = self._rates.get(key, (rate, 0.25 * rate))
        stray += _WEIGHT_OF_NEWEST * (abs(rate - old) - stray)
        self._rates[key] = (old + _WEIGHT_OF_NEWEST * (rate - old), stray)

    def seconds(self, card_id: str, request: ImageRequest) -> float | None:
        """What one image takes on this card; None where nothing like it was measured."""
        known = self._rates.get((card_id, request.model_sha256))
        return known[0] * work(request) if known else None

    def wait(
        self, card_ids: Iterable[str], request: ImageRequest, images: int
    ) -> tuple[float, float] | None:
        """(p50, p90) seconds until `images` images like this are done on these cards together.

        None where no card was measured. The p90 adds 1.28 times the mean stray of the cards, as
        if one image's time were normally distributed.
        """
        known = [
            rate
            for card_id in card_ids
            if (rate := self._rates.get((card_id, request.model_sha256))) is not None
        ]
        if not known:
            return None
        per_second = sum(1 / (rate * work(request)) for rate, _ in known)
        p50 = images / per_second
        spread = sum(stray / rate for rate, stray in known) / len(known)
        return p50, p50 * (1 + 1.28 * 1.25 * spread)  # a mean deviation is 0.8 of a standard one
