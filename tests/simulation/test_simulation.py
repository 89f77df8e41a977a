"""A few seeds of the whole-system simulation, and that a seed repeats exactly.

Each runs in a process of its own, with the order of sets fixed. `run.py` says how to run more.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

RUN = Path(__file__).with_name("run.py")


def run(*words: str) -> str:
    command = [sys.executable, str(RUN), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5_000:]
    return done.stdout


def test_pool_under_faults_keeps_its_invariants() -> None:
    told = run("--seeds", "20")
    (faults,) = re.findall(r"(\d+) faults", told)
    assert int(faults) > 100  # or nothing was tried


def test_pool_that_is_told_everything_twice_ends_as_if_once() -> None:
    told = run("--seeds", "4", "--twice")
    (pictures,) = re.findall(r"(\d+) pictures", told)
    assert int(pictures) > 10


def test_seed_repeats_to_the_last_event() -> None:
    words = ("--seeds", "1", "--start", "5", "--trace")
    first, second = run(*words), run(*words)
    assert re.findall(r"seed 5 \((\w+)\)", first) == re.findall(r"seed 5 \((\w+)\)", second)
    assert re.search(r"[1-9]\d* faults", first)
