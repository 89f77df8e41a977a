"""Rows to what callers see, and the few selects that several use cases share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, and_, bindparam, select, tuple_

from foxden_broker.store.base import Attempt, Checkpoint, Job, Picture, Task
from foxden_broker.store.database import rows_of
from foxden_broker.store.schema import attempt, job, picture, task
from foxden_proto.states import JobState, TaskState

# Databases limit the parameters of one statement (SQLite to 32,766).
MOST_AT_ONCE = 5_000

Key = tuple[str, int]  # job_id, index

JOB_COLUMNS = (
    job.c.account_id,
    job.c.job_id,
    job.c.member,
    job.c.request,
    job.c.model_sha256,
    job.c.count,
    job.c.priority,
    job.c.state,
    job.c.revision,
    job.c.created_ms,
    job.c.ended_ms,
    job.c.deadline_ms,
    job.c.cancel_requested,
    job.c.reason,
    job.c.done,
)

CHECKPOINT_COLUMNS = (
    task.c.checkpoint_sha256,
    task.c.checkpoint_size,
    task.c.checkpoint_step,
)

TASK_COLUMNS = (
    task.c.job_id,
    task.c.idx,
    task.c.state,
    task.c.lease_no,
    task.c.card_id,
    task.c.card_name,
    task.c.agent_id,
    task.c.reason,
    task.c.failures,
    task.c.losses,
    task.c.releases,
    task.c.revision,
    task.c.leased_ms,
    task.c.started_ms,
    task.c.ended_ms,
    *CHECKPOINT_COLUMNS,
)

_PICTURE_COLUMNS = (picture.c.sha256, picture.c.size, picture.c.meta)

_TASK_STATES = {state.value: state for state in TaskState}
_JOB_STATES = {state.value: state for state in JobState}


def as_job(row: Sequence[Any], tasks: tuple[Task, ...] = ()) -> Job:
    account_id, job_id, member, request, model, count, priority, state, *rest = row
    revision, created, ended, deadline, cancel_requested, reason, done = rest
    return Job(
        account_id,
        job_id,
        member,
        bytes(request),
        model,
        count,
        priority,
        _JOB_STATES[state],
        revision,
        created,
        ended,
        deadline,
        bool(cancel_requested),
        reason,
        done,
        tasks,
    )


def as_task(row: Sequence[Any]) -> Task:
    job_id, index, state, *rest, sha256, size, step = row
    plain = Task(job_id, index, _TASK_STATES[state], *rest)
    return replace(plain, checkpoint=Checkpoint(sha256, size, step)) if sha256 else plain


def _as_pictured(row: Sequence[Any], attempts: tuple[Attempt, ...]) -> Task:
    plain = as_task(row[: len(TASK_COLUMNS)])
    sha256, size, meta = row[len(TASK_COLUMNS) :]
    if sha256 is None and not attempts:
        return plain
    kept = None if sha256 is None else Picture(sha256, size, bytes(meta))
    return replace(plain, picture=kept, attempts=attempts)


_JOB = select(*JOB_COLUMNS).where(
    job.c.account_id == bindparam("account"), job.c.job_id == bindparam("job")
)


def read_job(conn: Connection, account_id: str, job_id: str) -> Job | None:
    """A job without its tasks."""
    rows = rows_of(conn, _JOB, {"account": account_id, "job": job_id})
    return as_job(rows[0]) if rows else None


_TASKS = (
    select(*TASK_COLUMNS, *_PICTURE_COLUMNS)
    .outerjoin_from(
        task,
        picture,
        and_(
            picture.c.account_id == task.c.account_id,
            picture.c.job_id == task.c.job_id,
            picture.c.idx == task.c.idx,
        ),
    )
    .where(task.c.account_id == bindparam("account"), task.c.job_id == bindparam("job"))
)
_ALL_TASKS = _TASKS.order_by(task.c.idx)
_CHANGED_TASKS = _TASKS.where(task.c.revision > bindparam("after")).order_by(
    task.c.revision, task.c.idx
)


def read_tasks(
    conn: Connection, account_id: str, job_id: str, *, attempts: bool = False
) -> tuple[Task, ...]:
    """A job's tasks with their pictures, by index."""
    where = {"account": account_id, "job": job_id}
    rows = rows_of(conn, _ALL_TASKS, where)
    tried = _attempts_of_job(conn, account_id, job_id) if attempts else {}
    return tuple(_as_pictured(row, tried.get(row[1], ())) for row in rows)


def read_changed(
    conn: Connection, account_id: str, job_id: str, after_revision: int
) -> tuple[Task, ...]:
    """Its tasks stamped later than the revision, in the order of their stamps."""
    where = {"account": account_id, "job": job_id, "after": after_revision}
    return tuple(_as_pictured(row, ()) for row in rows_of(conn, _CHANGED_TASKS, where))


_TASK = select(*TASK_COLUMNS).where(task.c.account_id == bindparam("account"))
_ONE_TASK = _TASK.where(task.c.job_id == bindparam("job"), task.c.idx == bindparam("idx"))
_MANY_TASKS = _TASK.where(tuple_(task.c.job_id, task.c.idx).in_(bindparam("keys", expanding=True)))


def pick_task(conn: Connection, account_id: str, job_id: str, index: int) -> Task | None:
    """One task, without picture and attempts."""
    where = {"account": account_id, "job": job_id, "idx": index}
    rows = rows_of(conn, _ONE_TASK, where)
    return as_task(rows[0]) if rows else None


def pick_tasks(conn: Connection, account_id: str, keys: Iterable[Key]) -> dict[Key, Task]:
    """The named tasks, without pictures and attempts."""
    wanted = sorted(set(keys))
    if len(wanted) == 1:
        one = pick_task(conn, account_id, *wanted[0])
        return {} if one is None else {wanted[0]: one}
    found: dict[Key, Task] = {}
    for at in range(0, len(wanted), MOST_AT_ONCE):
        where = {"account": account_id, "keys": wanted[at : at + MOST_AT_ONCE]}
        for row in conn.execute(_MANY_TASKS, where):
            found[row[0], row[1]] = as_task(row)
    return found


_ATTEMPTS = (
    select(
        attempt.c.idx,
        attempt.c.lease_no,
        attempt.c.card_id,
        attempt.c.card_name,
        attempt.c.outcome,
        attempt.c.reason,
        attempt.c.started_ms,
        attempt.c.ended_ms,
    )
    .where(attempt.c.account_id == bindparam("account"), attempt.c.job_id == bindparam("job"))
    .order_by(attempt.c.idx, attempt.c.lease_no)
)
_ATTEMPTS_OF_TASK = _ATTEMPTS.where(attempt.c.idx == bindparam("idx"))


def read_attempts(
    conn: Connection, account_id: str, job_id: str, index: int
) -> tuple[Attempt, ...]:
    where = {"account": account_id, "job": job_id, "idx": index}
    return tuple(Attempt(*row[1:]) for row in conn.execute(_ATTEMPTS_OF_TASK, where))


def _attempts_of_job(
    conn: Connection, account_id: str, job_id: str
) -> dict[int, tuple[Attempt, ...]]:
    found: defaultdict[int, list[Attempt]] = defaultdict(list)
    for row in conn.execute(_ATTEMPTS, {"account": account_id, "job": job_id}):
        found[row[0]].append(Attempt(*row[1:]))
    return {index: tuple(tried) for index, tried in found.items()}
