"""What a waiting job is told: its place in the queue, and when it will be done (p50, p90). Pure.

Where the job is among those that a plan looks at, the plan itself says when its images end. Behind
them, what goes before is added up per member: everything of better classes, its member's own older
work, and as much of each other member's as fairness gives them meanwhile. How wrong such figures
turned out before, by length and by source, gives both quantiles. No cost grows with the depth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from foxden_broker.scheduler.lines import Job
from foxden_broker.scheduler.planning import Round
from foxden_broker.scheduler.queue import State

FIRST_P90 = 1.6  # p90 / p50 as long as nothing was learnt
_FRESH = 1.0  # seconds that a forecast is used for
_FRESH_WITHOUT = 0.2  # the same, for a job that it lacks, where many wait
_AIM = 0.92  # share of past jobs that the p90 covers: a little more, for what is still to learn


@dataclass(frozen=True)
class Place:
    """Where a job stands."""

    position: int  # images that go before its first waiting one
    p50: float | None = None  # seconds from now until all of it is done; None: nobody can tell
    p90: float | None = None


@dataclass
class Outlook:
    """Answers for one pool."""

    state: State
    _at: float = -math.inf
    _finishes: dict[tuple[str, int], float] = field(default_factory=dict)
    _round: Round | None = None  # the forecast that says so
    _layout: int = -1  # of the table at that time
    _newest: int = -1  # number of the newest job that was added to it

    def place(self, job_id: str, now: float) -> Place:
        """Position and times; zeros for a job that is over."""
        job = self.state.jobs.get(job_id)
        if job is None:
            return Place(0, 0.0, 0.0)
        position = self.position(job)
        seconds, key = self._seconds(job, now)
        if seconds is None:
            return Place(position)
        if job.said is None:
            job.said = (now, seconds, key)
        half = self.state.errors.quantile(key, 0.5)
        most = self.state.errors.quantile(key, _AIM)
        p50 = seconds * (half if half is not None else 1.0)
        p90 = seconds * (most if most is not None else FIRST_P90)
        return Place(position, p50, max(p90, p50))

    def position(self, job: Job) -> int:
        """Waiting images that go before this job's first, under fair shares."""
        if not job.waiting:
            return 0
        images, _ = self._before(job)
        return round(images)

    def _before(self, job: Job) -> tuple[float, float]:
        """(images, work) that are handed out before this job's first one."""
        state, facts = self.state, job.facts
        mine = state.ahead[facts.priority, facts.member]
        images, work = mine.before(facts.job_id)
        total_images, total_work = float(images), work
        rate = self._rate()
        had = state.fairness.spent.get((facts.priority, facts.member), 0.0)
        for (priority, member), ahead in state.ahead.items():
            if not ahead.images or (priority, member) == (facts.priority, facts.member):
                continue
            if priority < facts.priority:
                total_images += ahead.images
                total_work += ahead.work
            elif priority == facts.priority:
                gap = had - state.fairness.spent.get((priority, member), 0.0)
                share = max(0.0, work + gap / rate) if rate > 0 else work
                part = min(1.0, share / ahead.work) if ahead.work > 0 else 0.0
                total_images += part * ahead.images
                total_work += part * ahead.work
        return total_images, total_work

    def _rate(self) -> float:
        """Mean GPU-seconds per unit of work, over what waits."""
        table, lines = self.state.table, self.state.lines
        seconds = work = 0.0
        for where, (_, amount) in lines.work.items():
            able = table.accepting & table.capable(lines.sample[where])
            if able.any():
                seconds += amount * float(table.rates(lines.sample[where])[able].mean())
                work += amount
        return seconds / work if work else 0.0

    def _seconds(self, job: Job, now: float) -> tuple[float | None, tuple[str, int]]:
        """Seconds until the job is done as the plan has it, and whose errors to learn from."""
        state = self.state
        new = job.waiting and (job.facts.job_id, job.first()) not in self._finishes
        few = state.lines.images <= state.settings.look_at // 4
        age = now - self._at
        stale = few or not 0 <= age < _FRESH_WITHOUT
        if not 0 <= age < _FRESH or (new and not self._goes_last(job) and stale):
            current = Round(state, now, set())
            current.forecast()
            self._at, self._finishes, self._round = now, current.finishes, current
            self._layout = state.table.layout
            placed = (state.jobs.get(job_id) for job_id, _ in current.finishes)
            self._newest = max((one.number for one in placed if one is not None), default=-1)
        end = now
        for index in job.lowest(state.settings.look_at) if job.waiting else ():
            found = self._finishes.get((job.facts.job_id, index))
            if found is None:
                far = self._far(job, now)
                return far, ("far", _length(far))
            end = max(end, found)
        if len(job.waiting) > state.settings.look_at:
            far = self._far(job, now)
            return far, ("far", _length(far))
        if job.held:
            free = state.table.free(now)
            for index in job.held:
                card = state.table.cards.get(state.holders.get((job.facts.job_id, index), ""))
                end = max(end, float(free[card.row]) if card is not None else end)
        seconds = max(0.1, end - now)
        return seconds, ("near", _length(seconds))

    def _goes_last(self, job: Job) -> bool:
        """Place a job that has just come behind all that the last forecast has placed, where it
        belongs there: to place all of them anew for each submit is most of what that costs."""
        state, priority, member = self.state, job.priority, job.facts.member
        if self._round is None or self._layout != state.table.layout:
            return False  # the columns of that round are of other cards
        if not self._round.looks_further():
            return False  # more may wait than it has placed
        others = (one for one in state.lines.by_member if one != (priority, member))
        if any(of >= priority for of, _ in others) or len(job.waiting) > state.settings.look_at:
            return False
        if job.number <= self._newest:
            return False  # it waits again
        self._newest = job.number
        self._round.place_last(job)
        return True

    def _far(self, job: Job, now: float) -> float | None:
        """From sums: what goes before, over what the cards that can do it do per second."""
        table, kind = self.state.table, job.facts.kind
        able = table.accepting & table.capable(kind)
        if not able.any():
            return None
        rates = table.rates(kind)[able]
        speed = float((1 / rates).sum())
        _, before = self._before(job)
        busy = float((table.free(now)[able] - now).mean())
        own = len(job.waiting) * kind.work
        queue = before * self._drain(job.priority)
        return busy + queue + own / speed + float(rates.mean()) * kind.work

    def _drain(self, priority: int) -> float:
        """Seconds that all cards together need per unit of work, in the mean of what waits in this
        class and better ones: each kind on the cards that can do it. A unit is no measure across
        models, so what one job's model costs says nothing about what goes before it."""
        table, lines = self.state.table, self.state.lines
        seconds = work = 0.0
        for where, (_, amount) in lines.work.items():
            if where[0] > priority:
                continue
            able = table.accepting & table.capable(lines.sample[where])
            if able.any():
                seconds += amount / float((1 / table.rates(lines.sample[where])[able]).sum())
                work += amount
        return seconds / work if work else 0.0


def _length(seconds: float | None) -> int:
    return round(math.log2(max(1.0, seconds or 1.0)))
