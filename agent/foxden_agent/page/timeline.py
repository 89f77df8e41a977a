"""When each card was in which mode, and why: what lies under the plots. Of a fixed size."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from foxden_agent.policy.values import Decision
from foxden_agent.readings import Readings

_MOST = 500  # changes per card; beyond that the oldest go
_KEPT = 3 * 3600.0  # seconds, as the plots


@dataclass(frozen=True, slots=True)
class Change:
    """From `at` (seconds of the readings' monotonic clock) on this was decided."""

    at: float
    decision: Decision


class Timeline:
    """`look` is told of every reading with the decisions that followed it."""

    def __init__(self, kept: float = _KEPT) -> None:
        self._kept = kept
        self._changes: dict[str, deque[Change]] = {}

    def look(self, readings: Readings, decisions: Mapping[str, Decision]) -> None:
        at = readings.machine.at
        for device, decision in decisions.items():
            changes = self._changes.setdefault(device, deque(maxlen=_MOST))
            if not changes or changes[-1].decision.headline != decision.headline:
                changes.append(Change(at, decision))
            # The one before the oldest kept moment says what held at that moment.
            while len(changes) > 1 and changes[1].at < at - self._kept:
                changes.popleft()

    def changes(self, device: str) -> list[Change]:
        """From the oldest to the newest; [] for a card never seen."""
        return list(self._changes.get(device, ()))
