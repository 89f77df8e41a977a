"""One account's pool in memory: what waits, who holds what, which cards are there.

A mirror of the store that the scheduler can look at without a query. It is filled from the store
when the broker starts and follows every accepted change; where the two differ the store is right,
because each write is guarded there. Each change is told to the scheduler's state as one event;
nobody else tells it anything. Nothing here awaits, and nothing grows with the depth of the queue.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

from foxden_broker.catalogue import Catalogue, offers
from foxden_broker.pool_parts import Held, OpenJob, PoolCard
from foxden_broker.pool_scheduled import Scheduled, real
from foxden_broker.quotas import Tally
from foxden_broker.retries import cards_failed_on
from foxden_broker.scheduler.ahead import Ahead
from foxden_broker.scheduler.facts import Give, Kind, Need, Preempt
from foxden_broker.scheduler.queue import State
from foxden_broker.store.base import Checkpoint, Job, Lease, Task
from foxden_proto.batches import most_images
from foxden_proto.states import TASK_HELD, TaskEvent, TaskState
from foxden_proto.v1.generation_pb2 import ImageRequest


class Pool:
    """The mirror of one account."""

    def __init__(self, account_id: str) -> None:
        self.account_id = account_id
        self.cards: dict[str, PoolCard] = {}
        self.jobs: dict[str, OpenJob] = {}
        self.unresolved: set[str] = set()  # jobs from before any model was known
        self._unresolved: defaultdict[int, Ahead] = defaultdict(Ahead)  # the same, by priority
        self.held: dict[Lease, Held] = {}
        self.tally = Tally()
        self.scheduler = State(self._capable, self._together)
        self.scheduled = Scheduled(self.jobs, self.scheduler)
        self._accepting: set[str] = set()  # agents whose link takes work
        self._of_agent: defaultdict[str, set[str]] = defaultdict(set)  # card ids
        self._leases_of_agent: defaultdict[str, set[Lease]] = defaultdict(set)
        self._images_on: defaultdict[str, int] = defaultdict(int)
        self._catalogue: Catalogue | None = None  # until a card comes, goes or changes
        self._able: dict[Need, list[PoolCard]] = {}  # until then as well

    # Cards

    def put_card(self, card: PoolCard) -> None:
        """A card is here, or remembered from before; or it described itself anew."""
        card_id = card.info.card_id
        self.cards[card_id] = card
        self._of_agent[card.agent_id].add(card_id)
        self._cards_differ()
        now = time.monotonic()
        self.scheduler.card_here(
            card.facts,
            now,
            accepting=self._takes_work(card),
            loaded=card.readings.loaded_models,
            in_ram=card.readings.models_in_ram,
        )
        if not card.online:
            self.scheduler.card_gone(card_id, now)

    def card_changed(self, card_id: str) -> None:
        """Its mode, its readings or its presence are other ones now."""
        card = self.cards[card_id]
        now = time.monotonic()
        self._catalogue = None
        if not card.online:
            self.scheduler.card_gone(card_id, now)
            return
        readings = card.readings
        self.scheduler.card_loaded(
            card_id, readings.loaded_models, now, in_ram=readings.models_in_ram
        )
        self.scheduler.card_accepts(card_id, self._takes_work(card), now)

    def model_loaded(self, card_id: str, sha256: str, seconds: float, *, from_ram: bool) -> None:
        """A card has measured how long a model took into its memory."""
        now = time.monotonic()
        self.scheduler.model_loaded(card_id, sha256, seconds, now, from_ram=from_ram)

    def forget_card(self, card_id: str) -> None:
        """It will not come back. What it holds has to have ended."""
        card = self.cards.pop(card_id, None)
        if card is not None:
            self._of_agent[card.agent_id].discard(card_id)
            self._cards_differ()
            self.scheduler.card_forgotten(card_id, time.monotonic())

    def agent_accepts(self, agent_id: str, accepts: bool) -> bool:
        """Whether an agent's link takes work now. True where that is new."""
        if accepts == (agent_id in self._accepting):
            return False
        (self._accepting.add if accepts else self._accepting.discard)(agent_id)
        for card_id in self._of_agent.get(agent_id, ()):
            takes = self._takes_work(self.cards[card_id])
            self.scheduler.card_accepts(card_id, takes, time.monotonic())
        return True

    def cards_of(self, agent_id: str) -> list[PoolCard]:
        return [self.cards[card_id] for card_id in self._of_agent.get(agent_id, ())]

    def catalogue(self) -> Catalogue:
        if self._catalogue is None:
            online = frozenset(card_id for card_id, card in self.cards.items() if card.online)
            self._catalogue = Catalogue([card.info for card in self.cards.values()], online)
        return self._catalogue

    def capable_cards(self, kind: Kind) -> list[PoolCard]:
        """Cards that could run this, online or not."""
        if kind.need not in self._able:
            able = [card for card in self.cards.values() if offers(card.info, *kind.need)]
            self._able[kind.need] = able
        return self._able[kind.need]

    def images_on(self, card_id: str) -> int:
        return self._images_on.get(card_id, 0)

    def _takes_work(self, card: PoolCard) -> bool:
        return card.works and card.agent_id in self._accepting

    def _cards_differ(self) -> None:
        self._catalogue = None
        self._able.clear()

    def _capable(self, card_id: str, kind: Kind) -> bool:
        card = self.cards.get(card_id)
        return card is not None and offers(card.info, *kind.need)

    def _together(self, card_id: str, kind: Kind) -> int:
        card = self.cards.get(card_id)
        return most_images(card.info.most_together, kind.width, kind.height) if card else 1

    # Jobs

    def add_job(self, job: Job, waiting: Iterable[int]) -> OpenJob:
        request = ImageRequest.FromString(job.request)
        opened = OpenJob(
            job.job_id,
            job.member,
            job.request,
            job.priority,
            job.created_ms,
            job.deadline_ms,
            bool(job.model_sha256),
            self._kind(request),
            job.cancel_requested,
            set(waiting),
        )
        self.jobs[job.job_id] = opened
        self.tally.waits(job.member, len(opened.waiting), job.priority)
        if opened.resolved:
            self.scheduled.waits(opened, sorted(opened.waiting))
        else:
            self.unresolved.add(job.job_id)
            self._unresolved[job.priority].add(job.job_id, len(opened.waiting), 0.0)
        return opened

    def resolved(self, job: OpenJob, complete: ImageRequest) -> None:
        """The model of a job that came before any card is known now."""
        job.request_bytes = complete.SerializeToString()
        job.kind, job.resolved = self._kind(complete), True
        self._known(job)
        self.scheduled.waits(job, sorted(job.waiting))

    def position(self, job: OpenJob) -> int:
        """Images that go before a job whose model is not known yet."""
        lines = self._unresolved.items()
        better = sum(line.images for priority, line in lines if priority < job.priority)
        return better + self._unresolved[job.priority].before(job.job_id)[0]

    def restore(self, job: Job, task: Task, deadline: float) -> None:
        """Take in an open task that the store remembers from before a restart."""
        opened = self.jobs.get(job.job_id) or self.add_job(job, ())
        if task.state not in TASK_HELD:
            self.requeue(task.job_id, task.index, cards_failed_on(task), task.checkpoint)
            return
        started = task.state is not TaskState.LEASED
        releasing = task.state is TaskState.RELEASING
        self._runs(opened, 1)
        ids = (task.lease, task.card_id, task.agent_id)
        self.hold(Held(*ids, started, deadline, releasing, task=task, restored=True))
        if task.card_id in self.cards and opened.resolved:
            self.scheduled.waits(opened, (), {task.index: cards_failed_on(task)})
            now = time.monotonic()
            self.scheduler.restored(job.job_id, task.index, task.card_id, now, started=started)

    def requeue(
        self,
        job_id: str,
        index: int,
        avoid: frozenset[str] | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        """The image waits (again). `avoid`: cards that failed on it; None: as before.
        `checkpoint`: from where it can be gone on with."""
        job = self.jobs.get(job_id)
        if job is not None:
            waited = index in job.waiting
            self._waits(job, index)
            if job.resolved:
                if not waited:
                    self.scheduled.resumes_from(job, index, checkpoint)
                self.scheduled.waits(job, (index,), {} if avoid is None else {index: avoid})

    def unqueue(self, job_id: str, index: int) -> None:
        job = self.jobs.get(job_id)
        if job is not None and index in job.waiting:
            self._left(job, index)
            self.scheduler.image_left(*self.scheduled.known_as(job_id, index), time.monotonic())
            self.scheduled.resumes_from(job, index, None)
            self._close_if_over(job)

    def set_aside(self, job_id: str, index: int) -> None:
        """It is being ended in the store, and must not be handed out meanwhile."""
        self.scheduler.image_left(*self.scheduled.known_as(job_id, index), time.monotonic())

    def take_back(self, job_id: str, index: int) -> None:
        """What was set aside waits on, unless it has ended."""
        job = self.jobs.get(job_id)
        if job is not None and index in job.waiting:
            self.scheduled.waits(job, (index,))

    # Leases

    def reserve(self, give: Give) -> Give:
        """The images are on their way to the card: they neither wait nor leave the card free.
        The same with the images' own jobs."""
        images = tuple(real(image) for image in give.images)
        for job_id, index in images:
            job = self.jobs[job_id]
            self._left(job, index)
            self._runs(job, 1)
        self.scheduler.given(give, time.monotonic())
        return replace(give, images=images)

    def unreserve(self, job_id: str, index: int, *, waits: bool) -> None:
        """The store did not lease it. `waits`: it is in the queue as before."""
        job = self.jobs[job_id]
        self._runs(job, -1)
        if waits:
            self._waits(job, index)
        self.scheduler.not_given(
            *self.scheduled.known_as(job_id, index), time.monotonic(), waits=waits
        )
        if not waits:
            self.scheduled.resumes_from(job, index, None)
        self._close_if_over(job)

    def hold(self, held: Held) -> None:
        """The card has the lease now; it was reserved before."""
        self.held[held.lease] = held
        self._leases_of_agent[held.agent_id].add(held.lease)
        self._images_on[held.card_id] += 1

    def started(self, held: Held) -> None:
        held.started, held.started_at = True, time.monotonic()
        image = self.scheduled.known_as(held.lease.job_id, held.lease.index)
        self.scheduler.image_started(*image, held.started_at)

    def ended(
        self,
        lease: Lease,
        after: TaskState,
        event: TaskEvent | None,
        *,
        blame: bool,
        run: float | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        """A lease is over. `event`: what ended it; None: nobody here heard. `blame`: its card is at
        fault, and avoided for this image from now on. `run`: seconds its batch took, where a
        picture came of it. `checkpoint`: from where it can be gone on with, if it waits again."""
        held = self.held.pop(lease, None)
        if held is not None:
            self._leases_of_agent[held.agent_id].discard(lease)
            self._images_on[held.card_id] -= 1
        job = self.jobs.get(lease.job_id)
        if job is None:
            return
        waits = after is TaskState.QUEUED
        if held is not None:
            self._runs(job, -1)
        if waits:
            self._waits(job, lease.index)
        step = checkpoint.step if checkpoint is not None and waits else 0
        moves = step != self.scheduled.step(
            job, lease.index
        )  # it is another kind of work from now on
        image = self.scheduled.known_as(lease.job_id, lease.index)
        before = self.scheduler.jobs.get(image[0])
        held_there = image in self.scheduler.holders
        preempted = self.scheduler.preempts.get(image, 0)
        if held_there:
            self.scheduled.ended(image, event, held, waits and not moves, blame, run)
        if moves:
            self.scheduled.resumes_from(job, lease.index, checkpoint if waits else None)
        if waits and job.resolved and (moves or not held_there):
            avoid = before.avoid.get(lease.index) if before is not None else None
            self.scheduled.waits(job, (lease.index,), {lease.index: avoid} if avoid else None)
            if preempted:
                again = self.scheduled.known_as(lease.job_id, lease.index)
                self.scheduler.preempts[again] = preempted
        self._close_if_over(job)

    def leases_of(self, agent_id: str) -> list[Held]:
        return [self.held[lease] for lease in self._leases_of_agent.get(agent_id, ())]

    # Inside

    def _waits(self, job: OpenJob, index: int) -> None:
        if index not in job.waiting:
            job.waiting.add(index)
            self._count(job, 1)

    def _left(self, job: OpenJob, index: int) -> None:
        job.waiting.remove(index)
        self._count(job, -1)

    def _count(self, job: OpenJob, images: int) -> None:
        self.tally.waits(job.member, images, job.priority)
        if not job.resolved:
            self._unresolved[job.priority].add(job.job_id, images, 0.0)

    def _runs(self, job: OpenJob, images: int) -> None:
        job.held += images
        self.tally.runs(job.member, images)

    def preempting(self, preempt: Preempt) -> list[Held]:
        """The card is asked to release these: what it holds of them."""
        self.scheduler.preempting(preempt, time.monotonic())
        images = {real(image) for image in preempt.images}
        return [
            held
            for held in self.held.values()
            if held.card_id == preempt.card_id and (held.lease.job_id, held.lease.index) in images
        ]

    def _kind(self, request: ImageRequest) -> Kind:
        return self.scheduled.kind(request, self.catalogue().size(request.model_sha256))

    def _close_if_over(self, job: OpenJob) -> None:
        if not job.waiting and not job.held:
            self.jobs.pop(job.job_id, None)
            self._known(job)

    def _known(self, job: OpenJob) -> None:
        if job.job_id in self.unresolved:
            self.unresolved.discard(job.job_id)
            self._unresolved[job.priority].remove(job.job_id)
