"""Jobs by the moments at which something is due: their age limit, their deadline. Pure."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable

from foxden_broker.scheduler.lines import Job

_MOST_HOPELESS = 64  # jobs that one look finds


class Timeouts:
    """Two heaps. Jobs that have nothing waiting are dropped when their moment comes."""

    def __init__(self, last_start: Callable[[Job], float]) -> None:
        self._last_start = last_start
        self._due: list[tuple[float, int, Job]] = []  # by age limit
        self._deadlines: list[tuple[float, int, Job]] = []  # by when to look at them

    def waits(self, job: Job) -> None:
        """Something of this job is about to wait."""
        if job.overdue_at < math.inf and not job.listed:
            job.listed = True
            heapq.heappush(self._due, (job.overdue_at, job.number, job))
        if job.facts.deadline < math.inf and not job.timed:
            job.timed = True
            heapq.heappush(self._deadlines, (self._last_start(job), job.number, job))

    def overdue(self, now: float, most: int) -> list[Job]:
        """Up to so many of the waiting jobs past their age limit, those first that passed it
        first."""
        found: list[tuple[float, int, Job]] = []
        while self._due and self._due[0][0] <= now and len(found) < most:
            entry = heapq.heappop(self._due)
            job = entry[2]
            job.listed = bool(job.waiting)  # else it is listed again when an image comes back
            if job.waiting:
                found.append(entry)
        for entry in found:
            heapq.heappush(self._due, entry)
        return [job for _, _, job in found]

    def hopeless(self, now: float) -> list[tuple[Job, str]]:
        """Waiting jobs that cannot be done by their deadline any more, with the reason; a bounded
        number at once."""
        found: list[tuple[Job, str]] = []
        again: list[tuple[float, int, Job]] = []
        while self._deadlines and self._deadlines[0][0] <= now and len(found) < _MOST_HOPELESS:
            _, number, job = heapq.heappop(self._deadlines)
            if not job.waiting:
                job.timed = False  # it is listed again when an image comes back
                continue
            last = self._last_start(job)
            again.append((last if last > now else now + 1.0, number, job))
            if now >= job.facts.deadline:
                found.append((job, "its deadline passed before a card could take it"))
            elif now > last:
                needs = job.facts.deadline - last
                left = job.facts.deadline - now
                found.append((job, f"it needs {needs:.0f} s and its deadline is in {left:.0f} s"))
        for entry in again:
            heapq.heappush(self._deadlines, entry)
        return found

    def next_deadline(self) -> float:
        return self._deadlines[0][0] if self._deadlines else math.inf
