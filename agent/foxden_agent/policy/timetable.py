"""Quiet hours: windows of the week in local time, safe when the clocks change. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, tzinfo

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MORNING = 6  # o'clock; where "until tomorrow" ends
_MORNING_AWAY = 2 * 3600.0  # seconds; nearer than this, the morning after is meant
_MOST_AHEAD = 3600.0  # seconds; a machine that moves to another time zone is noticed by then
_DAY = 24 * 60  # minutes
_FORM = re.compile(r"(?:([a-z, -]+?) +)?(\d{1,2}):(\d\d) *- *(\d{1,2}):(\d\d)")


@dataclass(frozen=True, slots=True)
class Window:
    """Quiet from `start` on each of `days`, for less than a day or for a whole one."""

    days: frozenset[int]  # 0: Monday
    start: int  # minutes after midnight, 0 to 1439
    end: int  # minutes after midnight of the day it began on, above `start`; up to 1440 more

    @classmethod
    def parse(cls, text: str) -> Window:
        """Read "mon-fri 18:00-23:30", "sat,sun 22:00-02:00", "daily 00:00-24:00", or hours alone:
        "22:00-08:00" is daily.

        Raises ValueError.
        """
        found = _FORM.fullmatch(text.strip().lower())
        if not found:
            raise ValueError(text)
        begin, end = (int(found[i]) * 60 + int(found[i + 1]) for i in (2, 4))
        if max(int(found[3]), int(found[5])) > 59 or begin >= _DAY or end > _DAY or begin == end:
            raise ValueError(text)
        return cls(_days(found[1] or "daily"), begin, end if end > begin else end + _DAY)

    def __str__(self) -> str:
        days = "daily" if len(self.days) == 7 else ",".join(DAYS[day] for day in sorted(self.days))
        end = self.end if self.end <= _DAY else self.end - _DAY
        return f"{days} {_clock(self.start)}-{_clock(end)}"


@dataclass(frozen=True, slots=True)
class Span:
    """What holds from one moment to another, in Unix seconds, by these windows."""

    quiet: bool
    since: float
    until: float
    ends: float  # when these quiet hours are over; `until` may come sooner
    windows: tuple[Window, ...]

    def holds(self, wall: float, windows: tuple[Window, ...]) -> bool:
        return self.since <= wall < self.until and self.windows == windows


def span(windows: tuple[Window, ...], wall: float, zone: tzinfo | None) -> Span:
    """Whether `wall` is within quiet hours, and until when that can be relied upon.

    `zone` None is the machine's own. A window is one stretch of time also in the night when clocks
    change: an hour that comes twice counts with both, and a time that does not exist is taken for
    the earlier one at a window's beginning, and for the later one at its end.
    """
    today = datetime.fromtimestamp(wall, zone).date()
    stretches = list(_stretches(windows, today, zone))
    until = wall + _MOST_AHEAD
    ends, joined = wall, True
    while joined:  # windows that touch or overlap are one
        reach = max((end for start, end in stretches if start <= ends < end), default=ends)
        joined, ends = reach > ends, reach
    if ends > wall:
        return Span(True, wall, min(ends, until), ends, windows)
    until = min([until, *(start for start, _ in stretches if start > wall)])
    return Span(False, wall, until, until, windows)


def next_morning(wall: float, zone: tzinfo | None) -> float:
    """The next 06:00 local time that is at least two hours after `wall`, in Unix seconds."""
    day = datetime.fromtimestamp(wall, zone).date()
    while True:
        morning = _instant(day, MORNING * 60, zone, 0)
        if morning >= wall + _MORNING_AWAY:
            return morning
        day += timedelta(days=1)


def clock_text(wall: float, zone: tzinfo | None, *, seen_at: float) -> str:
    """ "23:00", or "Thu 23:00" where it is another day than at `seen_at`."""
    then = datetime.fromtimestamp(wall, zone)
    text = then.strftime("%H:%M")
    if then.date() == datetime.fromtimestamp(seen_at, zone).date():
        return text
    return f"{DAYS[then.weekday()].title()} {text}"


def _stretches(
    windows: tuple[Window, ...], today: date, zone: tzinfo | None
) -> Iterable[tuple[float, float]]:
    for shift in (-2, -1, 0, 1, 2):  # a window reaches into the day after its own; days join
        day = today + timedelta(days=shift)
        for window in windows:
            if day.weekday() in window.days:
                start = min(_instant(day, window.start, zone, fold) for fold in (0, 1))
                end = max(_instant(day, window.end, zone, fold) for fold in (0, 1))
                yield start, end


def _instant(day: date, minutes: int, zone: tzinfo | None, fold: int) -> float:
    days, minutes = divmod(minutes, _DAY)
    moment = datetime.combine(
        day + timedelta(days=days), time(minutes // 60, minutes % 60, fold=fold), zone
    )
    return moment.timestamp()


def _days(text: str) -> frozenset[int]:
    if text.strip() == "daily":
        return frozenset(range(7))
    days: set[int] = set()
    for part in text.split(","):
        first, dash, last = (word.strip() for word in part.partition("-"))
        if first not in DAYS or (dash and last not in DAYS):
            raise ValueError(text)
        begin = DAYS.index(first)
        length = (DAYS.index(last) - begin) % 7 if dash else 0
        days |= {(begin + step) % 7 for step in range(length + 1)}
    return frozenset(days)


def _clock(minutes: int) -> str:
    return f"{minutes // 60:02d}:{minutes % 60:02d}"
