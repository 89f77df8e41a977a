"""foxden demo: a picture from nothing, and nothing left behind but the picture."""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from foxden.cli import _output, generate, up
from foxden.local import LocalPool, Settings, Stopped, stoppable

PROMPT = "a red cube on a blue background"
SEED = 7  # its picture is one of those that the demo model's recipe was checked with


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("foxden-demo.png"), metavar="FILE")
    up.add_card_options(parser)


def run(args: argparse.Namespace) -> int:
    from foxden.sync import Client

    begun = time.monotonic()
    timings: dict[str, float] = {}

    @contextlib.contextmanager
    def stage(name: str, text: str) -> Iterator[None]:
        start = time.monotonic()
        with _status(text):
            yield
        timings[name] = round(time.monotonic() - start, 2)

    try:
        with (
            stoppable(),
            tempfile.TemporaryDirectory(prefix="foxden-demo-", ignore_cleanup_errors=True) as home,
            LocalPool(
                Settings(
                    Path(home),
                    device=args.device,
                    models=args.models,
                    vram_budget=args.vram_budget,
                    page=False,
                )
            ) as pool,
        ):
            with stage("broker", "starting the broker"):
                endpoint = pool.start_broker()
            with stage("card", "starting the engine (loading torch)"):
                pool.start_agent(endpoint)
                pool.agent_ready()
            with stage("picture", ""), Client(endpoint.url, endpoint.token, home=home) as client:
                picture = client.generate(PROMPT, seed=SEED)[0]
            path = picture.save(args.out).absolute()
            with stage("stop", "shutting down"):
                pool.stop()
    except Stopped:
        return _output.INTERRUPTED
    timings["total"] = round(time.monotonic() - begun, 2)
    described = generate.describe(picture, path)
    spent = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in timings.items())
    return _output.answer(
        args,
        {**described, "prompt": PROMPT, "timings": timings},
        f"{path}\n{PROMPT!r}, drawn by {picture.model} on {picture.card} ({spent})",
    )


@contextlib.contextmanager
def _status(text: str) -> Iterator[None]:
    """What is being waited for, on the error stream: alive in a terminal, else one line."""
    if not text:
        yield
    elif sys.stderr.isatty():
        from rich.console import Console

        with Console(stderr=True).status(text):
            yield
    else:
        print(f"{text} …", file=sys.stderr, flush=True)
        yield
