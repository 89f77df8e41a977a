"""What waits, so that only heads of lines are ever looked at. Pure.

A line is the jobs of one member in one priority class with one need, oldest first; a second index
finds waiting jobs by kind, for batches across jobs. Jobs that have nothing waiting any more are
dropped when they come to a head, or when they are half of a heap.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Generator, Hashable, Iterable
from dataclasses import dataclass, field

from foxden_broker.scheduler.facts import JobFacts, Kind, Need

_SPARE = 32  # dead entries that a heap may always have


@dataclass(eq=False, slots=True)
class Job:
    """A job with images that wait or run."""

    facts: JobFacts
    number: int  # jobs of the same age go by arrival
    overdue_at: float
    waiting: set[int] = field(default_factory=set)
    held: set[int] = field(default_factory=set)  # images that cards hold
    avoid: dict[int, frozenset[str]] = field(default_factory=dict)  # card ids by image
    listed: bool = False  # among those that may be past their age limit
    timed: bool = False  # among those with a deadline to look at
    said: tuple[float, float, Hashable] | None = None  # first forecast: when, seconds, its sort
    _indices: list[int] = field(default_factory=list)  # heap; may name what waits no more
    _stored: set[int] = field(default_factory=set)  # what the heap holds

    @property
    def priority(self) -> int:
        return self.facts.priority

    @property
    def rank(self) -> tuple[float, int]:
        return (self.facts.created, self.number)

    def add(self, index: int) -> None:
        self.waiting.add(index)
        if index not in self._stored:
            self._stored.add(index)
            heapq.heappush(self._indices, index)

    def first(self) -> int:
        """The lowest waiting index; only where something waits."""
        while (index := self._indices[0]) not in self.waiting:
            self._stored.discard(heapq.heappop(self._indices))
        return index

    def lowest(self, most: int) -> list[int]:
        """Up to so many of the waiting indices, ascending."""
        if len(self.waiting) == 1 or most == 1:
            return [self.first()]
        found: list[int] = []
        while self._indices and len(found) < most:
            index = heapq.heappop(self._indices)
            if index in self.waiting:
                found.append(index)
            else:
                self._stored.discard(index)
        for index in found:
            heapq.heappush(self._indices, index)
        return found


@dataclass(eq=False)
class Line:
    """Jobs, oldest first. `where` is (class, member, need) or (class, kind)."""

    heap: list[tuple[float, int, Job]] = field(default_factory=list)
    members: set[int] = field(default_factory=set)  # numbers of jobs in the heap
    live: int = 0

    def push(self, job: Job) -> None:
        self.live += 1
        if job.number not in self.members:
            self.members.add(job.number)
            heapq.heappush(self.heap, (*job.rank, job))

    def emptied(self) -> None:
        """One of its jobs has nothing waiting any more."""
        self.live -= 1
        if len(self.heap) > 2 * self.live + _SPARE:
            kept = [entry for entry in self.heap if entry[2].waiting]
            heapq.heapify(kept)
            self.heap, self.members = kept, {entry[1] for entry in kept}

    def head(self) -> Job | None:
        while self.heap:
            job = self.heap[0][2]
            if job.waiting:
                return job
            heapq.heappop(self.heap)
            self.members.discard(job.number)
        return None

    def oldest(self) -> Generator[Job, None, None]:
        """Its jobs in order; nothing may change, and nobody else may iterate, meanwhile."""
        first = self.head()
        if first is None:
            return
        if len(self.heap) == 1:
            yield first
            return
        taken = []
        try:
            while self.head() is not None:
                entry = heapq.heappop(self.heap)
                taken.append(entry)
                yield entry[2]
        finally:
            for entry in taken:
                heapq.heappush(self.heap, entry)


class Lines:
    """All lines of a pool."""

    def __init__(self) -> None:
        self.images = 0  # that wait
        self.work: dict[tuple[int, Need], list[float]] = {}  # [images, work], by class and need
        self.models: dict[str, int] = {}  # images that wait, by model
        self.sample: dict[tuple[int, Need], Kind] = {}  # a kind of each that waits
        self.by_member: dict[tuple[int, str], dict[Need, Line]] = {}
        self._by_kind: dict[tuple[int, Kind], Line] = {}
        self._numbers = itertools.count()

    def number(self) -> int:
        return next(self._numbers)

    def waits(self, job: Job, index: int) -> bool:
        """True: the first image of this job that waits."""
        if index in job.waiting:
            return False
        first = not job.waiting
        job.add(index)
        self._count(job, 1)
        if first:
            self._enlist(job)
        return first

    def left(self, job: Job, index: int) -> bool:
        """The image waits no more. True: it was the job's last that did."""
        if index not in job.waiting:
            return False
        job.waiting.discard(index)
        self._count(job, -1)
        if not job.waiting:
            self._delist(job)
            return True
        return False

    def alike(self, kind: Kind, priorities: Iterable[int]) -> Generator[Job, None, None]:
        """Jobs with waiting images of this kind, by class and age; nothing may change meanwhile."""
        for priority in priorities:
            line = self._by_kind.get((priority, kind))
            if line is not None:
                yield from line.oldest()

    def classes(self) -> list[int]:
        """The classes in which something may wait, in order."""
        return sorted({priority for priority, _ in self.by_member})

    def _count(self, job: Job, images: int) -> None:
        kind = job.facts.kind
        self.images += images
        where = (job.priority, kind.need)
        total = self.work.setdefault(where, [0, 0.0])
        total[0] += images
        total[1] += images * kind.work
        self.sample.setdefault(where, kind)
        if not total[0]:
            del self.work[where], self.sample[where]
        left = self.models.get(kind.model, 0) + images
        if left:
            self.models[kind.model] = left
        else:
            del self.models[kind.model]

    def _enlist(self, job: Job) -> None:
        member, kind = job.facts.member, job.facts.kind
        lines = self.by_member.setdefault((job.priority, member), {})
        lines.setdefault(kind.need, Line()).push(job)
        self._by_kind.setdefault((job.priority, kind), Line()).push(job)

    def _delist(self, job: Job) -> None:
        member, kind = job.facts.member, job.facts.kind
        lines = self.by_member[job.priority, member]
        line = lines[kind.need]
        line.emptied()
        if not line.live:
            del lines[kind.need]
            if not lines:
                del self.by_member[job.priority, member]
        alike = self._by_kind[job.priority, kind]
        alike.emptied()
        if not alike.live:
            del self._by_kind[job.priority, kind]
