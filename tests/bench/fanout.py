"""One job of eight images over two cards against one, where both cards are the same CPU."""

from __future__ import annotations

import os

from measuring import (
    Row,
    engine_threads,
    interleaved,
    median,
    pool,
    quartiles,
    timed,
)
from plain import DEMO

from foxden import Client

IMAGES = 8
ROUNDS = 3
REQUEST = {**DEMO, "steps": 20}


def draw(client: Client) -> str:
    result = client.generate(**REQUEST, sampler="DPM++ 2M", count=IMAGES, progress=False)
    assert len(result) == IMAGES
    return result.job_id


def speed_up(**environment: str) -> tuple[list[float], int]:
    """How many times faster two cards are, per round, and the threads of each engine."""
    with pool("one", **environment) as single, pool("left", "right", **environment) as pair:
        alone, both = single.client(), pair.client()
        used = engine_threads(single, draw(alone))
        draw(both)
        cards = {p.card for p in both.generate(DEMO["prompt"], count=4, progress=False)}
        assert len(cards) == 2, f"one card drew everything: {cards}"
        timings = interleaved(
            ROUNDS, lambda: timed(lambda: draw(alone)), lambda: timed(lambda: draw(both))
        )
    return [slow / fast for slow, fast in timings], used


def run() -> list[Row]:
    cores = os.cpu_count()
    fair, one = speed_up(OMP_NUM_THREADS="1")
    default, threads = speed_up()
    return [
        Row(
            "fanout_ratio",
            median(fair),
            "x",
            bound_by=f"each engine on {one} thread, {cores} cores: 2 at most, less what other "
            f"programs, the broker and the caller take; {ROUNDS} pairs, half {quartiles(fair)}",
        ),
        Row(
            "fanout_default_ratio",
            median(default),
            "x",
            bound_by=f"each engine on {threads} threads (torch's own choice): one card has all "
            f"{cores} cores already, a second divides them; half {quartiles(default)}",
        ),
    ]
