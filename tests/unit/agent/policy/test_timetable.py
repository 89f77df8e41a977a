"""Quiet hours: what is read, and what holds on ordinary days and when the clocks change."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from evening import BERLIN
from hypothesis import given, settings
from hypothesis import strategies as st

from foxden_agent.policy.timetable import Window, clock_text, next_morning, span


def at(text: str, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN, fold=fold).timestamp()


def quiet(windows: list[str], wall: float) -> bool:
    return span(tuple(Window.parse(text) for text in windows), wall, BERLIN).quiet


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("mon-fri 18:00-23:30", "mon,tue,wed,thu,fri 18:00-23:30"),
        ("Sat, sun 22:00 - 2:00", "sat,sun 22:00-02:00"),
        ("fri-mon 00:00-24:00", "mon,fri,sat,sun 00:00-24:00"),
        ("daily 6:00-7:05", "daily 06:00-07:05"),
        ("22:00-08:00", "daily 22:00-08:00"),
    ],
)
def test_window_is_read_and_shown(text: str, shown: str) -> None:
    assert str(Window.parse(text)) == shown
    assert Window.parse(shown) == Window.parse(text)


@pytest.mark.parametrize(
    "text",
    ["", "mon", "mon 18:00", "mon 18:00-18:00", "mon 24:00-02:00", "mon 1:60-2:00",
     "mon 1:00-24:01", "moon 1:00-2:00", "mon- 1:00-2:00", ", 1:00-2:00"],
)  # fmt: skip
def test_window_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Window.parse(text)


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        ("2026-11-27 21:59:59", False),  # Friday
        ("2026-11-27 22:00:00", True),
        ("2026-11-28 01:59:59", True),  # Saturday, still Friday's window
        ("2026-11-28 02:00:00", False),
        ("2026-11-28 23:00:00", False),
    ],
)
def test_window_over_midnight_belongs_to_the_day_it_begins(moment: str, expected: bool) -> None:
    assert quiet(["fri 22:00-02:00"], at(moment)) is expected


def test_windows_that_touch_are_one() -> None:
    windows = tuple(map(Window.parse, ("daily 20:00-24:00", "daily 00:00-07:00")))
    found = span(windows, at("2026-11-27 21:00"), BERLIN)
    assert found.ends == at("2026-11-28 07:00")


# On 2026-10-25 at 03:00 clocks go back to 02:00; on 2026-03-29 at 02:00 they go on to 03:00.


def test_hour_that_comes_twice_is_quiet_both_times() -> None:
    moments = [at("2026-10-25 01:30") + 600 * step for step in range(12)]
    assert [quiet(["sun 01:30-02:30"], moment) for moment in moments] == [True] * 12
    assert not quiet(["sun 01:30-02:30"], moments[-1] + 600)


def test_hour_that_does_not_come_leaves_no_hole() -> None:
    assert quiet(["sun 01:00-04:00"], at("2026-03-29 01:59:59"))
    assert quiet(["sun 01:00-04:00"], at("2026-03-29 03:00:01"))
    assert quiet(["sun 02:15-02:45"], at("2026-03-29 01:59:59"))  # rather quiet than not


@given(
    start=st.integers(0, 1439),
    length=st.integers(1, 1439),
    wall=st.floats(at("2026-01-01"), at("2027-01-01")),
)
@settings(deadline=None)
def test_span_says_the_same_at_every_moment_it_covers(start: int, length: int, wall: float) -> None:
    windows = (Window(frozenset({0, 2, 6}), start, start + length),)
    found = span(windows, wall, BERLIN)
    assert found.since <= wall < found.until <= wall + 3600
    for part in (0.0, 0.5, 0.999):
        moment = wall + (found.until - wall) * part
        assert span(windows, moment, BERLIN).quiet is found.quiet
    if found.quiet:
        assert not span(windows, found.ends, BERLIN).quiet


@given(wall=st.floats(at("2026-01-01"), at("2027-01-01")))
@settings(deadline=None)
def test_next_morning_is_six_and_two_hours_away_at_least(wall: float) -> None:
    morning = datetime.fromtimestamp(next_morning(wall, BERLIN), BERLIN)
    assert (morning.hour, morning.minute) == (6, 0)
    assert timedelta(hours=2) <= timedelta(seconds=morning.timestamp() - wall)
    assert morning.timestamp() - wall <= 27 * 3600


def test_clock_text_names_the_day_where_it_is_another() -> None:
    evening = at("2026-11-25 22:00")
    assert clock_text(at("2026-11-25 23:00"), BERLIN, seen_at=evening) == "23:00"
    assert clock_text(at("2026-11-26 06:00"), BERLIN, seen_at=evening) == "Thu 06:00"
