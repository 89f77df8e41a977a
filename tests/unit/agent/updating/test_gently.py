"""Programs that nobody is to feel, and that end at a word."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from foxden_agent.updating import gently


class OwnerCameError(Exception):
    pass


def nothing() -> None:
    pass


@pytest.mark.skipif(sys.platform != "linux", reason="priorities as Linux tells them")
def test_thread_and_its_programs_give_way_and_the_rest_of_the_program_does_not() -> None:
    said: list[str] = []

    def work() -> None:
        gently.this_thread()
        tell = "import os, psutil; print(os.nice(0), psutil.Process().ionice().ioclass.name)"
        said.append(gently.run([sys.executable, "-c", tell], 60, nothing).stdout.strip())

    before = os.getpriority(os.PRIO_PROCESS, 0)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert said == ["19 IOPRIO_CLASS_IDLE"]
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


def test_answer_and_code_come_back() -> None:
    done = gently.run(["sh", "-c", "echo well; echo ill >&2; exit 3"], 60, nothing)
    assert (done.returncode, done.stdout, done.stderr) == (3, "well\n", "ill\n")


def test_more_than_a_pipe_holds_comes_whole() -> None:
    assert len(gently.run(["seq", "200000"], 60, nothing).stdout) > 10**6


@pytest.mark.parametrize("ended_by", ["owner", "time"])
def test_program_ends_with_all_that_it_has_started(tmp_path: Path, ended_by: str) -> None:
    mark = tmp_path / "pid"

    def owner() -> None:
        if mark.exists() and mark.read_text().strip():
            raise OwnerCameError

    words = ["sh", "-c", f"sleep 300 & echo $! > {mark}; wait"]
    began = time.monotonic()
    if ended_by == "owner":
        with pytest.raises(OwnerCameError):
            gently.run(words, 60, owner)
    else:
        with pytest.raises(subprocess.TimeoutExpired):
            gently.run(words, 1, nothing)
    assert time.monotonic() - began < 20
    number = int(mark.read_text())
    assert not psutil.pid_exists(number) or psutil.Process(number).status() == "zombie"
