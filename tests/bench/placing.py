"""What one decision about a placement costs the agent, in processor time."""

from __future__ import annotations

import time
from collections.abc import Callable

from measuring import Row
from placement_models import MODELS, card

from foxden_agent.placement import Remembered, Work, place

DECISIONS = 300
KNOWN = Remembered({"float16": 1.1, "float16 tiled": 0.9, "bfloat16": 1.2})


def cost(decide: Callable[[], object]) -> float:
    """Milliseconds of one decision."""
    decide()
    started = time.process_time()
    for _ in range(DECISIONS):
        decide()
    return (time.process_time() - started) / DECISIONS * 1e3


def run() -> list[Row]:
    fits = [
        cost(lambda m=m, gb=gb, side=side: place(m, card(gb), Work(side * side), KNOWN))
        for m in MODELS.values()
        for gb in (4, 12, 24)
        for side in (512, 1024, 2048)
    ]
    refused = cost(lambda: place(MODELS["FLUX"], card(2, ram=16), Work(2048 * 2048), KNOWN))
    return [
        Row("placement_ms", max(fits), "ms", "<= 1", "dearest of 4 models x 3 cards x 3 sizes"),
        Row("placement_refused_ms", refused, "ms", "<= 1", "looks for sizes and cards that would"),
    ]
