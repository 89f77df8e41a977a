"""Everything the running broker knows about one account, and the changes both doors share."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from foxden_broker.blobs import BlobStore
from foxden_broker.catalogue import resolve
from foxden_broker.estimates import Estimates
from foxden_broker.hub import Hub
from foxden_broker.pool import Held, OpenJob, Pool, PoolCard
from foxden_broker.retries import after_loss
from foxden_broker.session import Session
from foxden_broker.store.base import Change, Decide, Lease, Store
from foxden_broker.uploads import Signer
from foxden_proto.problems import Problem
from foxden_proto.states import TaskEvent, TaskState
from foxden_proto.timers import Timers
from foxden_proto.v1.generation_pb2 import ImageRequest
from foxden_proto.v1.pool_pb2 import CardInfo

log = logging.getLogger(__name__)


def now_ms() -> int:
    return int(time.time() * 1000)


@dataclass
class Account:
    """One account while the broker runs: the mirror of its pool, its links and its watchers."""

    account_id: str
    store: Store
    blobs: BlobStore
    signer: Signer
    timers: Timers
    pool: Pool = field(init=False)
    hub: Hub = field(default_factory=Hub)
    estimates: Estimates = field(default_factory=Estimates)
    sessions: dict[str, Session] = field(default_factory=dict)  # by agent_id
    wake: asyncio.Event = field(default_factory=asyncio.Event)  # something to plan
    doubts: set[tuple[str, int]] = field(default_factory=set)  # images to ask the store about

    def __post_init__(self) -> None:
        self.pool = Pool(self.account_id)

    async def load(self) -> None:
        """Fill the mirror from the store. Agents that held images when the broker stopped have
        `timers.lease_lost` from now to come back with them."""
        for row in await self.store.cards(self.account_id):
            self.pool.cards[row.card_id] = PoolCard(
                CardInfo.FromString(row.info),
                row.agent_id,
                row.agent_name,
                row.agent_version,
                row.last_seen_ms,
            )
        now = time.monotonic()
        for job, task in await self.store.open_tasks(self.account_id):
            releasing = task.state is TaskState.RELEASING
            unknown = self.deadline(ImageRequest(), "")
            self.pool.restore(job, task, now + self.timers.release if releasing else unknown)
        for held in self.pool.held.values():
            self.sessions.setdefault(held.agent_id, Session(held.agent_id, self.timers, now))
        self.wake.set()

    def deadline(self, request: ImageRequest, card_id: str) -> float:
        """The monotonic moment at which a lease given now is taken away: 3 x the estimate, with
        time to load the model."""
        known = self.estimates.seconds(card_id, request) if card_id else None
        seconds = 3 * (known or self.timers.unknown_run) + self.timers.load_budget
        return time.monotonic() + seconds

    # Changes that both doors make

    async def end_lease(
        self, lease: Lease, event: TaskEvent | Decide, reason: str, *, blame: bool = False
    ) -> Change | None:
        """End a lease in the store, then here. None: it was not held any more."""
        change = await self.store.end_lease(self.account_id, lease, event, reason, now_ms())
        if change is not None:
            self.pool.ended(lease, change.task.state, blame=blame)
            log.info("image %s/%d: %s (%s)", lease.job_id, lease.index, change.event.value, reason)
            self.changed(lease.job_id)
        elif lease in self.pool.held:
            self.doubt(lease.job_id, lease.index)
        return change

    def doubt(self, job_id: str, *indices: int) -> None:
        """The store does not say of these images what the mirror says: see doubts.py."""
        self.doubts.update((job_id, index) for index in indices)
        self.wake.set()

    async def lose(self, held: Held, reason: str) -> None:
        """The card that held this is gone. The store says whether it had begun: a start may be on
        its way there."""
        capable = self.capable_ids(held.lease.job_id)
        await self.end_lease(held.lease, after_loss(capable), reason, blame=held.started)

    async def end_queued(
        self, images: Sequence[tuple[str, int]], event: TaskEvent, why: str
    ) -> None:
        left = set(images)
        for change in await self.store.end_queued(self.account_id, images, event, why, now_ms()):
            self.pool.unqueue(change.task.job_id, change.task.index)
            self.changed(change.task.job_id)
            left.discard((change.task.job_id, change.task.index))
        for job_id, index in left:
            self.doubt(job_id, index)

    async def resolve_waiting(self) -> None:
        """The first card is here: what was accepted before any model was known is completed,
        or ended with the reason, so that nothing waits for a model that nobody has."""
        if all(job.resolved for job in self.pool.jobs.values()):
            return
        catalogue = self.pool.catalogue()
        if not any(card.models for card in catalogue.cards):
            return
        for job in [job for job in self.pool.jobs.values() if not job.resolved]:
            try:
                complete = resolve(job.request, catalogue)
            except Problem as problem:
                images = [(job.job_id, index) for index in job.waiting]
                await self.end_queued(images, TaskEvent.GIVE_UP, problem.message)
                continue
            data = complete.SerializeToString()
            if await self.store.resolve(self.account_id, job.job_id, data, complete.model_sha256):
                job.request, job.resolved = complete, True
                self.changed(job.job_id)
            else:
                self.doubt(job.job_id, *job.waiting)

    def changed(self, job_id: str) -> None:
        """Tell the job's watchers, and plan again."""
        self.hub.changed(job_id)
        self.wake.set()

    def capable_ids(self, job_id: str) -> set[str]:
        """Cards that could run this job and are online: the others a retry may go to."""
        job = self.pool.jobs.get(job_id)
        if job is None:
            return set()
        return {c.info.card_id for c in self.pool.capable_cards(job.request) if c.online}

    def waits_for(self, job: OpenJob) -> str:
        """What must happen before this job can start; empty where a card can take it."""
        if not self.pool.cards:
            return "the first card to join this pool"
        if not job.resolved:
            return "a card with a model"
        capable = self.pool.capable_cards(job.request)
        if any(card.works for card in capable):
            return ""
        if not capable:
            return f"a card with the model {job.request.model}"
        online = [card for card in capable if card.online]
        if online:
            why = "; ".join(f"{c.info.name}: {', '.join(c.reasons) or 'paused'}" for c in online)
            return f"a card that is allowed to work ({why})"
        return "one of these cards to come back: " + ", ".join(c.info.name for c in capable)
