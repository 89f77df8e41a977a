"""What the programs of a failed test said last, for whoever reads the report and was not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from real_pool import Pool, Process

LINES, LINE_CHARACTERS = 40, 600
_BLOCK = LINES * LINE_CHARACTERS


def of_open_pools(since: float) -> Iterator[tuple[str, str]]:
    """Title and text for each pool of which something was written after the moment `since`
    (seconds since 1970): a pool that other tests share and this one left alone says nothing."""
    for pool in Pool.opened:
        logs = [path for path in pool.logs() if path.exists()]
        if not any(path.stat().st_mtime >= since for path in logs):
            continue
        yield f"programs of {pool.folder}", "\n".join([*map(_state, pool.processes), _machine()])
        with suppress(Exception):  # its database may be what is broken
            yield f"attempts in {pool.folder}", "\n".join(_attempts(pool))
        for path in logs:
            yield f"last lines of {path}", _tail(path)


def _state(process: Process) -> str:
    code = process.exit_code
    how = "runs" if code is None else f"ended with {code}"
    engines = [child.pid for child in process.descendants()]
    return f"{process.log.name}: process {process.pid} {how}, its children {engines}"


def _machine() -> str:
    loads = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    return f"{os.cpu_count()} cores, load {loads} (1, 5 and 15 minutes)"


def _attempts(pool: Pool) -> list[str]:
    columns = "job_id, idx, lease_no, card_id, outcome, reason, started_ms, ended_ms"
    found = pool.rows(f"SELECT {columns} FROM attempt ORDER BY started_ms DESC LIMIT {LINES}")
    return [columns, *(" | ".join(map(str, row))[:LINE_CHARACTERS] for row in reversed(found))]


def _tail(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _BLOCK))
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join(line[:LINE_CHARACTERS] for line in lines[-LINES:])
