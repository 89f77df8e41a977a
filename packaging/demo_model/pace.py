"""How long a training run lasts, by the clock or in steps, and how its learning rate falls."""

from __future__ import annotations

import argparse
import datetime
import math
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Pace:
    """A run from ``begin`` to ``end`` (seconds since 1970), or of ``steps`` if that is not 0.

    The rate rises over ``warm_up`` steps, stays at ``rate`` until the share ``flat`` of the run is
    over, and then falls to nothing along a cosine: a run that is stopped by its clock has still
    had its quiet end, which is worth as much as many more pictures.
    """

    begin: float
    end: float
    steps: int
    rate: float
    flat: float
    warm_up: int = 150

    def progress(self, step: int) -> float:
        """0 at the start, 1 and more when it is time to stop."""
        if self.steps:
            return step / self.steps
        return (time.time() - self.begin) / (self.end - self.begin)

    def learning_rate(self, step: int) -> float:
        late = min(1.0, max(0.0, (self.progress(step) - self.flat) / (1 - self.flat)))
        return self.rate * min(1.0, (step + 1) / self.warm_up) * (1 + math.cos(math.pi * late)) / 2


def add_options(parser: argparse.ArgumentParser, rate: float, flat: float) -> None:
    parser.add_argument("--until", help="HH:MM today, local time")
    parser.add_argument("--steps", type=int, default=0, help="instead of --until; repeatable")
    parser.add_argument("--rate", type=float, default=rate, help="highest learning rate")
    parser.add_argument("--flat", type=float, default=flat, help="share of the run at that rate")


def pace_of(args: argparse.Namespace) -> Pace:
    """The pace asked for by the options of ``add_options``, from now on."""
    begin = end = time.time()
    if args.until:
        hour, minute = map(int, args.until.split(":"))
        today = datetime.datetime.now().astimezone()
        end = today.replace(hour=hour, minute=minute, second=0, microsecond=0).timestamp()
    if not args.steps and end <= begin:
        raise SystemExit("Say how long to train: --steps N, or --until HH:MM later today.")
    return Pace(begin, end, args.steps, args.rate, args.flat)


def now() -> str:
    return time.strftime("%H:%M:%S")
