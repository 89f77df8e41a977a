"""One account's pool in memory: what waits, who holds what, which cards are there.

A mirror of the store that the scheduler can look at without a query. It is filled from the store
when the broker starts and follows every accepted change; where the two differ the store is right,
because each write is guarded there. Nothing here awaits.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass, field

from foxden_broker.catalogue import Catalogue, can_run
from foxden_broker.retries import cards_failed_on
from foxden_broker.scheduler import OpenCard, WaitingJob
from foxden_broker.store.base import Assign, Job, Lease, Task
from foxden_proto.states import TASK_HELD, TaskState
from foxden_proto.v1 import pool_pb2
from foxden_proto.v1.generation_pb2 import ImageRequest

_WORKING = frozenset({pool_pb2.MODE_READY, pool_pb2.MODE_DUTY_CYCLED})


@dataclass
class PoolCard:
    """A card as it was last described, and how it is now."""

    info: pool_pb2.CardInfo
    agent_id: str
    agent_name: str
    agent_version: str
    last_seen_ms: int
    online: bool = False
    mode: pool_pb2.Mode.ValueType = pool_pb2.MODE_READY
    reasons: tuple[str, ...] = ()
    readings: pool_pb2.CardReadings = field(default_factory=pool_pb2.CardReadings)

    @property
    def works(self) -> bool:
        return self.online and self.mode in _WORKING


@dataclass
class OpenJob:
    """A job with images that wait or run."""

    job_id: str
    request: ImageRequest
    priority: int
    created_ms: int
    deadline_ms: int
    resolved: bool  # the model is known and every default filled in
    cancelled: bool = False
    waiting: list[int] = field(default_factory=list)  # ascending
    held: int = 0
    avoid: dict[int, frozenset[str]] = field(default_factory=dict)

    def image_request(self, index: int) -> ImageRequest:
        """The request of one image: the job's, with the image's own seed."""
        request = ImageRequest()
        request.CopyFrom(self.request)
        request.seed = self.request.seed + index
        return request


@dataclass
class Held:
    """A lease that a card has."""

    lease: Lease
    card_id: str
    agent_id: str
    started: bool
    deadline: float  # monotonic seconds after which it is taken away
    releasing: bool = False  # the owner takes the card back; the last checkpoint may follow
    task: Task | None = None  # as it was when it was leased


class Pool:
    """The mirror of one account."""

    def __init__(self, account_id: str) -> None:
        self.account_id = account_id
        self.cards: dict[str, PoolCard] = {}
        self.jobs: dict[str, OpenJob] = {}
        self.held: dict[Lease, Held] = {}
        self._reserved: dict[str, int] = {}  # card_id -> images on their way through the store

    # Cards

    def catalogue(self) -> Catalogue:
        online = frozenset(card_id for card_id, card in self.cards.items() if card.online)
        return Catalogue([card.info for card in self.cards.values()], online)

    def capable_cards(self, request: ImageRequest) -> list[PoolCard]:
        return [card for card in self.cards.values() if not can_run(request, card.info)]

    def open_cards(self, accepting: set[str]) -> list[OpenCard]:
        """Cards that work and whose agent is in `accepting`."""
        busy = dict(self._reserved)
        for held in self.held.values():
            busy[held.card_id] = busy.get(held.card_id, 0) + 1
        return [
            OpenCard(card.info, busy.get(card_id, 0), frozenset(card.readings.loaded_models))
            for card_id, card in self.cards.items()
            if card.works and card.agent_id in accepting
        ]

    def images_on(self, card_id: str) -> int:
        return sum(1 for held in self.held.values() if held.card_id == card_id)

    # Jobs

    def add_job(self, job: Job, waiting: Iterator[int] | range) -> OpenJob:
        request = ImageRequest.FromString(job.request)
        opened = OpenJob(
            job.job_id,
            request,
            job.priority,
            job.created_ms,
            job.deadline_ms,
            bool(job.model_sha256),
            job.cancel_requested,
            list(waiting),
        )
        self.jobs[job.job_id] = opened
        return opened

    def restore(self, job: Job, task: Task, deadline: float) -> None:
        """Take in an open task that the store remembers from before a restart."""
        opened = self.jobs.get(job.job_id) or self.add_job(job, range(0))
        failed_on = cards_failed_on(task)
        if failed_on:
            opened.avoid[task.index] = failed_on
        if task.state in TASK_HELD:
            started = task.state is not TaskState.LEASED
            releasing = task.state is TaskState.RELEASING
            ids = (task.lease, task.card_id, task.agent_id)
            self.hold(Held(*ids, started, deadline, releasing, task))
        else:
            self.requeue(task.job_id, task.index)

    def waiting_jobs(self) -> list[WaitingJob]:
        return [
            WaitingJob(j.job_id, j.priority, j.created_ms, j.request, j.waiting, j.avoid)
            for j in self.jobs.values()
            if j.waiting and j.resolved and not j.cancelled
        ]

    def images_before(self, job_id: str) -> int:
        """Waiting images that go before this job's first, by priority and age."""
        me = self.jobs.get(job_id)
        if me is None:
            return 0
        mine = (me.priority, me.created_ms, me.job_id)
        return sum(
            len(j.waiting)
            for j in self.jobs.values()
            if (j.priority, j.created_ms, j.job_id) < mine
        )

    def requeue(self, job_id: str, index: int) -> None:
        job = self.jobs.get(job_id)
        if job is not None and index not in job.waiting:
            bisect.insort(job.waiting, index)

    def unqueue(self, job_id: str, index: int) -> None:
        job = self.jobs.get(job_id)
        if job is not None and index in job.waiting:
            job.waiting.remove(index)
            self._close_if_over(job)

    # Leases

    def reserve(self, assign: Assign) -> None:
        """The image is on its way to the card: it neither waits nor leaves the card free."""
        job = self.jobs[assign.job_id]
        job.waiting.remove(assign.index)
        job.held += 1
        self._reserved[assign.card_id] = self._reserved.get(assign.card_id, 0) + 1

    def unreserve(self, assign: Assign) -> None:
        self._reserved[assign.card_id] -= 1
        if not self._reserved[assign.card_id]:
            del self._reserved[assign.card_id]
        if (job := self.jobs.get(assign.job_id)) is not None:
            job.held -= 1
            self._close_if_over(job)

    def hold(self, held: Held) -> None:
        self.held[held.lease] = held
        if (job := self.jobs.get(held.lease.job_id)) is not None:
            job.held += 1

    def ended(self, lease: Lease, after: TaskState, *, blame: bool) -> None:
        """A lease is over; with `blame` its card is avoided for this image from now on."""
        held = self.held.pop(lease, None)
        job = self.jobs.get(lease.job_id)
        if job is None:
            return
        if held is not None:
            job.held -= 1
            if blame:
                avoided = job.avoid.get(lease.index, frozenset())
                job.avoid[lease.index] = avoided | {held.card_id}
        if after is TaskState.QUEUED:
            self.requeue(lease.job_id, lease.index)
        self._close_if_over(job)

    def leases_of(self, agent_id: str) -> list[Held]:
        return [held for held in self.held.values() if held.agent_id == agent_id]

    def _close_if_over(self, job: OpenJob) -> None:
        if not job.waiting and not job.held:
            self.jobs.pop(job.job_id, None)
