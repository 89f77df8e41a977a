"""What it costs to look at a card, the machine and its user once a second."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import psutil
from measuring import Row, quartiles
from nvml_stand_in import COMPILER, OtherProcess, StandIn

READINGS = 20


def run() -> list[Row]:
    if COMPILER is None:
        raise SystemExit("watching_cpu builds a stand-in NVML: install a C compiler (gcc).")
    with tempfile.TemporaryDirectory(prefix="foxden-bench-") as folder:
        stand_in = StandIn(Path(folder))
        stand_in.build()
        stand_in.tell()
        words = ("nvml_reading.py", "cost", str(READINGS), "cuda:0")
        with OtherProcess(*words, environment=stand_in.environment) as other:
            spent = [100 * seconds for seconds in other.hear()]  # per reading, which is a second
    screen = "an X server asked" if os.environ.get("DISPLAY") else "no display"
    return [
        Row(
            "watching_cpu",
            sum(spent) / len(spent),
            "% of a core",
            "<= 0.5",
            f"a stand-in NVML, so a real driver's own time comes on top; one card, "
            f"{len(psutil.pids())} processes against a list of programs, {screen}; "
            f"half {quartiles(spent)}",
        )
    ]
