"""Jobs as the changes that were told here have left them, without a query."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from foxden_broker.store.base import Change, Job, Task
from foxden_proto.states import JOB_ENDED, JobState

MOST_JOBS = 5_000  # whose first watcher need not ask the store
MOST_TASKS = 16  # of one such job that have changed


@dataclass
class _Recent:
    job: Job  # without tasks
    changed: dict[int, Task] = field(default_factory=dict)  # since it was submitted, by index


class RecentJobs:
    """The newest jobs as they are now, for the watcher who comes right after the submit.

    A job is taken in where it is taken into the pool: from there on every change of it is told
    here. One whose changes cannot be followed is forgotten, and so is one that has ended:
    their watchers ask the store.
    """

    def __init__(self, most: int = MOST_JOBS) -> None:
        self._most = most
        self._jobs: OrderedDict[str, _Recent] = OrderedDict()

    def add(self, job: Job) -> None:
        self._jobs[job.job_id] = _Recent(replace(job, tasks=()))
        if len(self._jobs) > self._most:
            self._jobs.popitem(last=False)

    def changed(self, job_id: str, change: Change | None) -> None:
        recent = self._jobs.get(job_id)
        if recent is None:
            return
        known = None if change is None else applied(recent.job, [change])
        if known is recent.job:
            return  # told already
        full = len(recent.changed) >= MOST_TASKS
        if known is None or change is None or known.state in JOB_ENDED or full:
            del self._jobs[job_id]
            return
        recent.job = known
        recent.changed[change.task.index] = change.task

    def clear(self) -> None:
        self._jobs.clear()

    def news(self, job_id: str, cursor: int) -> tuple[Job, Sequence[Task]] | None:
        """The job and its tasks that changed after `cursor`; None where the store has to say it.
        Those that wait since the submit are left out: there is nothing to tell of them."""
        recent = self._jobs.get(job_id)
        if recent is None:
            return None
        tasks = [task for task in recent.changed.values() if task.revision > cursor]
        return recent.job, sorted(tasks, key=lambda task: task.revision)


def applied(job: Job, changes: Sequence[Change]) -> Job | None:
    """The job after these changes; None where they do not follow on it, or do not say enough."""
    revision, state = job.revision, job.state
    for change in changes:
        if change.revision <= revision:
            continue  # it was in what the store told
        if change.revision != revision + 1:
            return None
        revision, state = change.revision, change.job_state
    if revision == job.revision:
        return job
    if state in JOB_ENDED and state is not JobState.DONE:
        return None  # the reason is in the store alone
    return replace(job, revision=revision, state=state)
