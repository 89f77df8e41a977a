"""Whether a member may queue more images now and, if not, when. Pure: time is passed in.

Three limits are looked at when a job comes in: images that wait, of the member and of the whole
account, and the member's time on cards today. What runs at once is limited where images are
handed out (`room`), never by refusing a job.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from foxden_broker.store.base import Quota, Usage
from foxden_proto.problems import Problem, Reason

_HALF_LIFE = 60.0  # seconds; how long the pace of a member's images is remembered
_UNKNOWN_PAUSE = 60.0  # seconds to wait where nothing moved lately
_LONGEST_PAUSE = 3600.0  # a pace that slow says nothing about the next hour


@dataclass(frozen=True)
class Defaults:
    """What holds for everybody who has no limit of their own; 0: no limit."""

    most_queued: int = 10_000  # images of one member
    most_queued_in_account: int = 100_000  # images of all members together


@dataclass(frozen=True)
class Used:
    """What a member has just now. The paces are images per second that leave the queue."""

    queued: int
    queued_in_account: int
    gpu_seconds_today: float
    pace: float = 0.0
    pace_of_account: float = 0.0


def refusal(
    member: str, images: int, quota: Quota | None, defaults: Defaults, used: Used, now: datetime
) -> Problem | None:
    """Why `images` more may not be queued: which limit, how much of it is used, when it frees."""
    most = most_queued(quota, defaults)
    if most and used.queued + images > most:
        whose = f"{member} may have {most:,} images waiting"
        return _full(whose, used.queued, images, most, used.pace)
    most = defaults.most_queued_in_account
    if most and used.queued_in_account + images > most:
        whose = f"this account may have {most:,} images waiting"
        return _full(whose, used.queued_in_account, images, most, used.pace_of_account)
    seconds = quota.gpu_seconds_per_day if quota else 0.0
    if seconds and used.gpu_seconds_today >= seconds:
        midnight = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
        pause = (midnight - now).total_seconds()
        return _problem(
            f"{member} may use {seconds:,.0f} s of the cards' time a day and has used "
            f"{used.gpu_seconds_today:,.0f} s today: try again after midnight UTC, in "
            f"{_spoken(pause)}, or ask an administrator for more (foxden quotas set).",
            pause,
        )
    return None


def most_queued(quota: Quota | None, defaults: Defaults) -> int:
    """The limit that holds for a member; 0: none."""
    return (quota.most_queued if quota else 0) or defaults.most_queued


def _full(whose: str, queued: int, images: int, most: int, pace: float) -> Problem:
    if images > most:
        return _problem(
            f"{whose}, and this asks for {images:,} at once: use a count of {most:,} at most.",
            None,
        )
    excess = queued + images - most
    pause = min(_LONGEST_PAUSE, max(1.0, excess / pace)) if pace > 0 else _UNKNOWN_PAUSE
    return _problem(
        f"{whose} and has {queued:,}, so that {images:,} more do not fit: try again in "
        f"{_spoken(pause)}, when {excess:,} of them should be gone, or cancel some.",
        pause,
    )


def _problem(message: str, retry_after: float | None) -> Problem:
    facts = {} if retry_after is None else {"retry_after": f"{retry_after:.1f}"}
    return Problem(Reason.QUOTA_EXCEEDED, message, facts)


def _spoken(seconds: float) -> str:
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def room(quotas: Iterable[Quota], tally: Tally) -> dict[str, int]:
    """How many more images may be handed out now, for each member whose running is limited."""
    return {
        quota.member: max(0, quota.most_running - tally.running(quota.member))
        for quota in quotas
        if quota.most_running
    }


def day_of(now_ms: int) -> str:
    """The day in UTC that usage is counted under, e.g. "2026-11-22"."""
    return datetime.fromtimestamp(now_ms / 1000, UTC).strftime("%Y-%m-%d")


@dataclass
class _Pace:
    """A count of events that halves every `_HALF_LIFE` seconds."""

    count: float = 0.0
    at: float = -math.inf

    def add(self, now: float) -> None:
        self.count = self._left(now) + 1
        self.at = now

    def per_second(self, now: float) -> float:
        return self._left(now) * math.log(2) / _HALF_LIFE

    def _left(self, now: float) -> float:
        return self.count * math.exp2(-max(0.0, now - self.at) / _HALF_LIFE) if self.count else 0.0


@dataclass
class Tally:
    """Images and card time by member, kept by events: nothing is counted by looking through the
    queue. Members come from tokens, so that there are never many."""

    _queued: dict[str, int] = field(default_factory=dict)
    _running: dict[str, int] = field(default_factory=dict)
    _paces: dict[str, _Pace] = field(default_factory=dict)
    _pace: _Pace = field(default_factory=_Pace)
    _day: str = ""
    _gpu_ms: dict[str, int] = field(default_factory=dict)  # of `_day`
    queued_in_account: int = 0
    depth: dict[int, int] = field(default_factory=dict)  # images that wait, by priority

    # What happened

    def waits(self, member: str, images: int, priority: int = 0) -> None:
        """So many more (or fewer) images wait. Priority 0: they are still on their way in."""
        self._queued[member] = self._queued.get(member, 0) + images
        self.queued_in_account += images
        if priority:
            self.depth[priority] = self.depth.get(priority, 0) + images

    def runs(self, member: str, images: int) -> None:
        """So many more (or fewer) images are on cards, or on their way there."""
        self._running[member] = self._running.get(member, 0) + images

    def left(self, member: str, now: float) -> None:
        """An image left the queue for good. `now`: monotonic seconds."""
        self._paces.setdefault(member, _Pace()).add(now)
        self._pace.add(now)

    def used(self, member: str, gpu_ms: int, now_ms: int) -> None:
        """A card was held for that long. `now_ms`: Unix milliseconds."""
        self._turn(day_of(now_ms))
        self._gpu_ms[member] = self._gpu_ms.get(member, 0) + max(0, gpu_ms)

    def recount(self, day: str, rows: Iterable[Usage]) -> None:
        """What the store says was used on that day; it knows what other brokers did, too."""
        self._turn(day)
        self._gpu_ms = {row.member: row.gpu_ms for row in rows if row.day == day}

    @contextmanager
    def expected(self, member: str, images: int) -> Iterator[None]:
        """Count images that are on their way into the store, so that two jobs that come at once
        don't both fit into the last place."""
        self.waits(member, images)
        try:
            yield
        finally:
            self.waits(member, -images)

    def _turn(self, day: str) -> None:
        if day > self._day:
            self._day, self._gpu_ms = day, {}

    # What it adds up to

    def queued(self, member: str) -> int:
        return self._queued.get(member, 0)

    def running(self, member: str) -> int:
        return self._running.get(member, 0)

    def gpu_seconds_today(self, member: str, now_ms: int) -> float:
        self._turn(day_of(now_ms))
        return self._gpu_ms.get(member, 0) / 1000

    def members(self) -> set[str]:
        """Everybody who has anything waiting, running or used today."""
        return {
            member
            for busy in (self._queued, self._running, self._gpu_ms)
            for member, number in busy.items()
            if number
        }

    def now(self, member: str, now: float, now_ms: int) -> Used:
        pace = self._paces.get(member)
        return Used(
            self.queued(member),
            self.queued_in_account,
            self.gpu_seconds_today(member, now_ms),
            pace.per_second(now) if pace else 0.0,
            self._pace.per_second(now),
        )
