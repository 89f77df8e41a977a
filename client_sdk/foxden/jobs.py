"""A submitted job: what is known of it, and a handle to follow it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import datetime

from foxden import _watching, events
from foxden._transport import ATTEMPT_SECONDS, Transport
from foxden.errors import DeadlineExpired, FoxdenError, JobCancelled, JobFailed
from foxden.pool import moment
from foxden.results import Picture, Result
from foxden_proto.v1 import generation_pb2 as pb


@dataclass(frozen=True)
class Attempt:
    """One try at one image."""

    index: int
    card: str
    outcome: str  # finish, fail, lose, release, refuse or cancel; empty while it lasts
    reason: str
    started: datetime | None = None  # the card was given the image
    ended: datetime | None = None  # None while it lasts


@dataclass(frozen=True)
class Task:
    """One image of a job."""

    index: int
    state: str  # queued, leased, running, releasing, done, failed, cancelled or expired
    card: str  # it is on, or was on last
    reason: str  # why it failed, or what it waits for
    failures: int
    losses: int
    releases: int
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True)
class JobInfo:
    """A job as the broker last told it."""

    id: str
    state: str  # queued, running, done, failed, cancelled, expired or partial
    count: int
    done: int  # images finished
    prompt: str
    model: str
    seed: int | None  # of image 0
    priority: str
    member: str
    created: datetime | None
    ended: datetime | None
    deadline: datetime | None
    cancel_requested: bool
    reason: str  # why it failed, expired or is partial
    tasks: tuple[Task, ...] = ()  # by index; empty in listings


class Handle:
    """What both kinds of job know without asking: the fields of the last snapshot."""

    def __init__(self, info: JobInfo) -> None:
        self._info = info

    @property
    def info(self) -> JobInfo:
        """Everything last told about the job, frozen."""
        return self._info

    @property
    def id(self) -> str:
        return self._info.id

    @property
    def state(self) -> str:
        """queued, running, done, failed, cancelled, expired or partial, when last asked."""
        return self._info.state

    @property
    def count(self) -> int:
        return self._info.count

    @property
    def done(self) -> int:
        """Images finished, when last asked."""
        return self._info.done

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """Every try at every image, by image and in order; of the last `get` or `refresh`."""
        return tuple(tried for task in self._info.tasks for tried in task.attempts)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self.state}, {self.done} of {self.count} done>"


class AsyncJob(Handle):
    """A job of an AsyncClient."""

    def __init__(self, transport: Transport, info: JobInfo) -> None:
        super().__init__(info)
        self._transport = transport

    async def watch(self, timeout: float | None = None) -> AsyncGenerator[events.Event, None]:
        """Yield what happens to the job from its start; ends with Done, Failed or Cancelled.

        A PictureReady carries its picture and comes while other images are still being made. A
        broken connection is picked up where it was. Raises Timeout after `timeout` seconds, and
        Unavailable where the broker stays away for `retry_for` seconds.
        """
        following = _watching.watch(self._transport, self.id, self.count, timeout)
        async with contextlib.aclosing(following) as seen:
            async for event in seen:
                self._note(event)
                yield event

    async def pictures(self, timeout: float | None = None) -> AsyncGenerator[Picture, None]:
        """Yield pictures as they finish, in any order. Raises what `result` raises, at the end."""
        collected = Collected(self._info)
        async with contextlib.aclosing(self.watch(timeout)) as seen:
            async for event in seen:
                collected.add(event)
                if isinstance(event, events.PictureReady):
                    yield event.picture
        await self._conclude(collected)

    async def result(self, timeout: float | None = None) -> Result:
        """Wait for all pictures.

        Raises JobFailed, JobCancelled or DeadlineExpired (each with `.result`: what is finished),
        and Timeout after `timeout` seconds; the job then goes on.
        """
        collected = Collected(self._info)
        async with contextlib.aclosing(self.watch(timeout)) as seen:
            async for event in seen:
                collected.add(event)
        return await self._conclude(collected)

    async def _conclude(self, collected: Collected) -> Result:
        """The result of a watched job, or its error with every attempt that failed."""
        if isinstance(collected.last, events.Done):
            return collected.result()
        job = await _watching.get(self._transport, self.id)
        self._info = info(job)
        raise collected.error(job)

    async def refresh(self) -> AsyncJob:
        """Ask the broker again and return this job, with its fields up to date."""
        self._info = info(await _watching.get(self._transport, self.id))
        return self

    async def cancel(self) -> AsyncJob:
        """Ask that the job stop: queued images at once, running ones at their next step."""
        self._info = info(
            await self._transport.call(
                lambda stubs: stubs.generation.Cancel(
                    pb.CancelJobRequest(job_id=self.id),
                    metadata=self._transport.metadata,
                    timeout=ATTEMPT_SECONDS,
                )
            )
        )
        return self

    async def retry(self) -> AsyncJob:
        """Have the failed images queued again. Raises InvalidRequest where none failed."""
        self._info = info(
            await self._transport.call(
                lambda stubs: stubs.generation.Retry(
                    pb.RetryJobRequest(job_id=self.id),
                    metadata=self._transport.metadata,
                    timeout=ATTEMPT_SECONDS,
                )
            )
        )
        return self

    def _note(self, event: events.Event) -> None:
        match event:
            case events.Started():
                self._info = dataclasses.replace(self._info, state="running")
            case events.PictureReady():
                self._info = dataclasses.replace(self._info, done=self._info.done + 1)
            case events.Done():
                self._info = dataclasses.replace(self._info, state="done", done=self.count)
            case events.Failed():
                self._info = dataclasses.replace(self._info, state=event.state, reason=event.reason)
            case events.Cancelled():
                self._info = dataclasses.replace(self._info, state="cancelled")


class Collected:
    """The pictures and the ending of one watched job."""

    def __init__(self, job: JobInfo) -> None:
        self._job_id, self._count = job.id, job.count
        self._pictures: list[Picture] = []
        self.last: events.Last | None = None

    def add(self, event: events.Event) -> None:
        if isinstance(event, events.PictureReady):
            self._pictures.append(event.picture)
        elif isinstance(event, events.Last):
            self.last = event

    def result(self) -> Result:
        return Result(self._job_id, self._pictures)

    def error(self, job: pb.Job) -> FoxdenError:
        """Why the job has no complete result, from the states of the images it lacks."""
        result = self.result() if self._pictures else None
        reason = job.reason or getattr(self.last, "reason", "") or "the broker gave no reason"
        so_far = f", {len(self._pictures)} of {self._count} pictures are in .result" * bool(result)
        missing = {task.state for task in job.tasks} - {pb.TASK_STATE_DONE}
        if missing == {pb.TASK_STATE_CANCELLED} or isinstance(self.last, events.Cancelled):
            return JobCancelled(
                f"job {job.id} was cancelled{so_far}: submit it again to have it drawn",
                job_id=job.id,
                result=result,
            )
        if missing == {pb.TASK_STATE_EXPIRED}:
            return DeadlineExpired(
                f"job {job.id} was not done by its deadline{so_far}: "
                "submit it again with a later one",
                job_id=job.id,
                result=result,
            )
        return JobFailed(
            f"job {job.id} failed{so_far}: {reason.rstrip('.')}. "
            f"`foxden jobs show {job.id}` lists every attempt",
            reason=reason,
            attempts=tuple(
                tried
                for task in job.tasks
                for tried in _task(task).attempts
                if tried.outcome != "finish"
            ),
            job_id=job.id,
            result=result,
        )


def info(job: pb.Job) -> JobInfo:
    return JobInfo(
        id=job.id,
        state=pb.JobState.Name(job.state).removeprefix("JOB_STATE_").lower(),
        count=job.count,
        done=job.done,
        prompt=job.request.prompt,
        model=job.request.model,
        seed=job.request.seed if job.request.HasField("seed") else None,
        priority=pb.Priority.Name(job.priority).removeprefix("PRIORITY_").lower(),
        member=job.member,
        created=moment(job.created_ms),
        ended=moment(job.ended_ms),
        deadline=moment(job.deadline_ms),
        cancel_requested=job.cancel_requested,
        reason=job.reason,
        tasks=tuple(_task(task) for task in job.tasks),
    )


def _task(task: pb.Task) -> Task:
    return Task(
        index=task.index,
        state=pb.TaskState.Name(task.state).removeprefix("TASK_STATE_").lower(),
        card=task.card,
        reason=task.reason,
        failures=task.failures,
        losses=task.losses,
        releases=task.releases,
        attempts=tuple(
            Attempt(
                task.index,
                tried.card,
                tried.outcome,
                tried.reason,
                moment(tried.started_ms),
                moment(tried.ended_ms),
            )
            for tried in task.attempts
        ),
    )
