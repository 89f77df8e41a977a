"""Break and mend, again and again, and see how long each recovery takes."""

from __future__ import annotations

import random
import time

from chaos.faults import BrokerKilled, Fault
from chaos.load import Load
from chaos.recovery import Recovery


def strike(
    fault: Fault, times: int, load: Load, draw: random.Random, pause: tuple[float, float]
) -> list[Recovery]:
    """`pause`: seconds before each strike, from and to. Fails where nothing comes for a minute."""
    recoveries = []
    for _ in range(times):
        time.sleep(draw.uniform(*pause))
        struck = time.monotonic()
        fault.strike()
        time.sleep(draw.uniform(*fault.lasts))
        fault.heal()
        mended = time.monotonic() - struck
        starting, no_core = 0.0, 0.0
        if isinstance(fault, BrokerKilled):
            starting, no_core = fault.starting, fault.no_core
        finished = load.wait_for_news(struck)[1]
        recoveries.append(Recovery(mended, finished, starting, no_core))
    return recoveries
