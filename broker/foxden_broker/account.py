"""Everything the running broker knows about one account, and the changes both doors share."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from foxden_broker.blobs import BlobStore
from foxden_broker.catalogue import resolve
from foxden_broker.checkpoints import Checkpoints
from foxden_broker.hub import Hub
from foxden_broker.inlining import Recent, Sending
from foxden_broker.joining.enrolled import EnrolledIds
from foxden_broker.metrics import Metrics
from foxden_broker.pool import Pool
from foxden_broker.pool_parts import Held, OpenJob, PoolCard
from foxden_broker.quotas import Defaults, day_of, refusal, room
from foxden_broker.retries import after_loss
from foxden_broker.scheduler import backlog
from foxden_broker.session import Session
from foxden_broker.store.base import (
    Change,
    Checkpoint,
    Decide,
    Job,
    Lease,
    Quota,
    Store,
    Task,
)
from foxden_broker.uploads import Signer
from foxden_proto import logs
from foxden_proto.problems import Problem
from foxden_proto.states import TASK_ENDED, TASK_HELD, TaskEvent, TaskState
from foxden_proto.timers import Timers
from foxden_proto.v1.generation_pb2 import Queued
from foxden_proto.v1.pool_pb2 import CardInfo

log = logging.getLogger(__name__)


def now_ms() -> int:
    return int(time.time() * 1000)


def _nobody(_job_id: str, _count: int) -> None:
    """No other broker plans for this account."""


@dataclass
class Account:
    """One account while the broker runs: the mirror of its pool, its links and its watchers."""

    account_id: str
    store: Store
    blobs: BlobStore
    signer: Signer
    timers: Timers
    limits: Defaults = field(default_factory=Defaults)
    metrics: Metrics = field(default_factory=Metrics)
    pool: Pool = field(init=False)
    hub: Hub = field(default_factory=Hub)
    sessions: dict[str, Session] = field(default_factory=dict)  # by agent_id
    wake: asyncio.Event = field(default_factory=asyncio.Event)  # something to plan
    planned: bool = True  # False: another broker plans for it, and the mirror stays empty
    tell_owner: Callable[[str, int], None] = _nobody  # of a job stored while not `planned`
    quotas: dict[str, Quota] = field(default_factory=dict)  # by member
    sweeping: asyncio.Lock = field(default_factory=asyncio.Lock)  # no blob is deleted by others
    doubts: set[tuple[str, int]] = field(default_factory=set)  # images to ask the store about
    puts_elsewhere: dict[Lease, list[str]] = field(default_factory=dict)  # of leases not held here
    recent: Recent = field(default_factory=Recent)
    sending: Sending = field(default_factory=Sending)
    checkpoints: Checkpoints = field(default_factory=Checkpoints)

    enrolled: EnrolledIds = field(init=False)

    _ahead: asyncio.Task[None] | None = None  # a deep backlog being planned

    def __post_init__(self) -> None:
        self.pool = Pool(self.account_id)
        self.enrolled = EnrolledIds(self.store, self.account_id)

    async def load(self) -> None:
        """Fill the mirror from the store. Agents that held images when the broker stopped have
        `timers.lease_lost` from now to come back with them."""
        await self.load_cards()
        now = time.monotonic()
        for job, task in await self.store.open_tasks(self.account_id):
            releasing = task.state is TaskState.RELEASING
            unknown = 3 * self.timers.unknown_run + self.timers.load_budget
            self.pool.restore(job, task, now + (self.timers.release if releasing else unknown))
            if task.checkpoint is not None:
                self.checkpoints.remember(task.checkpoint.sha256, now_ms())
        for held in self.pool.held.values():
            self.sessions.setdefault(held.agent_id, Session(held.agent_id, self.timers, now))
        self.wake.set()

    async def load_cards(self) -> None:
        """Begin an empty mirror with the cards as the store remembers them, all offline, and the
        members' limits: what a submit is checked against."""
        rows = await self.store.cards(self.account_id)
        self.pool = Pool(self.account_id)
        for row in rows:
            info = CardInfo.FromString(row.info)
            who = (row.agent_id, row.agent_name, row.agent_version)
            self.pool.put_card(PoolCard(info, *who, row.last_seen_ms, standing=row.standing))
        await self.load_quotas()

    def adopt(self, rows: Sequence[tuple[Job, Task]]) -> None:
        """Take in jobs that another broker has stored; those in the mirror are left alone."""
        unknown = {job.job_id for job, _ in rows} - self.pool.jobs.keys()
        for job, task in rows:
            if job.job_id in unknown and task.state is TaskState.QUEUED:
                self.pool.restore(job, task, 0.0)
        if unknown:
            self.wake.set()

    def deadline(self, card_id: str) -> float:
        """The monotonic moment at which a lease given to this card now is taken away: 3 x the
        estimate of all it holds then, with time to load the model."""
        seconds, load = 0.0, self.timers.load_budget
        state = self.pool.scheduler
        card = state.table.cards.get(card_id)
        if card is not None:  # its agent may have said meanwhile that it is gone
            for batch in card.held:
                known = state.estimates.measured(card.facts, batch.kind)
                seconds += batch.run if known else self.timers.unknown_run
                load = max(load, self.timers.load_deadline(batch.kind.model_bytes))
        return time.monotonic() + 3 * seconds + load

    def refresh(self, session: Session) -> bool:
        """Whether this agent is given work now; the scheduler hears of it where that is new."""
        accepts = session.link.accepts_work(time.monotonic())
        if self.pool.agent_accepts(session.agent_id, accepts):
            self.wake.set()
        return accepts

    def plan_ahead(self) -> None:
        """The backlog is deep: have it planned as a whole, in a thread, beside everything else."""
        if backlog.available() and (self._ahead is None or self._ahead.done()):
            question = backlog.ask(self.pool.scheduler, time.monotonic())
            if question is not None:
                solving = self._plan_ahead(question)
                self._ahead = asyncio.create_task(solving, name="plan ahead")

    async def _plan_ahead(self, question: backlog.Question) -> None:
        try:
            allotments = await asyncio.to_thread(backlog.solve, question)
        except Exception:  # whatever ails the solver, the queue is planned a step at a time then
            log.exception("the backlog could not be planned as a whole")
            return
        self.pool.scheduler.use_allotments(allotments, time.monotonic())
        self.wake.set()

    # Members and their limits

    async def load_quotas(self) -> None:
        """Take limits and today's use of the cards from the store."""
        self.quotas = {q.member: q for q in await self.store.quotas(self.account_id)}
        if any(quota.gpu_seconds_per_day for quota in self.quotas.values()):
            day = day_of(now_ms())
            rows = await self.store.usage(self.account_id, first_day=day, last_day=day)
            self.pool.tally.recount(day, rows)

    def check_quota(self, member: str, images: int) -> None:
        """Raises Problem QUOTA_EXCEEDED where the member may not queue that many more now."""
        used = self.pool.tally.now(member, time.monotonic(), now_ms())
        quota = self.quotas.get(member)
        problem = refusal(member, images, quota, self.limits, used, dt.datetime.now(dt.UTC))
        if problem is not None:
            self.metrics.refused()
            raise problem

    def room(self) -> dict[str, int]:
        """How many more images may start now, for the members whose running is limited."""
        return room(self.quotas.values(), self.pool.tally)

    def noted(self, change: Change, *, was_held: bool = True) -> None:
        """Count an accepted change, before the mirror follows it: metrics, the member's pace, and
        the card's time it used. `was_held`: a card had the image until now."""
        task = change.task
        job = self.pool.jobs.get(task.job_id)
        self.metrics.changed(change, job.created_ms if job else 0, was_held=was_held)
        if job is None:
            return
        if task.state in TASK_ENDED:
            self.pool.tally.left(job.member, time.monotonic())
        if was_held and task.started_ms and task.state not in TASK_HELD:
            now, held = now_ms(), self.pool.held.get(task.lease)
            shared = held.batch if held is not None else 1
            self.pool.tally.used(job.member, (now - task.started_ms) // shared, now)

    # Changes that both doors make

    async def end_lease(
        self,
        lease: Lease,
        event: TaskEvent | Decide,
        reason: str,
        *,
        blame: bool = False,
        checkpoint: Checkpoint | None = None,
        forget_checkpoint: bool = False,
    ) -> Change | None:
        """End a lease in the store, then here. `blame`: the card is at fault. `checkpoint`: where
        another card can go on. None: it was not held any more."""
        told = self.checkpoints.forget(lease)  # in case it is not written down yet
        change = await self.store.end_lease(
            self.account_id,
            lease,
            event,
            reason,
            now_ms(),
            checkpoint=checkpoint or told,
            forget_checkpoint=forget_checkpoint,
        )
        if change is not None:
            self.noted(change)
            kept = change.task.checkpoint
            self.pool.ended(lease, change.task.state, change.event, blame=blame, checkpoint=kept)
            log.info(
                *("image %s/%d: %s (%s)", lease.job_id, lease.index, change.event.value, reason),
                extra=logs.fields(
                    job=lease.job_id, image=lease.index, card=change.task.card_id, reason=reason
                ),
            )
            self.changed(lease.job_id, change)
        elif lease in self.pool.held:
            self.doubt(lease.job_id, lease.index)
        return change

    def doubt(self, job_id: str, *indices: int) -> None:
        """The store does not say of these images what the mirror says: see doubts.py."""
        self.doubts.update((job_id, index) for index in indices)
        self.wake.set()

    def stored(self, job_id: str, count: int) -> None:
        """A job is in the store, or may be, and whoever plans may not know of it: by now that may
        be another broker, or this one with another `Account`."""
        if self.planned:
            self.doubt(job_id, *range(count))
        else:
            self.tell_owner(job_id, count)

    async def lose(self, held: Held, reason: str) -> None:
        """The card that held this is gone. The store says whether it had begun: a start may be on
        its way there."""
        if held.restored and held.started and not held.releasing:
            # The broker itself was away meanwhile: that is no fault of the image or its card, and
            # a broker that restarts three times must not make dead letters.
            await self.release(held, reason)
            await self.end_lease(held.lease, TaskEvent.RELEASED, reason)
            return
        capable = self.capable_ids(held.lease.job_id)
        await self.end_lease(held.lease, after_loss(capable), reason, blame=held.started)

    async def begin_again(self, held: Held, reason: str) -> None:
        """Its card cannot go on from the checkpoint: another draws it from the beginning. That is
        no failure, and cannot repeat itself: the checkpoint is forgotten."""
        event = TaskEvent.REFUSE
        if held.started:
            await self.release(held, reason)
            event = TaskEvent.RELEASED
        await self.end_lease(held.lease, event, reason, forget_checkpoint=True)

    async def release(self, held: Held, reason: str) -> None:
        """It is given back; its last checkpoint may follow until the held one's deadline."""
        if held.releasing:
            return
        await self.store.end_lease(self.account_id, held.lease, TaskEvent.RELEASE, reason, now_ms())
        held.releasing = True
        held.deadline = time.monotonic() + self.timers.release

    async def end_queued(
        self, images: Sequence[tuple[str, int]], event: TaskEvent, why: str
    ) -> None:
        left = set(images)
        for change in await self.store.end_queued(self.account_id, images, event, why, now_ms()):
            self.noted(change, was_held=False)
            self.pool.unqueue(change.task.job_id, change.task.index)
            self.changed(change.task.job_id, change)
            left.discard((change.task.job_id, change.task.index))
        for job_id, index in left:
            self.doubt(job_id, index)

    async def resolve_waiting(self) -> None:
        """The first card is here: what was accepted before any model was known is completed,
        or ended with the reason, so that nothing waits for a model that nobody has."""
        if not self.pool.unresolved:
            return
        catalogue = self.pool.catalogue()
        if not any(card.models for card in catalogue.cards):
            return
        for job in [self.pool.jobs[job_id] for job_id in self.pool.unresolved]:
            try:
                complete = resolve(job.request, catalogue)
            except Problem as problem:
                images = [(job.job_id, index) for index in sorted(job.waiting)]
                await self.end_queued(images, TaskEvent.GIVE_UP, problem.message)
                continue
            data = complete.SerializeToString()
            if await self.store.resolve(self.account_id, job.job_id, data, complete.model_sha256):
                self.pool.resolved(job, complete)
                self.changed(job.job_id)
            else:
                self.doubt(job.job_id, *job.waiting)

    def changed(self, job_id: str, change: Change | None = None) -> None:
        """Tell the job's watchers, and plan again. Without a `change` they ask the store."""
        self.hub.changed(job_id, change)
        self.wake.set()

    def cards_changed(self) -> None:
        """Tell everybody who looks at cards or waits for one, and plan again."""
        # What a waiting job waits for may be another thing now: its watchers look every second.
        self.hub.changed(self.hub.CARDS)
        self.wake.set()

    def place(self, job: OpenJob) -> Queued:
        """Where a job stands: what goes before it, and when it may be done."""
        told = Queued(waiting_for=self.waits_for(job))
        if not job.resolved:
            told.position = self.pool.position(job)
            return told
        place = self.pool.scheduled.place(job, time.monotonic())
        told.position = place.position
        if not told.waiting_for and place.p50 is not None and place.p90 is not None:
            told.eta_p50, told.eta_p90 = round(place.p50, 1), round(place.p90, 1)
        return told

    def capable_ids(self, job_id: str) -> set[str]:
        """Cards that could run this job and are online: the others a retry may go to."""
        job = self.pool.jobs.get(job_id)
        if job is None:
            return set()
        return {c.info.card_id for c in self.pool.capable_cards(job.kind) if c.online}

    def waits_for(self, job: OpenJob) -> str:
        """What must happen before this job can start; empty where a card can take it."""
        if not self.pool.cards:
            return "the first card to join this pool"
        if not job.resolved:
            return "a card with a model"
        capable = self.pool.capable_cards(job.kind)
        if any(card.works for card in capable):
            return ""
        if not capable:
            request = job.request
            size = f"{request.width} x {request.height}"
            return f"a card with the model {request.model} and the memory for {size}"
        online = [card for card in capable if card.online]
        if online:
            why = "; ".join(f"{c.info.name}: {c.why_not}" for c in online)
            return f"a card that is allowed to work ({why})"
        return "one of these cards to come back: " + ", ".join(c.info.name for c in capable)
