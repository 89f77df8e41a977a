"""What is forgotten in time: pictures, uploads, idempotency keys.

Every call takes a few rows, so that none holds its locks for long; the caller asks again while
there is more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, delete, func, select, tuple_, update

from foxden_broker.store.rows import MOST_AT_ONCE
from foxden_broker.store.schema import job, job_history, job_key, picture, task, upload
from foxden_proto.states import JOB_ENDED, TASK_ENDED, JobState, TaskState

_OPEN_TASKS = sorted(state.value for state in set(TaskState) - TASK_ENDED)
_OPEN_JOBS = sorted(state.value for state in set(JobState) - JOB_ENDED)


def results(
    conn: Connection, account_id: str, ended_before_ms: int, most_bytes: int, limit: int
) -> tuple[str, ...]:
    freed = _pictures(conn, account_id, ended_before_ms, most_bytes, limit)
    freed |= _uploads(conn, account_id, ended_before_ms, limit)
    return tuple(sorted(freed - referred(conn, account_id, freed)))


def _pictures(
    conn: Connection, account_id: str, ended_before_ms: int, most_bytes: int, limit: int
) -> set[str]:
    """Forget the pictures of the oldest jobs in history: past their time, or beyond the size."""
    h = job_history.c
    oldest = (
        select(h.job_id, h.ended_ms, h.result_bytes)
        .where(h.account_id == account_id, h.result_bytes > 0)
        .order_by(h.ended_ms)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    over = _kept_bytes(conn, account_id) - most_bytes if most_bytes else 0
    gone = []
    for job_id, ended_ms, size in conn.execute(oldest):
        if ended_ms >= ended_before_ms and over <= 0:
            break
        gone.append(job_id)
        over -= size
    if not gone:
        return set()
    theirs = (picture.c.account_id == account_id, picture.c.job_id.in_(gone))
    freed = set(conn.scalars(select(picture.c.sha256).where(*theirs)))
    conn.execute(delete(picture).where(*theirs))
    conn.execute(
        update(job_history)
        .where(h.account_id == account_id, h.job_id.in_(gone))
        .values(result_bytes=0)
    )
    return freed


def _kept_bytes(conn: Connection, account_id: str) -> int:
    """Of jobs in history, and uploads. What ended a moment ago is not in it yet."""
    sums = (
        select(func.coalesce(func.sum(size), 0)).where(of == account_id)
        for size, of in (
            (job_history.c.result_bytes, job_history.c.account_id),
            (upload.c.size, upload.c.account_id),
        )
    )
    return sum(int(conn.execute(one).scalar_one()) for one in sums)


def _uploads(conn: Connection, account_id: str, before_ms: int, limit: int) -> set[str]:
    """An upload that a job used is as young as that job, and no younger than an open one."""
    u = upload.c
    for state in _OPEN_JOBS:
        oldest_open = conn.execute(
            select(func.min(job.c.created_ms)).where(
                job.c.account_id == account_id, job.c.state == state
            )
        ).scalar()
        before_ms = min(before_ms, oldest_open) if oldest_open is not None else before_ms
    old = conn.execute(
        select(u.upload_id, u.sha256)
        .where(u.account_id == account_id, u.created_ms < before_ms, u.used_ms < before_ms)
        .order_by(u.created_ms)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    if old:
        ids = [upload_id for upload_id, _ in old]
        conn.execute(delete(upload).where(u.account_id == account_id, u.upload_id.in_(ids)))
    return {sha256 for _, sha256 in old}


def referred(conn: Connection, account_id: str, sha256s: Iterable[str]) -> frozenset[str]:
    wanted = sorted(set(sha256s))
    found: set[str] = set()
    for at in range(0, len(wanted), MOST_AT_ONCE):
        some = wanted[at : at + MOST_AT_ONCE]
        for table in (picture, upload):
            query = select(table.c.sha256).where(
                table.c.account_id == account_id, table.c.sha256.in_(some)
            )
            found.update(conn.scalars(query))
        # An older broker ends a task and leaves its checkpoint there.
        query = select(task.c.checkpoint_sha256).where(
            task.c.account_id == account_id,
            task.c.checkpoint_sha256 != "",
            task.c.checkpoint_sha256.in_(some),
            task.c.state.in_(_OPEN_TASKS),
        )
        found.update(conn.scalars(query))
    return frozenset(found)


def keys(conn: Connection, account_id: str, used_before_ms: int, limit: int) -> int:
    k = job_key.c
    old: Sequence[tuple[str, str]] = [
        (member, key)
        for member, key in conn.execute(
            select(k.member, k.key)
            .where(k.account_id == account_id, k.created_ms < used_before_ms)
            .order_by(k.created_ms)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
    ]
    if not old:
        return 0
    these = tuple_(k.member, k.key).in_(old)
    # Once more with its time: a key may have been claimed anew by now.
    mine = (k.account_id == account_id, k.created_ms < used_before_ms, these)
    return conn.execute(delete(job_key).where(*mine)).rowcount
