"""Images of which the mirror may be wrong: the store is asked, and believed.

A connection to PostgreSQL that breaks during COMMIT leaves open whether the change was kept: an
image may be leased and its card never told, a job stored and not in the pool. What the mirror
believes is then doubted (`Account.doubts`), and settled by the dispatcher before it plans again.
Nothing else hands images out, so that no lease can be on its way while the store is read.
"""

from __future__ import annotations

import logging

from foxden_broker.account import Account
from foxden_broker.pool_parts import Held
from foxden_broker.retries import after_loss
from foxden_broker.store.base import Job
from foxden_proto.states import TASK_HELD, TaskState
from foxden_proto.v1.generation_pb2 import ImageRequest

log = logging.getLogger(__name__)


async def settle(account: Account) -> None:
    """Make the mirror say of each doubted image what the store says. Raises StoreError: what is
    not settled then stays in doubt."""
    by_job: dict[str, list[int]] = {}
    for job_id, index in sorted(account.doubts):
        by_job.setdefault(job_id, []).append(index)
    for job_id, indices in by_job.items():
        before = {index: _mirrored(account, job_id, index) for index in indices}
        job = await account.store.job(account.account_id, job_id)
        for index in indices:
            if _mirrored(account, job_id, index) != before[index]:
                account.wake.set()  # it moved while the store was reading: look again
                continue
            if job is not None and index < len(job.tasks):
                await _believe(account, job, index)
            account.doubts.discard((job_id, index))
        account.changed(job_id)


def _mirrored(account: Account, job_id: str, index: int) -> tuple[bool, list[int]]:
    """Whether the mirror has the image waiting, and the leases it has of it."""
    opened = account.pool.jobs.get(job_id)
    waits = opened is not None and index in opened.waiting
    return waits, [held.lease.lease_no for held in _held(account, job_id, index)]


def _held(account: Account, job_id: str, index: int) -> list[Held]:
    leases = account.pool.held.items()
    return [held for lease, held in leases if (lease.job_id, lease.index) == (job_id, index)]


async def _believe(account: Account, job: Job, index: int) -> None:
    task = job.tasks[index]
    pool = account.pool
    opened = pool.jobs.get(job.job_id)
    if opened is not None and job.model_sha256 and not opened.resolved:
        pool.resolved(opened, ImageRequest.FromString(job.request))
    lives = task.state in TASK_HELD
    for held in _held(account, job.job_id, index):
        if not lives or held.lease != task.lease:
            pool.ended(held.lease, task.state, None, blame=False, checkpoint=task.checkpoint)
    if task.state is TaskState.QUEUED:
        if job.job_id not in pool.jobs:
            pool.add_job(job, range(0))
        pool.requeue(job.job_id, index, checkpoint=task.checkpoint)
        return
    pool.unqueue(job.job_id, index)
    if not lives:
        return
    if (mine := pool.held.get(task.lease)) is not None:
        if task.state is not TaskState.LEASED and not mine.started:
            pool.started(mine)
        return
    # Leased, and nobody was ever told: the answer to the assignment was lost.
    if job.job_id not in pool.jobs:
        pool.add_job(job, range(0))
    why = "the broker did not hear from its store that it was leased"
    change = await account.end_lease(task.lease, after_loss(()), why)
    waits = change is not None and change.task.state is TaskState.QUEUED
    if change is not None and waits and job.job_id not in pool.jobs:
        # Its other images have ended meanwhile, and as none seemed to be left, so has the job here.
        pool.add_job(job, range(0))
        pool.requeue(job.job_id, index, checkpoint=change.task.checkpoint)
