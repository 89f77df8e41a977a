"""Jobs as clients see them: submit, read, list, cancel, and what ends before it was leased."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Insert,
    Integer,
    bindparam,
    delete,
    func,
    insert,
    literal,
    select,
    tuple_,
    update,
)

from foxden_broker.store import history, uploads
from foxden_broker.store.base import (
    Cancelled,
    Change,
    Job,
    JobPage,
    NewJob,
    Submitted,
    Task,
)
from foxden_broker.store.change_rows import Move
from foxden_broker.store.changes import apply, lock_jobs, write_heads
from foxden_broker.store.database import execute_all, rows_of, upsert
from foxden_broker.store.rows import (
    CHECKPOINT_COLUMNS,
    JOB_COLUMNS,
    as_job,
    pick_tasks,
    read_changed,
    read_job,
    read_tasks,
)
from foxden_broker.store.schema import job, job_history, job_key, task
from foxden_proto.states import JOB_ENDED, TASK_HELD, JobState, TaskEvent, TaskState

MOST_COUNTED = 10_000  # a page's total says "at least so many" beyond it, per table
FIRST_REVISION = 1  # so that "everything after 0" is everything
_END_QUEUED = frozenset({TaskEvent.EXPIRE, TaskEvent.GIVE_UP, TaskEvent.CANCEL})


def submit(conn: Connection, new: NewJob, key_window_ms: int) -> Submitted:
    if new.idempotency_key and not _claim(conn, new, new.created_ms - key_window_ms):
        used = job_key.c
        job_id, digest = conn.execute(
            select(used.job_id, used.request_digest).where(
                used.account_id == new.account_id,
                used.member == new.member,
                used.key == new.idempotency_key,
            )
        ).one()
        earlier = get(conn, new.account_id, job_id)
        if earlier is not None:
            same = bytes(digest) == new.request_digest
            return Submitted(earlier, repeated=same, conflict=not same)
        # The job was forgotten before its key: only with a history shorter than the window.
        _claim(conn, new, new.created_ms)
    if new.uploads:
        uploads.touch(conn, new.account_id, new.uploads, new.created_ms)
    made = stored(new)
    _insert(conn, made)
    return Submitted(made)


def stored(new: NewJob) -> Job:
    """The job as it is stored, with its tasks. Pure."""
    return Job(
        account_id=new.account_id,
        job_id=new.job_id,
        member=new.member,
        request=new.request,
        model_sha256=new.model_sha256,
        count=new.count,
        priority=new.priority,
        state=JobState.QUEUED,
        revision=FIRST_REVISION,
        created_ms=new.created_ms,
        ended_ms=0,
        deadline_ms=new.deadline_ms,
        cancel_requested=False,
        reason="",
        done=0,
        tasks=tuple(fresh(new.job_id, index) for index in range(new.count)),
    )


def was_submitted(conn: Connection, new: NewJob, submitted: Submitted) -> bool:
    """Whether the caller's own job was committed. An insert of the same key waits for a
    transaction that is still being committed; a look would not."""
    if submitted.job.job_id != new.job_id:
        return False
    statement = upsert(conn.dialect.name, job).on_conflict_do_nothing()
    row = _job_row(submitted.job)
    if conn.execute(statement.returning(job.c.job_id), row).first() is None:
        return True
    mine = (job.c.account_id == new.account_id, job.c.job_id == new.job_id)
    conn.execute(delete(job).where(*mine))
    return False


def submitted(conn: Connection, new: NewJob, key_window_ms: int) -> Submitted | None:
    used = job_key.c
    row = conn.execute(
        select(used.job_id, used.request_digest).where(
            used.account_id == new.account_id,
            used.member == new.member,
            used.key == new.idempotency_key,
            used.created_ms > new.created_ms - key_window_ms,
        )
    ).first()
    earlier = None if row is None else get(conn, new.account_id, row.job_id)
    if row is None or earlier is None:
        return None
    same = bytes(row.request_digest) == new.request_digest
    return Submitted(earlier, repeated=same, conflict=not same)


@cache
def claiming(dialect: str) -> Any:
    """Take a key if it is free or too old. One statement, so that of two callers one wins."""
    statement = upsert(dialect, job_key)
    fresh = statement.excluded
    return statement.on_conflict_do_update(
        index_elements=[job_key.c.account_id, job_key.c.member, job_key.c.key],
        set_={
            "job_id": fresh.job_id,
            "request_digest": fresh.request_digest,
            "created_ms": fresh.created_ms,
        },
        where=job_key.c.created_ms <= bindparam("too_old_ms", type_=BigInteger),
    )


@cache
def _claiming(dialect: str) -> Any:
    return claiming(dialect).returning(job_key.c.job_id)


def _claim(conn: Connection, new: NewJob, too_old_ms: int) -> bool:
    return bool(rows_of(conn, _claiming(conn.dialect.name), claim_row(new, too_old_ms)))


def claim_row(new: NewJob, too_old_ms: int) -> dict[str, Any]:
    return {
        "account_id": new.account_id,
        "member": new.member,
        "key": new.idempotency_key,
        "job_id": new.job_id,
        "request_digest": new.request_digest,
        "created_ms": new.created_ms,
        "too_old_ms": too_old_ms,
    }


def fresh(job_id: str, index: int) -> Task:
    return Task(
        job_id=job_id,
        index=index,
        state=TaskState.QUEUED,
        lease_no=0,
        card_id="",
        card_name="",
        agent_id="",
        reason="",
        failures=0,
        losses=0,
        releases=0,
        revision=FIRST_REVISION,
        leased_ms=0,
        started_ms=0,
        ended_ms=0,
    )


def _inserting_tasks() -> Insert:
    """All tasks of a job with one statement that is the same, and compiled once, for any count."""
    numbers = select(literal(0, Integer).label("idx")).cte("numbers", recursive=True)
    numbers = numbers.union_all(
        select((numbers.c.idx + 1).label("idx")).where(
            numbers.c.idx + 1 < bindparam("number", type_=Integer)
        )
    )
    values = [bindparam(f"new_{name}", type_=task.c[name].type) for name in _FRESH]
    return insert(task).from_select([*_FRESH, "idx"], select(*values, numbers.c.idx))


# What a new task has no default for.
_FRESH = [c.name for c in task.c if c.name != "idx" and c not in set(CHECKPOINT_COLUMNS)]
_INSERT_JOB = insert(job)
_INSERT_TASKS = _inserting_tasks()


def _insert(conn: Connection, stored: Job) -> None:
    statements, rows = insertion(stored)
    execute_all(conn, [(one, [row]) for one, row in zip(statements, rows, strict=True)])


def insertion(stored: Job) -> tuple[tuple[Any, ...], list[dict[str, Any]]]:
    """The statements for a new job and for all its tasks, with the values of each."""
    first = stored.tasks[0]
    own = {"account_id": stored.account_id, "state": first.state.value}
    values = own | {name: getattr(first, name) for name in _FRESH if name not in own}
    tasks = {f"new_{name}": value for name, value in values.items()} | {"number": stored.count}
    return (_INSERT_JOB, _INSERT_TASKS), [_job_row(stored), tasks]


def _job_row(stored: Job) -> dict[str, Any]:
    return {c.name: getattr(stored, c.name) for c in JOB_COLUMNS} | {"state": stored.state.value}


def get(conn: Connection, account_id: str, job_id: str, attempts: bool = False) -> Job | None:
    found = read_job(conn, account_id, job_id)
    if found is None:
        return history.read(conn, account_id, job_id, attempts=attempts)
    return _with_tasks(found, read_tasks(conn, account_id, job_id, attempts=attempts))


def _with_tasks(found: Job, tasks: tuple[Task, ...]) -> Job:
    return replace(found, tasks=tasks)


def changed_tasks(
    conn: Connection, account_id: str, job_id: str, after_revision: int
) -> tuple[Job, tuple[Task, ...]] | None:
    found = read_job(conn, account_id, job_id)
    if found is None:
        return _changed_in_history(conn, account_id, job_id, after_revision)
    if found.revision <= after_revision:
        return found, ()
    return found, read_changed(conn, account_id, job_id, after_revision)


def _changed_in_history(
    conn: Connection, account_id: str, job_id: str, after_revision: int
) -> tuple[Job, tuple[Task, ...]] | None:
    found = history.read(conn, account_id, job_id)
    if found is None:
        return None
    later = [one for one in found.tasks if one.revision > after_revision]
    later.sort(key=lambda one: (one.revision, one.index))
    return _with_tasks(found, ()), tuple(later)


def listing(
    conn: Connection,
    account_id: str,
    member: str,
    state: JobState | None,
    before: str,
    limit: int,
) -> JobPage:
    """One page, newest first, of hot and archived jobs. Raises ValueError for a cursor that is
    none of ours."""
    start = _unpack(before) if before else None
    rows: list[Any] = []
    total = 0
    for table, columns in ((job, JOB_COLUMNS), (job_history, history.HISTORY_COLUMNS)):
        wanted = [table.c.account_id == account_id]
        if member:
            wanted.append(table.c.member == member)
        if state is not None:
            wanted.append(table.c.state == state.value)
        some = select(literal(1)).select_from(table).where(*wanted).limit(MOST_COUNTED)
        total += conn.execute(select(func.count()).select_from(some.subquery())).scalar_one()
        query = select(*columns).where(*wanted)
        if start is not None:
            query = query.where(tuple_(table.c.created_ms, table.c.job_id) < tuple_(*start))
        newest = query.order_by(table.c.created_ms.desc(), table.c.job_id.desc())
        rows += conn.execute(newest.limit(limit + 1)).all()
    rows.sort(key=lambda row: (row.created_ms, row.job_id), reverse=True)
    found = tuple(as_job(row) for row in rows[:limit])
    more = len(rows) > limit and found
    return JobPage(found, _pack(found[-1]) if more else "", total)


def _pack(last: Job) -> str:
    return base64.urlsafe_b64encode(f"{last.created_ms}:{last.job_id}".encode()).decode()


def _unpack(before: str) -> tuple[int, str]:
    try:
        created_ms, _, job_id = base64.urlsafe_b64decode(before).decode().partition(":")
        return min(int(created_ms), 2**63 - 1), job_id  # what the column can hold
    except (binascii.Error, ValueError):
        raise ValueError(
            "This page token was not given out by the broker; start from the first page."
        ) from None


def cancel(
    conn: Connection, account_id: str, job_id: str, reason: str, now_ms: int
) -> Cancelled | None:
    head = lock_jobs(conn, account_id, [job_id]).get(job_id)
    if head is None:
        archived = history.read(conn, account_id, job_id)
        return None if archived is None else Cancelled(archived, (), ())
    changes: tuple[Change, ...] = ()
    running: tuple[Task, ...] = ()
    if head.state not in JOB_ENDED:
        tasks = read_tasks(conn, account_id, job_id)
        running = tuple(one for one in tasks if one.state in TASK_HELD)
        if not head.cancel_requested:
            head.cancel_requested, head.reason = True, reason
        moves = [
            Move(one, TaskEvent.CANCEL, reason) for one in tasks if one.state is TaskState.QUEUED
        ]
        changes = apply(conn, account_id, {job_id: head}, moves, now_ms)
        if not moves:
            write_heads(conn, account_id, [head])
    after = get(conn, account_id, job_id)
    assert after is not None
    return Cancelled(after, changes, running)


def resolve(
    conn: Connection, account_id: str, job_id: str, request: bytes, model_sha256: str
) -> bool:
    statement = (
        update(job)
        .where(
            job.c.account_id == account_id,
            job.c.job_id == job_id,
            job.c.model_sha256 == "",
        )
        .values(request=request, model_sha256=model_sha256)
    )
    return conn.execute(statement).rowcount == 1


def was_resolved(
    conn: Connection, account_id: str, job_id: str, request: bytes, model_sha256: str
) -> bool:
    lock_jobs(conn, account_id, [job_id])  # waits for one that is still being committed
    found = read_job(conn, account_id, job_id)
    return found is not None and (found.request, found.model_sha256) == (request, model_sha256)


def end_queued(
    conn: Connection,
    account_id: str,
    keys: Sequence[tuple[str, int]],
    event: TaskEvent,
    reason: str,
    now_ms: int,
) -> tuple[Change, ...]:
    if event not in _END_QUEUED:
        raise ValueError(f"end_queued can't {event.value!r}: use expire, give_up or cancel.")
    heads = lock_jobs(conn, account_id, (job_id for job_id, _ in keys))
    tasks = pick_tasks(conn, account_id, keys)
    moves = [
        Move(tasks[key], event, reason)
        for key in dict.fromkeys(keys)
        if key in tasks and tasks[key].state is TaskState.QUEUED
    ]
    return apply(conn, account_id, heads, moves, now_ms)
