"""How the scheduler knows a pool's jobs, and what it is told of their images.

Images that go on from a checkpoint are work of another kind than those of their job that begin:
less is left of them, and they ride with others of the same step. To the scheduler they are a job
of their own, as old as theirs: `JOB@STEP`. Nobody else sees that name.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace

from foxden_broker.pool_parts import Held, OpenJob
from foxden_broker.scheduler.facts import Image, JobFacts, Kind, Outcome
from foxden_broker.scheduler.lines import Job as SchedulerJob
from foxden_broker.scheduler.outlook import Outlook, Place
from foxden_broker.scheduler.queue import State
from foxden_broker.store.base import Checkpoint
from foxden_proto.batches import batch_key, steps_left
from foxden_proto.states import TaskEvent
from foxden_proto.v1.generation_pb2 import ImageRequest

_MOST_KINDS = 10_000
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


class Scheduled:
    """A pool's open jobs as its scheduler has them."""

    def __init__(self, jobs: Mapping[str, OpenJob], scheduler: State) -> None:
        self._jobs = jobs
        self._scheduler = scheduler
        self.outlook = Outlook(scheduler)
        self._kinds: dict[tuple[Kind, int], Kind] = {}  # one object for all jobs of a kind

    def known_as(self, job_id: str, index: int) -> Image:
        """An image as the scheduler knows it."""
        job = self._jobs.get(job_id)
        step = self.step(job, index) if job is not None else 0
        return (f"{job_id}@{step}" if step else job_id), index

    def step(self, job: OpenJob, index: int) -> int:
        """Of the checkpoint that it goes on from; 0: it begins."""
        return job.resumes.get(index, 0) if job.resumes else 0

    def resumes_from(self, job: OpenJob, index: int, checkpoint: Checkpoint | None) -> None:
        """From where it goes on when it is drawn next."""
        if checkpoint is None:
            if job.resumes is not None:
                job.resumes.pop(index, None)
                job.resumes = job.resumes or None
            return
        if job.resumes is None:
            job.resumes = {}
        job.resumes[index] = checkpoint.step

    def waits(
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
            self._scheduler.image_waits(part.facts.job_id, index, now)

    def _part(self, job: OpenJob, index: int, now: float) -> SchedulerJob:
        """What the scheduler has for this image: the job, or those of its images that go on from
        the same step."""
        name, _ = self.known_as(job.job_id, index)
        if name not in self._scheduler.jobs:
            ahead = now - time.time()  # of the clock that jobs are stamped with
            deadline = job.deadline_ms / 1000 + ahead if job.deadline_ms else float("inf")
            created = job.created_ms / 1000 + ahead
            kind = job.kind
            if step := self.step(job, index):
                left = steps_left(job.request, step)
                kind = self._one_object(replace(kind, steps=left, rest=(step, kind.steps)))
            facts = JobFacts(name, job.member, kind, created, job.priority, deadline)
            self._scheduler.add_job(facts, (), now)
        return self._scheduler.jobs[name]

    def kind(self, request: ImageRequest, model_bytes: int) -> Kind:
        """One object for all jobs of a kind."""
        return self._one_object(Kind(*batch_key(request)[:-1], model_bytes=model_bytes))

    def _one_object(self, kind: Kind) -> Kind:
        if len(self._kinds) >= _MOST_KINDS:
            self._kinds.clear()
        return self._kinds.setdefault((kind, kind.model_bytes), kind)

    def ended(
        self,
        image: Image,
        event: TaskEvent | None,
        held: Held | None,
        waits: bool,
        blame: bool,
        run: float | None,
    ) -> None:
        """A card holds it no more; the arguments are those of `Pool.ended`."""
        now = time.monotonic()
        if event is TaskEvent.REFUSE and not blame:  # it never reached the card
            self._scheduler.not_given(*image, now, waits=waits)
            return
        outcomes = _BLAMED if blame else _BLAMELESS
        outcome = outcomes.get(event) if event is not None else None
        load = None
        if run is not None and held is not None and held.started_at:
            load = max(0.0, now - held.started_at - run)
        self._scheduler.image_ended(
            *image,
            now,
            outcome or Outcome.STOPPED,
            waits=waits,
            load_seconds=load,
            run_seconds=run,
        )

    def place(self, job: OpenJob, now: float) -> Place:
        """Where a job stands, all its parts together."""
        names = {self.known_as(job.job_id, index)[0] for index in job.resumes or ()}
        parts = [name for name in (job.job_id, *sorted(names)) if name in self._scheduler.jobs]
        places = [self.outlook.place(name, now) for name in parts or [job.job_id]]
        p50 = [place.p50 for place in places if place.p50 is not None]
        p90 = [place.p90 for place in places if place.p90 is not None]
        whole = len(p50) == len(p90) == len(places)
        position = min(place.position for place in places)
        return Place(position, max(p50), max(p90)) if whole else Place(position)
