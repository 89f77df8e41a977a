"""Ends a card's engine when nobody has used it for a while: then even the CUDA context is gone."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from foxden_agent import model_cache
from foxden_agent.card_engine import CardEngine

log = logging.getLogger(__name__)

_SELDOM = 30.0  # seconds between looks, at most: ending it that much later harms nobody


async def run(engine: CardEngine, busy: Callable[[], bool], after: float) -> None:
    """Look now and then, until cancelled; `after` seconds without work, 0: never.

    The engine starts again with the next work.
    """
    while True:
        await asyncio.sleep(min(_SELDOM, after / 10) if after > 0 else _SELDOM)
        idle = model_cache.idle(time.monotonic(), engine.used_at, after)
        if idle and engine.running and not busy():
            log.info("the engine of %s ends: no work for %.0f s", engine.device, after)
            await engine.end()
