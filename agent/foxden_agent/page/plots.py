"""What a plot of the last hours is made of, as JSON. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from foxden_agent.page.timeline import Change
from foxden_agent.policy.sentences import sentences
from foxden_proto.v1 import pool_pb2

FIGURES = ("temperature", "memory_used", "power")
_MOST_POINTS = 360

Series = Sequence[tuple[float, float | None]]


def thinned(series: Series, most: int = _MOST_POINTS) -> list[tuple[float, float | None]]:
    """At most `most` points of it: of each stretch the highest, so that no peak is hidden.

    A stretch of which nothing is known stays a gap.
    """
    per = -(-len(series) // most)
    if per <= 1:
        return list(series)
    made: list[tuple[float, float | None]] = []
    for begin in range(0, len(series), per):
        part = series[begin : begin + per]
        known = [point for point in part if point[1] is not None]
        made.append(max(known, key=lambda point: point[1] or 0.0) if known else part[0])
    return made


def spans(changes: Iterable[Change], now: float, language: str = "en") -> list[dict[str, Any]]:
    """Stretches of time with their mode and reasons: {"from", "to", "mode", "reasons"}, times on
    the clock of the changes."""
    found = list(changes)
    ends = [change.at for change in found[1:]] + [now]
    return [
        {
            "from": change.at,
            "to": max(change.at, end),
            "mode": mode_name(change.decision.mode),
            "reasons": sentences(change.decision, language),
        }
        for change, end in zip(found, ends, strict=True)
    ]


def mode_name(mode: pool_pb2.Mode.ValueType) -> str:
    """ "quiet_hours" and its like, as everywhere else."""
    return pool_pb2.Mode.Name(mode).removeprefix("MODE_").lower()


def shifted(values: Iterable[tuple[float, float | None]], by: float) -> list[list[float | None]]:
    """Points on another clock, rounded to what a plot can show."""
    return [[round(at + by, 1), None if v is None else round(v, 2)] for at, v in values]
