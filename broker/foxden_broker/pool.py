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
from dataclasses import dataclass, field, replace

from foxden_broker.catalogue import Catalogue, offers
from foxden_broker.quotas import Tally
from foxden_broker.retries import cards_failed_on
from foxden_broker.scheduler.ahead import Ahead
from foxden_broker.scheduler.facts import (
    CardFacts,
    Give,
    Image,
    JobFacts,
    Kind,
    Need,
    Outcome,
    Preempt,
)
from foxden_broker.scheduler.lines import Job as SchedulerJob
from foxden_broker.scheduler.outlook import Outlook, Place
from foxden_broker.scheduler.queue import State
from foxden_broker.store.base import Checkpoint, Job, Lease, Task
from foxden_proto.batches import batch_key, most_images, steps_left
from foxden_proto.states import TASK_HELD, TaskEvent, TaskState
from foxden_proto.v1 import pool_pb2
from foxden_proto.v1.generation_pb2 import ImageRequest

_MOST_KINDS = 10_000
_WORKING = frozenset({pool_pb2.MODE_READY, pool_pb2.MODE_DUTY_CYCLED})
_BLAMED = {
    TaskEvent.FAIL: Outcome.FAILED,
    TaskEvent.GIVE_UP: Outcome.FAILED,
    TaskEvent.LOSE: Outcome.LOST,
    TaskEvent.REFUSE: Outcome.REFUSED,
}
_BLAMELESS = {
    TaskEvent.FINISH: Outcome.DONE,
    TaskEvent.LOSE: Outcome.RELEASED,
    TaskEvent.RELEASED: Outcome.RELEASED,
}


def real(image: Image) -> Image:
    """What the scheduler names, with the id that everybody else knows its job by."""
    name, index = image
    return name.partition("@")[0], index


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
    standing: str = ""  # what an administrator decided: "", "cordoned" or "draining"

    @property
    def works(self) -> bool:
        """Whether it takes new images."""
        return self.online and self.mode in _WORKING and not self.standing

    @property
    def why_not(self) -> str:
        """Why it takes none although it is online, in words for people."""
        return ", ".join([*filter(None, [self.standing]), *self.reasons]) or "paused"

    @property
    def facts(self) -> CardFacts:
        """Cards of one class, such as two RTX 4070, start from the same estimates."""
        info = self.info
        named = info.name.rpartition(" in ")[0] or info.name  # "RTX 4070 in kitchen-pc"
        named = f"{named} {info.device.partition(':')[0]}"
        return CardFacts(info.card_id, named, info.memory_total, max(1, info.most_together))


@dataclass(slots=True)
class OpenJob:
    """A job with images that wait or run. A hundred thousand of them may wait, so it is small: the
    request is kept as the store has it, and read when somebody asks for it."""

    job_id: str
    member: str
    request_bytes: bytes
    priority: int
    created_ms: int
    deadline_ms: int
    resolved: bool  # the model is known and every default filled in
    kind: Kind
    cancelled: bool = False
    waiting: set[int] = field(default_factory=set)
    held: int = 0  # images that a card has, or that are on their way through the store to one
    resumes: dict[int, int] | None = None  # steps of the checkpoints that images go on from

    @property
    def request(self) -> ImageRequest:
        return ImageRequest.FromString(self.request_bytes)

    def image_request(self, index: int) -> ImageRequest:
        """The request of one image: the job's, with the image's own seed."""
        request = self.request
        request.seed += index
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
    restored: bool = False  # from before this broker began to plan
    batch: int = 1  # images that ride through the card together, this one included
    started_at: float = 0.0  # monotonic seconds; 0: not known
    puts: list[str] = field(default_factory=list)  # sha256 of pictures that were sent for it
    task: Task | None = None  # as it was when it was leased

    @property
    def resumed(self) -> bool:
        """Whether it was given with a checkpoint to go on from."""
        return self.task is not None and self.task.checkpoint is not None


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
        self.outlook = Outlook(self.scheduler)
        self._accepting: set[str] = set()  # agents whose link takes work
        self._of_agent: defaultdict[str, set[str]] = defaultdict(set)  # card ids
        self._leases_of_agent: defaultdict[str, set[Lease]] = defaultdict(set)
        self._images_on: defaultdict[str, int] = defaultdict(int)
        self._catalogue: Catalogue | None = None  # until a card comes, goes or changes
        self._able: dict[Need, list[PoolCard]] = {}  # until then as well
        self._kinds: dict[tuple[Kind, int], Kind] = {}  # one object for all jobs of a kind

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
            self._schedule(opened, sorted(opened.waiting))
        else:
            self.unresolved.add(job.job_id)
            self._unresolved[job.priority].add(job.job_id, len(opened.waiting), 0.0)
        return opened

    def resolved(self, job: OpenJob, complete: ImageRequest) -> None:
        """The model of a job that came before any card is known now."""
        job.request_bytes = complete.SerializeToString()
        job.kind, job.resolved = self._kind(complete), True
        self._known(job)
        self._schedule(job, sorted(job.waiting))

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
            self._schedule(opened, (), {task.index: cards_failed_on(task)})
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
                    self._resumes(job, index, checkpoint)
                self._schedule(job, (index,), {} if avoid is None else {index: avoid})

    def unqueue(self, job_id: str, index: int) -> None:
        job = self.jobs.get(job_id)
        if job is not None and index in job.waiting:
            self._left(job, index)
            self.scheduler.image_left(*self._known_as(job_id, index), time.monotonic())
            self._resumes(job, index, None)
            self._close_if_over(job)

    def set_aside(self, job_id: str, index: int) -> None:
        """It is being ended in the store, and must not be handed out meanwhile."""
        self.scheduler.image_left(*self._known_as(job_id, index), time.monotonic())

    def take_back(self, job_id: str, index: int) -> None:
        """What was set aside waits on, unless it has ended."""
        job = self.jobs.get(job_id)
        if job is not None and index in job.waiting:
            self._schedule(job, (index,))

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
        self.scheduler.not_given(*self._known_as(job_id, index), time.monotonic(), waits=waits)
        if not waits:
            self._resumes(job, index, None)
        self._close_if_over(job)

    def hold(self, held: Held) -> None:
        """The card has the lease now; it was reserved before."""
        self.held[held.lease] = held
        self._leases_of_agent[held.agent_id].add(held.lease)
        self._images_on[held.card_id] += 1

    def started(self, held: Held) -> None:
        held.started, held.started_at = True, time.monotonic()
        image = self._known_as(held.lease.job_id, held.lease.index)
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
        moves = step != self._step(job, lease.index)  # it is another kind of work from now on
        image = self._known_as(lease.job_id, lease.index)
        before = self.scheduler.jobs.get(image[0])
        held_there = image in self.scheduler.holders
        preempted = self.scheduler.preempts.get(image, 0)
        if held_there:
            self._tell_end(image, event, held, waits and not moves, blame, run)
        if moves:
            self._resumes(job, lease.index, checkpoint if waits else None)
        if waits and job.resolved and (moves or not held_there):
            avoid = before.avoid.get(lease.index) if before is not None else None
            self._schedule(job, (lease.index,), {lease.index: avoid} if avoid else None)
            if preempted:
                again = self._known_as(lease.job_id, lease.index)
                self.scheduler.preempts[again] = preempted
        self._close_if_over(job)

    def leases_of(self, agent_id: str) -> list[Held]:
        return [self.held[lease] for lease in self._leases_of_agent.get(agent_id, ())]

    def _tell_end(
        self,
        image: tuple[str, int],
        event: TaskEvent | None,
        held: Held | None,
        waits: bool,
        blame: bool,
        run: float | None,
    ) -> None:
        now = time.monotonic()
        if event is TaskEvent.REFUSE and not blame:  # it never reached the card
            self.scheduler.not_given(*image, now, waits=waits)
            return
        outcomes = _BLAMED if blame else _BLAMELESS
        outcome = outcomes.get(event) if event is not None else None
        load = None
        if run is not None and held is not None and held.started_at:
            load = max(0.0, now - held.started_at - run)
        self.scheduler.image_ended(
            *image,
            now,
            outcome or Outcome.STOPPED,
            waits=waits,
            load_seconds=load,
            run_seconds=run,
        )

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

    # Images that go on from a checkpoint are work of another kind than those of their job that
    # begin: less is left of them, and they ride with others of the same step. To the scheduler they
    # are a job of their own, as old as theirs: `JOB@STEP`. Nobody else sees that name.

    def place(self, job: OpenJob, now: float) -> Place:
        """Where a job stands, all its parts together."""
        names = {self._known_as(job.job_id, index)[0] for index in job.resumes or ()}
        parts = [name for name in (job.job_id, *sorted(names)) if name in self.scheduler.jobs]
        places = [self.outlook.place(name, now) for name in parts or [job.job_id]]
        p50 = [place.p50 for place in places if place.p50 is not None]
        p90 = [place.p90 for place in places if place.p90 is not None]
        whole = len(p50) == len(p90) == len(places)
        position = min(place.position for place in places)
        return Place(position, max(p50), max(p90)) if whole else Place(position)

    def preempting(self, preempt: Preempt) -> list[Held]:
        """The card is asked to release these: what it holds of them."""
        self.scheduler.preempting(preempt, time.monotonic())
        images = {real(image) for image in preempt.images}
        return [
            held
            for held in self.held.values()
            if held.card_id == preempt.card_id and (held.lease.job_id, held.lease.index) in images
        ]

    def _known_as(self, job_id: str, index: int) -> Image:
        """An image as the scheduler knows it."""
        job = self.jobs.get(job_id)
        step = self._step(job, index) if job is not None else 0
        return (f"{job_id}@{step}" if step else job_id), index

    def _step(self, job: OpenJob, index: int) -> int:
        return job.resumes.get(index, 0) if job.resumes else 0

    def _resumes(self, job: OpenJob, index: int, checkpoint: Checkpoint | None) -> None:
        """From where it goes on when it is drawn next."""
        if checkpoint is None:
            if job.resumes is not None:
                job.resumes.pop(index, None)
                job.resumes = job.resumes or None
            return
        if job.resumes is None:
            job.resumes = {}
        job.resumes[index] = checkpoint.step

    def _schedule(
        self, job: OpenJob, indices: Iterable[int], avoid: dict[int, frozenset[str]] | None = None
    ) -> None:
        """Tell the scheduler that these wait; it forgets a job when nothing waits or is held."""
        now = time.monotonic()
        for index, cards in (avoid or {}).items():
            self._part(job, index, now).avoid[index] = cards
        part = None
        for index in indices:
            if part is None or job.resumes:
                part = self._part(job, index, now)
            self.scheduler.image_waits(part.facts.job_id, index, now)

    def _part(self, job: OpenJob, index: int, now: float) -> SchedulerJob:
        """What the scheduler has for this image: the job, or those of its images that go on from
        the same step."""
        name, _ = self._known_as(job.job_id, index)
        if name not in self.scheduler.jobs:
            ahead = now - time.time()  # of the clock that jobs are stamped with
            deadline = job.deadline_ms / 1000 + ahead if job.deadline_ms else float("inf")
            created = job.created_ms / 1000 + ahead
            kind = job.kind
            if step := self._step(job, index):
                left = steps_left(job.request, step)
                kind = self._one_object(replace(kind, steps=left, rest=(step, kind.steps)))
            facts = JobFacts(name, job.member, kind, created, job.priority, deadline)
            self.scheduler.add_job(facts, (), now)
        return self.scheduler.jobs[name]

    def _kind(self, request: ImageRequest) -> Kind:
        key = batch_key(request)
        kind = Kind(*key[:-1], model_bytes=self.catalogue().size(request.model_sha256))
        return self._one_object(kind)

    def _one_object(self, kind: Kind) -> Kind:
        if len(self._kinds) >= _MOST_KINDS:
            self._kinds.clear()
        return self._kinds.setdefault((kind, kind.model_bytes), kind)

    def _close_if_over(self, job: OpenJob) -> None:
        if not job.waiting and not job.held:
            self.jobs.pop(job.job_id, None)
            self._known(job)

    def _known(self, job: OpenJob) -> None:
        if job.job_id in self.unresolved:
            self.unresolved.discard(job.job_id)
            self._unresolved[job.priority].remove(job.job_id)
