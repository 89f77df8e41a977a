"""What must hold when all is quiet, whatever happened before (fleet.md §5)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from foxden_broker.retries import MOST_FAILURES, MOST_LOSSES, MOST_TRIES
from foxden_broker.store import jobs as job_rows
from foxden_broker.store.base import Job, Task
from foxden_proto.states import JOB_ENDED, TASK_ENDED, TaskState, job_state
from foxden_proto.v1.generation_pb2 import ImageRequest
from simulated.engine import picture
from simulated.programs import ACCOUNT
from simulated.users import User, Wish


def jobs_of(disk: Any) -> list[Job]:
    ids = [row[0] for row in disk.raw.execute("SELECT job_id FROM job ORDER BY job_id")]
    found = [disk.transact(lambda c, i=i: job_rows.get(c, ACCOUNT, i, True)) for i in ids]
    return [job for job in found if job is not None]


def broken(disk: Any, users: list[User], broker: Any, machines: list[Any]) -> Iterator[str]:
    """Every invariant that does not hold, in words."""
    jobs = {job.job_id: job for job in jobs_of(disk)}
    for job in jobs.values():
        yield from _of_job(job, disk)
    open_attempts = disk.raw.execute(
        "SELECT job_id, idx FROM attempt WHERE outcome = ''"
    ).fetchall()
    if open_attempts:
        yield f"attempts that never ended: {open_attempts}"
    by_prompt: dict[str, list[Job]] = {}
    for job in jobs.values():
        prompt = ImageRequest.FromString(job.request).prompt
        by_prompt.setdefault(prompt, []).append(job)
    for user in users:
        for wish in user.wishes:
            yield from _of_wish(wish, jobs, by_prompt.get(wish.prompt, []))
    account = broker.account
    if account.pool.held or account.pool.jobs:
        jobs_there = [(j.job_id, j.waiting, j.held) for j in account.pool.jobs.values()]
        yield f"the broker still remembers {list(account.pool.held)} and {jobs_there}"
    for machine in machines:
        if machine.driver is not None and machine.driver.link.held:
            yield f"{machine.name} still holds {list(machine.driver.link.held)}"


def _of_job(job: Job, disk: Any) -> Iterator[str]:
    name = f"job {job.job_id}"
    if job.state not in JOB_ENDED:
        states = Counter(task.state.value for task in job.tasks)
        yield f"{name} has not ended: {job.state.value}, {dict(states)}"
    if job.state is not job_state(task.state for task in job.tasks):
        yield f"{name} is {job.state.value}, its images say otherwise"
    if len(job.tasks) != job.count:
        yield f"{name} has {len(job.tasks)} images of {job.count}"
    if job.done != sum(task.state is TaskState.DONE for task in job.tasks):
        yield f"{name} counts {job.done} images as done"
    for task in job.tasks:
        yield from _of_task(name, job, task, disk)


def _of_task(name: str, job: Job, task: Task, disk: Any) -> Iterator[str]:
    name = f"{name}/{task.index}"
    if (task.state is TaskState.DONE) != (task.picture is not None):
        yield f"{name} is {task.state.value} and its picture is {task.picture}"
    if task.state in TASK_ENDED and task.checkpoint is not None:
        yield f"{name} has ended and still has {task.checkpoint}"
    if task.state not in TASK_ENDED:
        yield f"{name} has not ended: {task.state.value}"
    finished = [tried for tried in task.attempts if tried.outcome == "finish"]
    if len(finished) != (task.state is TaskState.DONE):
        yield f"{name} was finished by {len(finished)} attempts"
    if task.picture is not None:
        data = disk.blobs.get(task.picture.sha256)
        request = ImageRequest.FromString(job.request)
        request.seed += task.index
        if data != picture(request):
            yield f"{name} shows something else: {data!r}"
    if task.state is TaskState.FAILED and not _deserved(task):
        yield f"{name} was given up after {task.failures} failures, {task.losses} losses"
    if task.state is TaskState.CANCELLED and not job.cancel_requested:
        yield f"{name} was cancelled, and nobody asked for it"
    if task.state is TaskState.EXPIRED and not job.deadline_ms:
        yield f"{name} expired without a deadline"


def _deserved(task: Task) -> bool:
    """Whether a dead letter had its tries. One that never had a card failed at its model."""
    enough = task.failures >= MOST_FAILURES or task.losses >= MOST_LOSSES
    lost = Counter(tried.outcome for tried in task.attempts)
    tries = task.failures + task.losses
    return enough or tries >= MOST_TRIES or lost["lose"] + 1 >= MOST_LOSSES or not task.lease_no


def _of_wish(wish: Wish, jobs: dict[str, Job], made: list[Job]) -> Iterator[str]:
    name = f"{wish.prompt!r}"
    if len(made) > 1:
        yield f"{name} became {len(made)} jobs"
    if len(wish.job_ids) > 1:
        yield f"{name} was acknowledged as {sorted(wish.job_ids)}"
    for job_id in sorted(wish.job_ids):
        job = jobs.get(job_id)
        if job is None:
            yield f"{name} was acknowledged as {job_id} and is lost"
            continue
        if wish.last and wish.last[-1] != job.state.value:
            yield f"{name} was told as {wish.last[-1]} and is {job.state.value}"
        if len(set(wish.last)) > 1:
            yield f"{name} was told to have ended as {wish.last}"
        if wish.last and wish.last[-1] != "cancelled" and len(wish.pictures) != job.done:
            yield f"{name}: {len(wish.pictures)} pictures were fetched of {job.done}"
        request = ImageRequest.FromString(job.request)
        first = request.seed
        for index, data in wish.pictures.items():
            request.seed = first + index
            if data != picture(request):
                yield f"{name}/{index}: the client got something else: {data!r}"
