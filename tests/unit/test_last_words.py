"""What a failed test's report tells of its programs."""

from __future__ import annotations

import time
from pathlib import Path

from last_words import LINES, of_open_pools
from real_pool import Pool, Process

TALKS = "import sys; print('a line\\n' * 100 + 'the last word', file=sys.stderr); sys.exit(3)"


def test_program_that_ended_x_its_last_lines_and_its_exit_code_are_told(tmp_path: Path) -> None:
    began = time.time() - 1
    pool = Pool(tmp_path)
    try:
        pool.processes.append(Process(["-c", TALKS], [], tmp_path / "one.log"))
        assert pool.processes[0].stop_code(30) == 3

        told = dict(of_open_pools(began))

        assert "one.log" in told[f"programs of {tmp_path}"]
        assert "ended with 3" in told[f"programs of {tmp_path}"]
        lines = told[f"last lines of {tmp_path / 'one.log'}"].splitlines()
        assert lines[-1] == "the last word"
        assert len(lines) == LINES
        assert list(of_open_pools(time.time() + 60)) == [], "nothing was written since"
    finally:
        pool.close()
    assert list(of_open_pools(began)) == []
