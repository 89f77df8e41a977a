"""Plots, timeline, the count of the day, the log's tail: what the page shows over time."""

from __future__ import annotations

import logging
from datetime import date
from pathlib import Path

from foxden_agent.page.log_tail import LINES, LogTail
from foxden_agent.page.plots import spans, thinned
from foxden_agent.page.timeline import Timeline
from foxden_agent.page.today import Today
from foxden_agent.policy.values import Code, Decision, Reason
from foxden_agent.readings import MachineReadings, Readings
from foxden_proto.v1 import pool_pb2

READY = Decision()
HOT = Decision(pool_pb2.MODE_HOT, (Reason(Code.HOT, (("temperature", 90.0), ("resume", 75.0))),))
HOTTER = Decision(pool_pb2.MODE_HOT, (Reason(Code.HOT, (("temperature", 91.0), ("resume", 75.0))),))


def at(seconds: float) -> Readings:
    return Readings(MachineReadings(seconds, 0.0), ())


def test_timeline_x_keeps_changes_and_no_passing_figures() -> None:
    timeline = Timeline()
    for second, decision in enumerate([READY, READY, HOT, HOTTER, READY]):
        timeline.look(at(second), {"cuda:0": decision})
    changes = timeline.changes("cuda:0")
    assert [change.at for change in changes] == [0, 2, 4]
    told = spans(changes, 9.0)
    assert [(one["from"], one["to"], one["mode"]) for one in told] == [
        (0, 2, "ready"),
        (2, 4, "hot"),
        (4, 9.0, "ready"),
    ]
    assert "90 °C" in told[1]["reasons"][0]
    assert timeline.changes("cpu") == []


def test_timeline_x_forgets_what_is_too_old_but_not_what_held_then() -> None:
    timeline = Timeline(kept=100)
    for second, decision in ((0, READY), (10, HOT), (20, READY), (150, HOT)):
        timeline.look(at(second), {"cuda:0": decision})
    assert [change.at for change in timeline.changes("cuda:0")] == [20, 150]


def test_thinned_x_no_peak_is_lost_and_gaps_stay() -> None:
    series = [(float(i), 20.0) for i in range(1000)]
    series[501] = (501.0, 95.0)
    gap: list[tuple[float, float | None]] = [(1000.0 + i, None) for i in range(200)]
    made = thinned([*series, *gap], 100)
    assert len(made) <= 100
    assert (501.0, 95.0) in made
    assert made[-1][1] is None
    assert thinned(series[:5], 100) == series[:5]


def test_today_x_counts_begins_anew_at_midnight_and_survives_a_restart(tmp_path: Path) -> None:
    now = date(2026, 11, 25)
    today = Today(tmp_path, lambda: now)
    assert today.count == 0
    for _ in range(3):
        today.add()
    today.save()
    assert Today(tmp_path, lambda: now).count == 3
    now = date(2026, 11, 26)
    assert today.count == 0
    today.add()
    assert today.count == 1
    (tmp_path / "today.json").write_text("{")
    assert Today(tmp_path, lambda: now).count == 0


def test_log_tail_x_bounded_newest_kept_and_asked_from_a_line_on() -> None:
    tail = LogTail()
    logger = logging.Logger("x")
    logger.addHandler(tail)
    logger.debug("not told")
    for number in range(LINES + 10):
        logger.warning("line %d %s", number, "x" * 2000)
    lines = tail.after(0)
    assert len(lines) == LINES
    assert lines[-1].text.startswith(f"line {LINES + 9} ")
    assert max(len(line.text) for line in lines) < 1000
    assert [line.number for line in tail.after(lines[-2].number)] == [lines[-1].number]
