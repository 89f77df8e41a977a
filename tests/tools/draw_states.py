"""Draws the state tables of foxden_proto.states into ARCHITECTURE.md.

Each drawing goes between `<!-- states:NAME -->` and `<!-- /states -->`, NAME being task, job or
link. With --check nothing is written; the exit code is 1 where a drawing is not up to date.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from foxden_proto.states import JOB, LINK, TASK, JobState, LinkState, TaskState

PAGE = Path(__file__).resolve().parents[2] / "ARCHITECTURE.md"
MARKED = re.compile(r"(<!-- states:(\w+) -->\n).*?(<!-- /states -->)", re.DOTALL)


def diagram(first: str, changes: Iterable[tuple[str, str, str]], ends: Iterable[str]) -> str:
    """A mermaid state diagram; changes that join the same two states share one arrow."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for before, after, event in changes:
        arrows.setdefault((before, after), []).append(event)
    lines = [f"[*] --> {first}"]
    for (before, after), events in arrows.items():
        label = ", ".join(event for event in events if event)
        lines.append(f"{before} --> {after}" + (f" : {label}" if label else ""))
    lines += [f"{state} --> [*]" for state in ends]
    body = "".join(f"    {line}\n" for line in lines)
    return f"```mermaid\nstateDiagram-v2\n{body}```\n"


def drawings() -> dict[str, str]:
    """The diagrams by name."""
    task = [(s.value, to.value, e.value) for s, row in TASK.items() for e, to in row.items()]
    link = [(s.value, to.value, e.value) for s, row in LINK.items() for e, to in row.items()]
    job = [(s.value, to.value, "") for s in JobState for to in JobState if to in JOB[s]]
    return {
        "task": diagram(TaskState.QUEUED.value, task, [s.value for s in TASK if not TASK[s]]),
        "job": diagram(JobState.QUEUED.value, job, [s.value for s in JOB if not JOB[s]]),
        "link": diagram(LinkState.CONNECTING.value, link, [s.value for s in LINK if not LINK[s]]),
    }


def redrawn(page: str) -> str:
    """The page with its drawings made anew. Raises ValueError where one has no place there."""
    drawn = drawings()
    missing = sorted(set(drawn) ^ {match.group(2) for match in MARKED.finditer(page)})
    if missing:
        raise ValueError(
            f"the markers for {', '.join(missing)} do not match the drawings: each of "
            f"{', '.join(drawn)} needs <!-- states:NAME --> and <!-- /states --> around its place"
        )
    return MARKED.sub(lambda match: match.group(1) + drawn[match.group(2)] + match.group(3), page)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; 1 where out of date")
    parser.add_argument("page", nargs="?", type=Path, default=PAGE)
    options = parser.parse_args(arguments)
    try:
        before = options.page.read_text(encoding="utf-8")
        after = redrawn(before)
    except (OSError, ValueError) as error:
        print(f"The state diagrams cannot be drawn: {error}.", file=sys.stderr)
        return 1
    if after == before:
        return 0
    if options.check:
        print(f"The diagrams in {options.page.name} are out of date: run `make docs`.")
        return 1
    options.page.write_text(after, encoding="utf-8")
    print(f"Redrew the state diagrams in {options.page.name}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
