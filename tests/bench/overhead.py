"""What Foxden adds to a picture: the SDK's call against diffusers called by hand, both warm."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace

import psutil
from measuring import (
    Drawn,
    Plain,
    Row,
    engine_threads,
    interleaved,
    mean_difference,
    median,
    pool,
    quartiles,
)
from plain import DEMO

from foxden import Client, events

ROUNDS = 9
REQUEST = {**DEMO, "steps": 80}  # a second or more of drawing, 64 x 64 pixels
SAME = 2.0  # mean difference of two pictures that counts as none, of 255


@dataclass(frozen=True)
class Asked:
    """One picture through Foxden: seconds as the caller sees them."""

    total: float  # until PIL has decoded it
    started: float  # until the caller heard that a card has begun
    engine: float  # in the engine, PNG encoding included
    pixels: bytes
    job_id: str


class Processors:
    """Processor seconds of processes so far: others' load disturbs them less than the clock's."""

    def __init__(self, *pids: int) -> None:
        self._processes = [psutil.Process(pid) for pid in pids]

    def spent(self) -> float:
        times = [process.cpu_times() for process in self._processes]
        return sum(t.user + t.system for t in times)


def ask(client: Client) -> Asked:
    started = 0.0
    begun = time.perf_counter()

    def note(event: events.Event) -> None:
        nonlocal started
        if isinstance(event, events.Started):
            started = time.perf_counter() - begun

    result = client.generate(**REQUEST, sampler="DPM++ 2M", progress=False, on_event=note)
    image = result.image
    total = time.perf_counter() - begun
    pixels = image.convert("RGB").tobytes()
    return Asked(total, started, result[0].seconds, pixels, result.job_id)


def measure(prefix: str, threads: int | None, aims: tuple[str, str]) -> list[Row]:
    """The rows for engines of so many threads (None: as many as torch takes by itself)."""
    environment = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    with pool("card", **environment) as made, Plain(**environment) as plain:
        client = made.client()
        used = engine_threads(made, ask(client).job_id)
        assert used == plain.threads, "the two sides use different numbers of threads"

        def by_hand() -> Drawn:
            return plain.draw(**REQUEST)

        interleaved(1, lambda: ask(client), by_hand)
        assert made.broker is not None
        engine = Processors(made.engine_of("card").pid)
        hands = Processors(plain.pid)
        around = Processors(os.getpid(), made.broker.pid, made.agents["card"].pid)
        before_all = [one.spent() for one in (engine, hands, around)]
        pairs: list[tuple[Asked, Drawn]] = interleaved(ROUNDS, lambda: ask(client), by_hand)

        spent = [
            one.spent() - before
            for one, before in zip((engine, hands, around), before_all, strict=True)
        ]

    difference = max(mean_difference(a.pixels, b.pixels) for a, b in pairs)
    assert difference <= SAME, f"not the same picture: {difference:.2f} of 255 apart"
    ratios = [a.total / b.seconds for a, b in pairs]
    extra = [1000 * (a.total - b.seconds) for a, b in pairs]
    before = [1000 * a.started for a, _ in pairs]
    inside = [1000 * (a.engine - b.seconds) for a, b in pairs]
    after = [1000 * (a.total - a.started - a.engine) for a, _ in pairs]
    hand = median([b.seconds for _, b in pairs])
    what = (
        f"{REQUEST['steps']} steps at 64x64 on {used} thread(s), {hand:.2f} s by hand; "
        f"{ROUNDS} pairs, same picture to {difference:.2f}/255"
    )
    return [
        Row(
            f"{prefix}_ratio", median(ratios), "x", aims[0], f"{what}; half of {quartiles(ratios)}"
        ),
        Row(
            f"{prefix}_ms",
            median(extra),
            "ms",
            aims[1],
            f"the three rows below; half of the pairs {quartiles(extra)}",
        ),
        Row(
            f"{prefix}_dispatch_ms",
            median(before),
            "ms",
            bound_by="submit to Started heard: two commits with fsync (job, lease), four messages",
        ),
        Row(
            f"{prefix}_engine_ms",
            median(inside),
            "ms",
            bound_by="engine less by hand: a callback per step, ten messages a second, a PNG; the "
            f"cores shared with broker and caller; half {quartiles(inside)}",
        ),
        Row(
            f"{prefix}_delivery_ms",
            median(after),
            "ms",
            bound_by="PUT with fsync, one commit, one download, decoded",
        ),
        Row(
            f"{prefix}_engine_cpu_ratio",
            spent[0] / spent[1],
            "x",
            bound_by="processor seconds of the engine against those by hand: what is left of the "
            "comparison where other programs disturb the clock's",
        ),
        Row(
            f"{prefix}_around_cpu_ms",
            1000 * spent[2] / ROUNDS,
            "ms",
            bound_by="processor time per picture of broker, agent and caller: ten words a second",
        ),
        Row(
            f"{prefix}_png_ms",
            median([1000 * b.png_seconds for _, b in pairs]),
            "ms",
            bound_by="Pillow and zlib, level 4; part of the engine's row",
        ),
    ]


def run() -> list[Row]:
    rows = measure("overhead", None, ("<= 1.05", "<= 40"))
    return [replace(r, name="png_encode_ms") if r.name == "overhead_png_ms" else r for r in rows]


def run_one_thread() -> list[Row]:
    rows = measure("overhead_one_thread", 1, ("", ""))
    return [row for row in rows if not row.name.endswith("_png_ms")]
