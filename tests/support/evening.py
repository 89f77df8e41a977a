"""Readings of a made-up card and its PC, second by second, and what the policy makes of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from foxden_agent.policy.deciding import decide
from foxden_agent.policy.memory import State
from foxden_agent.policy.settings import Policy
from foxden_agent.policy.values import Code, Decision, EngineUse, Seen
from foxden_agent.policy.wishes import Wish
from foxden_agent.readings import CardReadings, MachineReadings
from foxden_proto.v1 import pool_pb2

GIB = 2**30
BERLIN = ZoneInfo("Europe/Berlin")
# A Wednesday, far from any change of clocks.
NOON = datetime(2026, 11, 25, 12, 0, tzinfo=BERLIN).timestamp()

CARD = CardReadings(
    "cuda:0",
    0.0,
    memory_total=8 * GIB,
    memory_used=GIB,
    memory_free=7 * GIB,
    temperature=60.0,
    utilisation=0.0,
    processes=(),
)
PC = MachineReadings(0.0, NOON, full_screen="", on_battery=False, idle_seconds=5.0)


class Evening:
    """One card's policy under a clock that the test moves."""

    def __init__(
        self, policy: Policy | None = None, *, wish: Wish | None = None, zone: tzinfo = BERLIN
    ) -> None:
        self.policy = policy or Policy()
        self.wish = wish
        self.zone = zone
        self.now = 1000.0
        self.wall = NOON
        self.state = State()
        self.card, self.pc, self.engine = CARD, PC, EngineUse()
        self.foreign_use: float | None = None
        self.decision = Decision()

    def set(self, **readings: Any) -> Evening:
        """Change readings: of the card, of the PC, or of the engine (engine_*)."""
        for name, value in readings.items():
            if name.startswith("engine_"):
                self.engine = replace(self.engine, **{name.removeprefix("engine_"): value})
            elif hasattr(self.card, name):
                self.card = replace(self.card, **{name: value})
            else:
                self.pc = replace(self.pc, **{name: value})
        return self

    def look(self) -> Decision:
        """Decide now."""
        seen = Seen(
            replace(self.card, at=self.now),
            replace(self.pc, at=self.now, wall=self.wall),
            self.engine,
            self.foreign_use,
        )
        self.decision, self.state = decide(
            seen, self.policy, self.now, self.state, wish=self.wish, zone=self.zone
        )
        return self.decision

    def wait(self, seconds: float) -> Decision:
        """Look once a second for so long."""
        for _ in range(round(seconds)):
            self.now += 1
            self.wall += 1
            self.look()
        return self.decision

    def until(self, mode: int, most: float = 4000) -> int:
        """Seconds of looking until the mode is this one."""
        for passed in range(round(most)):
            if self.wait(1).mode == mode:
                return passed + 1
        raise AssertionError(f"never {pool_pb2.Mode.Name(mode)} in {most} s: {self.decision}")


def codes(decision: Decision) -> set[Code]:
    return {reason.code for reason in decision.reasons}


def modes(decisions: Iterable[Decision]) -> list[str]:
    """The names of the modes, each once while it lasts."""
    found: list[str] = []
    for decision in decisions:
        name = pool_pb2.Mode.Name(decision.mode)
        if not found or found[-1] != name:
            found.append(name)
    return found
