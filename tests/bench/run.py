"""Measure Foxden: one table on the screen, one file for programs (build/bench.json).

    .venv/bin/python tests/bench/run.py [--long] [--only NAME ...] [--markdown FILE]

Times of a shared machine mean little by themselves. What has an aim is a ratio where it can be:
both sides by turns in one run, and the median of the pairs. docs/benchmarks/README.md says more.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
import time
from pathlib import Path

import checkpointing
import demo
import fanout
import imports
import joining
import models
import overhead
import owner
import placing
import policy
import scheduling
import submitting
import watching
from load import rows as load
from measuring import ROOT, Row
from rich.console import Console
from rich.table import Table

BENCHMARKS = {
    "overhead": overhead.run,
    "overhead_one_thread": overhead.run_one_thread,
    "fanout": fanout.run,
    "demo": demo.run,
    "import": imports.run,
    "joining": joining.run,
    "checkpoint": checkpointing.run,
    "submit": submitting.run,
    "schedule": scheduling.run,
    "engine_start": models.run_start,
    "owner_memory": owner.run_memory,
    "give_back": owner.run_give_back,
    "policy": policy.run,
    "watching_cpu": watching.run,
    "placement": placing.run,
    **load.BENCHMARKS,
}
LONG = {
    **load.LONG,
    "schedule_long": scheduling.run_long,
    "model_switch": models.run_switch,
}  # minutes each: with --long alone
RESULT = ROOT / "build" / "bench.json"
_BEGIN, _END = "<!-- table: run.py --markdown -->", "<!-- end of table -->"


def main() -> int:
    every = BENCHMARKS | LONG
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=every, metavar="NAME", help="run these")
    parser.add_argument("--long", action="store_true", help="the ones that take minutes each")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="put the table there, too")
    arguments = parser.parse_args()
    console, progress = Console(), Console(stderr=True)
    rows: list[Row] = []
    loads = []
    for name in arguments.only or (LONG if arguments.long else BENCHMARKS):
        loads.append(os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0)
        begun = time.monotonic()
        with progress.status(f"measuring {name}"):
            rows += every[name]()
        progress.print(f"{name}: {time.monotonic() - begun:.0f} s")
    about = machine(max(loads))
    console.print(table(rows, about))
    known = write_json(rows)
    if arguments.markdown:
        now = {row.name for row in rows}
        write_markdown(known, now, about, arguments.markdown)
    return 0 if all(row.reached is not False for row in rows) else 1


def machine(load: float) -> str:
    """The kind of machine, without its name, and how busy others kept it."""
    cores = os.cpu_count() or 1
    text = f"{cores} cores, CPU only, {platform.system()}, Python {platform.python_version()}"
    text = f"{time.strftime('%Y-%m-%d')}: {text}"
    return f"{text}, beside other work (load up to {load:.1f})" if load > cores / 2 else text


def shown(row: Row) -> tuple[str, str, str, str, str]:
    word = {True: "yes", False: "NO", None: ""}[row.reached]
    return row.name, f"{row.value:.3g} {row.unit}", row.reach, word, row.bound_by


def table(rows: list[Row], about: str) -> Table:
    made = Table(title=about, show_lines=True)
    for heading in ("row", "value", "reach", "met", "bound by"):
        made.add_column(heading, no_wrap=heading in ("value", "reach"))
    for row in rows:
        made.add_row(*shown(row))
    return made


def write_json(rows: list[Row]) -> list[Row]:
    """Write and return all rows; those not measured this time keep what an earlier run wrote."""
    known = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for row in rows:
        known[row.name] = {k: v for k, v in vars(row).items() if k != "name"}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(known, indent=2, ensure_ascii=False) + "\n")
    return [Row(name, **values) for name, values in known.items()]


def write_markdown(known: list[Row], now: set[str], about: str, path: Path) -> None:
    """Replace what stands between the two markers: the rows of now, and those that the page had."""
    had = path.read_text("utf-8").partition(_BEGIN)[2].partition(_END)[0]
    shows = now | set(re.findall(r"^\| `(\w+)` \|", had, flags=re.MULTILINE))
    rows = [row for row in known if row.name in shows]
    lines = [f"{about}.", "", "| row | value | reach | met | bound by |", "|---|---|---|---|---|"]
    lines += [f"| {' | '.join(('`' + r.name + '`', *shown(r)[1:]))} |" for r in rows]
    new = "\n".join([_BEGIN, *lines, _END])
    pattern = re.escape(_BEGIN) + ".*?" + re.escape(_END)
    text, found = re.subn(pattern, lambda _: new, path.read_text("utf-8"), flags=re.DOTALL)
    if not found:
        sys.exit(f"{path} lacks the markers {_BEGIN} and {_END}: nothing was written there")
    path.write_text(text, "utf-8")


if __name__ == "__main__":
    sys.exit(main())
