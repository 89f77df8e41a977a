"""The state of one pool that a plan looks at, kept by events. Pure: every event takes `now`.

No event costs more for a deep queue than for a short one (logarithms apart), and none walks over
the cards (a job with a deadline takes one vector operation).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

from foxden_broker.scheduler.ahead import Ahead
from foxden_broker.scheduler.allotted import Allotted
from foxden_broker.scheduler.cards import Batch, Card, Table
from foxden_broker.scheduler.estimates import Errors, Estimates
from foxden_broker.scheduler.facts import (
    CardFacts,
    Give,
    Image,
    JobFacts,
    Kind,
    Outcome,
    Preempt,
)
from foxden_broker.scheduler.fairness import Fairness
from foxden_broker.scheduler.lines import Job, Lines
from foxden_broker.scheduler.quarantine import Quarantine
from foxden_broker.scheduler.settings import Settings
from foxden_broker.scheduler.timeouts import Timeouts

_NEWEST_WAIT = 0.05  # weight of the newest in the usual wait
_RELEARN = 30.0  # seconds between two rounds of spreading what a class has learnt


class State:
    """One pool: what waits, which card holds what, what is known about time.

    `capable(card_id, kind)` says whether a card could run a kind of work; it must depend on nothing
    but the card and `kind.need`, and is asked once per card and need until `card_changed`.
    `together(card_id, kind)` says how many images of a kind fit one batch.
    """

    def __init__(
        self,
        capable: Callable[[str, Kind], bool],
        together: Callable[[str, Kind], int] | None = None,
        settings: Settings | None = None,
        estimates: Estimates | None = None,
    ) -> None:
        self.settings = settings or Settings()
        self.estimates = estimates or Estimates()
        self.table = Table(self.estimates, capable)
        self.lines = Lines()
        self.fairness = Fairness()
        self.quarantine = Quarantine()
        self.errors = Errors()
        self.jobs: dict[str, Job] = {}
        self.ahead: dict[tuple[int, str], Ahead] = {}  # by a job's own class, whatever it is now
        self.holders: dict[Image, str] = {}  # card_id of every image that is held
        # How many more images a plan may give, for members whose running images are limited.
        self.room: dict[str, int] = {}
        self.asked: set[str] = set()  # cards that are to give back what they draw
        self.preempts: dict[Image, int] = {}  # how often each image had to give way
        self.planned = Allotted(self.settings)
        self.overdue_credit = 1.0
        self.usual_wait = 0.0  # seconds that images had waited which were given lately
        self._together = together
        self._capable = capable
        self.timeouts = Timeouts(self._last_start)
        self._taught_at = -math.inf
        self._untaught = False
        self._accepting = 0

    # Jobs

    def add_job(self, facts: JobFacts, indices: Iterable[int], now: float) -> None:
        """A new job, or one from before a restart; these of its images wait. Oldest first."""
        if facts.job_id not in self.jobs:
            limit = self.settings.age_limits.get(facts.priority, math.inf)
            overdue = facts.created + limit
            job = Job(facts, self.lines.number(), overdue)
            self.jobs[facts.job_id] = job
        for index in indices:
            self.image_waits(facts.job_id, index, now)
        self.planned.came(len(self.jobs[facts.job_id].waiting))

    def image_waits(
        self, job_id: str, index: int, now: float, avoid: frozenset[str] | None = None
    ) -> None:
        """The image is (again) in the queue. `avoid`: cards that failed on it; None: as before."""
        job = self.jobs[job_id]
        if avoid is not None:
            job.avoid[index] = avoid
        if index in job.waiting or (job_id, index) in self.holders:
            return
        own = (job.facts.priority, job.facts.member)
        self.ahead.setdefault(own, Ahead()).add(job_id, 1, job.facts.kind.work)
        self.timeouts.waits(job)
        if self.lines.waits(job, index):
            self.fairness.waits((job.priority, job.facts.member), self.slack * self.settings.credit)

    def image_left(self, job_id: str, index: int, now: float) -> None:
        """The image waits no more: it was cancelled, expired or given up in the queue."""
        job = self.jobs.get(job_id)
        if job is not None:
            self._leave(job, index)
            self.preempts.pop((job_id, index), None)
            job.said = None  # how long it took says nothing about forecasts any more
            self._close_if_over(job, now)

    def job_cancelled(self, job_id: str, now: float) -> None:
        """Nothing of it waits any more; what cards hold ends by itself."""
        job = self.jobs.get(job_id)
        if job is not None:
            for index in list(job.waiting):
                self._leave(job, index)
            job.said = None
            self._close_if_over(job, now)

    # Cards

    def card_here(
        self,
        facts: CardFacts,
        now: float,
        *,
        accepting: bool = True,
        loaded: Iterable[str] = (),
        in_ram: Iterable[str] = (),
    ) -> None:
        """A card came (back), or was described anew. What it holds stays."""
        if facts.card_id not in self.table.cards:
            self.table.add(facts).away_since = now
        card = self.table.add(facts)
        card.here = True
        card.loaded, card.in_ram = frozenset(loaded), frozenset(in_ram)
        card.accepting = accepting
        self._holds(card, now)

    def card_changed(self, card_id: str, now: float) -> None:
        """What `capable` says of it may be different now."""
        if (card := self.table.cards.get(card_id)) is not None:
            self.table.changed(card)
            self._holds(card, now)

    def card_accepts(self, card_id: str, accepting: bool, now: float) -> None:
        """Whether it is to be given work: its mode, its link, cordon and drain all count."""
        card = self.table.cards.get(card_id)
        if card is not None and card.accepting != accepting:
            card.accepting = accepting
            self._holds(card, now)

    def card_loaded(
        self, card_id: str, models: Iterable[str], now: float, in_ram: Iterable[str] = ()
    ) -> None:
        """The models that it says are in its memory, and those warm in its machine's."""
        card = self.table.cards.get(card_id)
        said = frozenset(models), frozenset(in_ram)
        if card is not None and said != (card.loaded, card.in_ram):
            card.loaded, card.in_ram = said
            self._holds(card, now)

    def model_loaded(
        self, card_id: str, model: str, seconds: float, now: float, *, from_ram: bool
    ) -> None:
        """A card brought a model into its memory, and measured that itself."""
        card = self.table.cards.get(card_id)
        if card is None:
            return
        self.estimates.loaded(card.facts, model, seconds, from_ram=from_ram)
        self.table.learnt(card, model)
        self._untaught = True
        card.tells_loads = True
        if model not in card.loaded:
            card.loaded |= {model}  # what had to go for it, the next heartbeat says
            self._holds(card, now)

    def card_gone(self, card_id: str, now: float) -> None:
        """It is away. What it holds stays held until each image ends."""
        card = self.table.cards.get(card_id)
        if card is not None and card.here:
            card.here = False
            card.loaded = card.in_ram = frozenset()
            self._holds(card, now)

    def card_forgotten(self, card_id: str, now: float) -> None:
        """It will not come back. End what it holds first."""
        card = self.table.remove(card_id)
        if card is not None:
            self.asked.discard(card_id)
            self.quarantine.forget(card_id)
            self.planned.forget(card_id)

    # Leases

    def given(self, give: Give, now: float) -> None:
        """A Give of a plan is being carried out. Before the next plan, and before the lease is
        written: `not_given` takes it back."""
        images = [(self.jobs[job_id], (job_id, index)) for job_id, index in give.images]
        card = self.table.cards[give.card_id]
        kind = images[0][0].facts.kind
        switching = kind.model not in card.warm
        setup = 0.0
        if switching:
            setup = self.table.load(card, kind.model, kind.model_bytes)
        run = self.estimates.seconds(card.facts, kind, len(images))
        batch = Batch(kind, set(give.images), len(images), setup, run, now)
        share = (setup + run) / len(images)
        for job, image in images:
            batch.charges[image] = (job.facts.member, job.priority, share)
            self.fairness.charge((job.priority, job.facts.member), share)
            self._leave(job, image[1])
            job.held.add(image[1])
            self.holders[image] = give.card_id
        waited = now - images[0][0].facts.created
        self.usual_wait += _NEWEST_WAIT * (max(0.0, waited) - self.usual_wait)
        late = images[0][0].overdue_at <= now
        credit = self.overdue_credit + (-1.0 if late else self.settings.overdue_share)
        self.overdue_credit = min(1.0, max(-1.0, credit))
        self.planned.taken(give.card_id, kind.model, len(images))
        if switching:
            card.switched = now
            load = self.table.load(card, kind.model, kind.model_bytes)
            begins = now if not card.held else card.held[-1].ends
            self.table.keep_until[card.row] = begins + setup + self.settings.keep_loads * load
        card.held.append(batch)
        self._holds(card, now)

    def not_given(self, job_id: str, index: int, now: float, *, waits: bool) -> None:
        """The lease was not written. `waits`: the image is in the queue as before."""
        self._end(job_id, index, now, None, waits)

    def restored(self, job_id: str, index: int, card_id: str, now: float, *, started: bool) -> None:
        """An image that a card holds from before this broker started. After its `add_job`."""
        job, card = self.jobs[job_id], self.table.cards[card_id]
        kind = job.facts.kind
        run = self.estimates.seconds(card.facts, kind)
        image = (job_id, index)
        self._leave(job, index)
        job.held.add(index)
        self.holders[image] = card_id
        found = next((batch for batch in card.held if batch.kind == kind), None)
        if found is None:
            found = Batch(kind, set(), 0, 0.0, run, now)
            card.held.append(found)
        found.images.add(image)
        found.size += 1
        found.charges[image] = (job.facts.member, job.priority, 0.0)
        self._holds(card, now)

    def image_started(self, job_id: str, index: int, now: float) -> None:
        """The card has begun with it: with the model's loading, if that is needed."""
        found = self._batch((job_id, index))
        if found is not None:
            card, batch = found
            if batch.started is None:
                batch.started = now
                batch.begins = now
                self._holds(card, now)

    def image_ended(
        self,
        job_id: str,
        index: int,
        now: float,
        outcome: Outcome,
        *,
        waits: bool = False,
        load_seconds: float | None = None,
        run_seconds: float | None = None,
    ) -> None:
        """A card's hold on an image is over. `waits`: it is in the queue again.

        `load_seconds` and `run_seconds` (of its batch) are the card's own measurements, where it
        has them; without, the time between start and end is split by what was expected.
        """
        card_id = self.holders.get((job_id, index))
        if card_id is None:
            return
        job = self.jobs.get(job_id)
        if outcome in (Outcome.FAILED, Outcome.LOST) and job is not None:
            job.avoid[index] = job.avoid.get(index, frozenset()) | {card_id}
        found = self._batch((job_id, index))
        if found is not None:
            card, batch = found
            model = batch.kind.model
            if outcome is Outcome.DONE:
                self.quarantine.done(card_id, model, batch.kind.need)
                self._learn(card, batch, now, load_seconds, run_seconds)
                self.table.paused[card.row] = -math.inf
                self.table.probing[card.row] = False
            elif outcome is Outcome.FAILED:
                if self.quarantine.failed(card_id, model, job_id, now):
                    self.table.paused[card.row] = self.quarantine.until(card_id)
                    self.table.probing[card.row] = self.quarantine.probing(card_id)
            elif outcome is Outcome.REFUSED:
                self.quarantine.refused(card_id, batch.kind.need, now)
            if outcome is Outcome.FAILED or outcome is Outcome.LOST:
                card.loaded = card.in_ram = frozenset()
        self._end(job_id, index, now, outcome, waits)

    def preempting(self, preempt: Preempt, now: float) -> None:
        """The card is being asked to release these; `image_ended` follows for each."""
        card = self.table.cards.get(preempt.card_id)
        if card is not None:
            card.preempted = now
            self.asked.add(preempt.card_id)
            for image in preempt.images:
                self.preempts[image] = self.preempts.get(image, 0) + 1

    # The linear programme's answer

    def use_allotments(self, allotments: Mapping[str, Mapping[str, int]], now: float) -> None:
        """How many images of which model each card should take next; see backlog.py."""
        self.planned.use(allotments, now)

    def wants_allotments(self, now: float, backlog: float) -> bool:
        """Whether it is time to ask the linear programme (again)."""
        return self.planned.wanted(now, backlog, self.lines.images)

    # What a plan asks

    @property
    def slack(self) -> float:
        """GPU-seconds that a member may be behind before fairness goes before speed."""
        return self.settings.slack + self.settings.slack_per_card * len(self.table.cards)

    def together(self, card: Card, kind: Kind) -> int:
        if self._together is not None:
            return max(1, self._together(card.facts.card_id, kind))
        return max(1, card.facts.most_together)

    def teach(self, now: float) -> None:
        """Spread what classes have learnt to cards that were not measured, now and then."""
        if self._untaught and now - self._taught_at > _RELEARN:
            self.table.relearn()
            self._taught_at, self._untaught = now, False

    # Inside

    def _last_start(self, job: Job) -> float:
        """The last moment at which the fastest card, its model loaded, could begin in time. Only
        measured figures count: a guess must not end a job."""
        best = math.inf
        kind = job.facts.kind
        able = self.table.capable(kind)
        rates = self.table.rates(kind)
        if able.any():
            row = int((rates + (~able) * 1e9).argmin())
            card = self.table.rows[row]
            if card is not None and self.estimates.measured(card.facts, kind):
                best = float(rates[row]) * kind.work
        return job.facts.deadline - (best if best < math.inf else 0.0)

    def _leave(self, job: Job, index: int) -> None:
        if index not in job.waiting:
            return
        own = (job.facts.priority, job.facts.member)
        self.ahead[own].add(job.facts.job_id, -1, -job.facts.kind.work)
        if self.lines.left(job, index):
            now_in = (job.priority, job.facts.member)
            if now_in not in self.lines.by_member:
                self.fairness.rests(now_in)
        if not self.lines.images:
            self.planned.nothing_waits()

    def _close_if_over(self, job: Job, now: float) -> None:
        if not job.waiting and not job.held and self.jobs.pop(job.facts.job_id, None) is not None:
            if job.said is not None:
                when, seconds, sort = job.said
                self.errors.take(sort, seconds, now - when)
            own = (job.facts.priority, job.facts.member)
            if (ahead := self.ahead.get(own)) is not None:
                ahead.remove(job.facts.job_id)
                if not len(ahead):
                    del self.ahead[own]

    def _batch(self, image: Image) -> tuple[Card, Batch] | None:
        card = self.table.cards.get(self.holders.get(image, ""))
        if card is None:
            return None
        return next(((card, batch) for batch in card.held if image in batch.images), None)

    def _end(
        self, job_id: str, index: int, now: float, outcome: Outcome | None, waits: bool
    ) -> None:
        image = (job_id, index)
        found = self._batch(image)
        self.holders.pop(image, None)
        if not waits:
            self.preempts.pop(image, None)
        job = self.jobs.get(job_id)
        if found is not None:
            card, batch = found
            batch.images.discard(image)
            self._settle(batch, image, now, outcome)
            if not batch.images:
                self._batch_over(card, batch, now)
        if job is not None:
            job.held.discard(index)
            if waits:
                self.image_waits(job_id, index, now)
            elif outcome is not Outcome.DONE:
                job.said = None
            self._close_if_over(job, now)

    def _settle(self, batch: Batch, image: Image, now: float, outcome: Outcome | None) -> None:
        """Correct what the member was charged to what the card really spent."""
        member, priority, charged = batch.charges.pop(image, ("", 0, 0.0))
        if not member and not charged:
            return
        really = 0.0
        begun = batch.begins if outcome is Outcome.DONE else None  # never told of its start
        begun = batch.started if batch.started is not None else begun
        if begun is not None and outcome not in (None, Outcome.REFUSED):
            really = max(0.0, now - begun) / batch.size
        if charged or really:
            self.fairness.charge((priority, member), really - charged)

    def _batch_over(self, card: Card, batch: Batch, now: float) -> None:
        self.asked.discard(card.facts.card_id)
        first = bool(card.held) and card.held[0] is batch
        card.held.remove(batch)
        if first and card.held and card.held[0].started is None:
            card.held[0].begins = now
        self._holds(card, now)

    def _learn(
        self,
        card: Card,
        batch: Batch,
        now: float,
        load_seconds: float | None,
        run_seconds: float | None,
    ) -> None:
        """The first image of a batch that is done teaches what the batch took."""
        kind, facts = batch.kind, card.facts
        begun = batch.started if batch.started is not None else batch.begins
        took = now - begun
        if kind.model not in card.loaded:
            card.loaded = frozenset([kind.model])
        if len(batch.images) < batch.size:
            return  # of this batch, one was done before
        new = not self.estimates.measured(facts, kind)
        if batch.setup > 0 and load_seconds is None and run_seconds is None:
            if not new:  # a first drawing with its loading says nothing about either
                self.estimates.loaded(facts, kind.model, max(0.0, took - batch.run))
            else:
                share = took / (batch.setup + batch.run)
                self.estimates.drew(facts, kind, batch.size, batch.run * share)
        else:
            if load_seconds is not None and batch.setup > 0 and not card.tells_loads:
                self.estimates.loaded(facts, kind.model, load_seconds)
            ran = run_seconds if run_seconds is not None else took - (load_seconds or 0.0)
            self.estimates.drew(facts, kind, batch.size, ran)
        self.table.learnt(card, kind.model)
        self._untaught = True
        if new:
            self._taught_at = -math.inf

    def _holds(self, card: Card, now: float) -> None:
        """Bring the table's row of this card up to date."""
        running = card.held[0] if card.held else None
        worked = bool(self.table.accepting[card.row])
        self.table.holds(card)
        if worked and not self.table.accepting[card.row]:
            card.away_since = now
        if running is not None:
            lead = max(self.settings.stage_lead, self.settings.stage_share * running.run)
            self.table.timing(card, lead, self.settings.overrun * running.run)
