"""What the owner-first policy costs: decisions alone, and a governor's whole look at one card."""

from __future__ import annotations

import itertools
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from measuring import Row

from foxden_agent.policy import owner_files
from foxden_agent.policy.deciding import decide
from foxden_agent.policy.governor import Governor
from foxden_agent.policy.memory import State
from foxden_agent.policy.owner_files import OwnerFiles
from foxden_agent.policy.settings import Policy
from foxden_agent.policy.settings_json import to_json
from foxden_agent.policy.timetable import Window
from foxden_agent.policy.values import EngineUse, Seen
from foxden_agent.readings import CardProcess, CardReadings, MachineReadings

_GIB = 2**30
_LOOKS = 4000
_NOON = 1795604400.0  # in November 2026
# More than an owner has: a list of programs, and quiet hours on every day.
_POLICY = Policy(
    programs=tuple(f"game{number}.exe" for number in range(50)),
    quiet_hours=tuple(
        Window.parse(f"{day} {hour}:00-{hour}:30")
        for day, hour in itertools.product(("mon-fri", "sat,sun"), (1, 6, 13, 18, 23))
    ),
)


def run() -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="foxden-bench-") as folder:
        governed = _through_a_governor(Path(folder))
    decided = _decisions()
    what = f"{_LOOKS} looks of a made-up evening with 50 programs and 10 quiet windows, CPU time"
    worst = f"the slowest of 100, an hour of quiet hours is worked out there; {what}"
    return [
        Row("decide_ms", statistics.median(decided), "ms", "<= 1", f"median; {what}"),
        Row("decide_p99_ms", statistics.quantiles(decided, n=100)[98], "ms", "<= 1", worst),
        Row(
            "govern_core_percent", statistics.mean(governed) / 10, "%", "<= 0.1",
            f"of one core, at one reading a second of one card: decision, two `stat`; {what}",
        ),
    ]  # fmt: skip


def _decisions() -> list[float]:
    state = State()

    def look(seen: Seen) -> None:
        nonlocal state
        _, state = decide(seen, _POLICY, seen.card.at, state)

    return _timed(look)


def _through_a_governor(folder: Path) -> list[float]:
    (folder / owner_files.POLICY).write_text(json.dumps(to_json(_POLICY)))
    governor = Governor(OwnerFiles(folder, "run").look, lambda device, decision: None)
    return _timed(lambda seen: governor.read(seen.card, seen.machine, seen.engine))


def _timed(look: Callable[[Seen], object]) -> list[float]:
    """Milliseconds of CPU time that each look takes."""
    found = []
    for seen in _evening():
        begun = time.thread_time_ns()
        look(seen)
        found.append((time.thread_time_ns() - begun) / 1e6)
    return found


def _evening() -> list[Seen]:
    """One reading a minute, so that quiet hours come and go; the card gets hot, games start."""
    dice = random.Random(7)
    temperature, game = 60.0, ""
    seen = []
    for number in range(_LOOKS):
        at = number * 60.0
        temperature = min(95.0, max(50.0, temperature + dice.uniform(-4, 4)))
        if dice.random() < 0.05:
            game = "" if game else "witcher3.exe"
        others = 5 * _GIB if game else _GIB
        card = CardReadings(
            "cuda:0", at, memory_total=8 * _GIB, memory_used=others, memory_free=8 * _GIB - others,
            temperature=temperature, temperature_slowdown=95, utilisation=0.9 if game else 0.05,
            processes=tuple(CardProcess(pid, f"p{pid}.exe", others // 8) for pid in range(8)),
        )  # fmt: skip
        machine = MachineReadings(at, _NOON + at, full_screen=game, on_battery=False)
        engine = EngineUse(busy=not game and dice.random() < 0.5)
        seen.append(Seen(card, replace(machine, idle_seconds=dice.uniform(0, 400)), engine))
    return seen
