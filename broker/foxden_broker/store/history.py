"""Jobs that ended a while ago: one row each, out of the way of the hot tables.

A row holds the job's columns, for listings, and its tasks and attempts as compressed JSON. The
pictures stay in their own table, where a sweep finds them by their time. What the job used is
added to `usage` in the transaction that moves it.
"""

from __future__ import annotations

import json
import zlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import BindParameter, Connection, and_, bindparam, delete, func, insert, select

from foxden_broker.store.base import Attempt, Job, Picture, Task
from foxden_broker.store.database import execute_all
from foxden_broker.store.rows import JOB_COLUMNS, TASK_COLUMNS, as_job, as_task
from foxden_broker.store.schema import attempt, job, job_history, picture, task
from foxden_broker.store.usage import add_attempts
from foxden_proto.states import JOB_ENDED, TaskEvent, TaskState, sources

HISTORY_COLUMNS = tuple(job_history.c[column.name] for column in JOB_COLUMNS)
MOST_DETAILS_BYTES = 64 * 1024 * 1024  # unpacked; a thousand images with nine tries are 3 MB

_ENDED = sorted(state.value for state in JOB_ENDED)
_TASK_NAMES = [column.name for column in TASK_COLUMNS if column.name != "job_id"]
# What an older version did not write has no value of its own in what it packed.
_LATER = {"checkpoint_sha256": "", "checkpoint_size": 0, "checkpoint_step": 0}
_TASK_VALUES = [(column.name, _LATER.get(column.name)) for column in TASK_COLUMNS]
_ATTEMPT_NAMES = [c.name for c in attempt.c if c.name not in ("account_id", "job_id", "counted")]


def archive(conn: Connection, account_id: str, ended_before_ms: int, limit: int) -> int:
    rows = conn.execute(_MAY_GO, {"account": account_id, "before": ended_before_ms, "most": limit})
    jobs = {row.job_id: row for row in rows}
    if not jobs:
        return 0
    these = {"account": account_id, "jobs": list(jobs)}
    tasks: defaultdict[str, list[Any]] = defaultdict(list)
    for row in conn.execute(_THEIR_TASKS, these):
        tasks[row.job_id].append([getattr(row, name) for name in _TASK_NAMES])
    attempts: defaultdict[str, list[Any]] = defaultdict(list)
    uncounted = []
    for row in conn.execute(_THEIR_ATTEMPTS, these):
        attempts[row.job_id].append([getattr(row, name) for name in _ATTEMPT_NAMES])
        if not row.counted:
            uncounted.append((jobs[row.job_id].member, row))
    kept = {row.job_id: row.bytes for row in conn.execute(_THEIR_BYTES, these)}
    moved = [
        {column.name: getattr(row, column.name) for column in JOB_COLUMNS}
        | {
            "result_bytes": int(kept.get(job_id, 0)),
            "details": _pack(tasks[job_id], attempts[job_id]),
        }
        for job_id, row in jobs.items()
    ]
    execute_all(conn, [(_INSERT, moved)])
    add_attempts(conn, account_id, uncounted)
    for statement in _DELETES:
        conn.execute(statement, these)
    return len(moved)


def read(conn: Connection, account_id: str, job_id: str, *, attempts: bool = False) -> Job | None:
    """An archived job with its tasks, and their pictures where these are still kept."""
    row = conn.execute(_ONE, {"account": account_id, "job": job_id}).first()
    if row is None:
        return None
    tasks, tried = unpack(job_id, row.details)
    pictures = {
        index: Picture(sha256, size, bytes(meta))
        for index, sha256, size, meta in conn.execute(
            _PICTURES, {"account": account_id, "job": job_id}
        )
    }
    whole = tuple(
        replace(
            one,
            picture=pictures.get(one.index),
            attempts=tuple(tried[one.index]) if attempts else (),
        )
        for one in tasks
    )
    return replace(as_job(row[: len(HISTORY_COLUMNS)]), tasks=whole)


def bring_back(conn: Connection, account_id: str, job_id: str) -> bool:
    """Move a job with something to retry back to the hot tables. What it used is counted."""
    row = conn.execute(_LOCK_ONE, {"account": account_id, "job": job_id}).first()
    if row is None:
        return False
    kept = json.loads(_inflate(row.details))
    tasks = [dict(zip(kept["task"], values, strict=True)) for values in kept["tasks"]]
    if not any(TaskState(one["state"]) in sources(TaskEvent.RETRY) for one in tasks):
        return False
    key = {"account_id": account_id, "job_id": job_id}
    tries = [dict(zip(kept["attempt"], values, strict=True)) for values in kept["attempts"]]
    execute_all(
        conn,
        [
            (_JOB_BACK, [{c.name: getattr(row, c.name) for c in JOB_COLUMNS}]),
            (_TASK_BACK, [key | _LATER | one for one in tasks]),
            (_ATTEMPT_BACK, [key | one | {"counted": True} for one in tries]),
            (_FORGET_ONE, [{"account": account_id, "job": job_id}]),
        ],
    )
    return True


def forget(conn: Connection, account_id: str, ended_before_ms: int, limit: int) -> int:
    """Delete the oldest rows that keep no picture any more."""
    h = job_history.c
    oldest = (
        select(h.job_id)
        .where(h.account_id == account_id, h.ended_ms < ended_before_ms, h.result_bytes == 0)
        .order_by(h.ended_ms)
        .limit(limit)
    )
    gone = delete(job_history).where(h.account_id == account_id, h.job_id.in_(oldest))
    return conn.execute(gone).rowcount


def _pack(tasks: Sequence[Any], attempts: Sequence[Any]) -> bytes:
    """With the names of the columns, so that later versions can read it."""
    kept = {"task": _TASK_NAMES, "tasks": tasks, "attempt": _ATTEMPT_NAMES, "attempts": attempts}
    return zlib.compress(json.dumps(kept, separators=(",", ":")).encode(), 1)


def _inflate(details: bytes) -> bytes:
    return zlib.decompressobj().decompress(bytes(details), MOST_DETAILS_BYTES)


def unpack(job_id: str, details: bytes) -> tuple[list[Task], defaultdict[int, list[Attempt]]]:
    """The tasks, and the attempts by index of their task, that a row's `details` hold."""
    kept = json.loads(_inflate(details))
    tasks = []
    for values in kept["tasks"]:
        named: dict[str, Any] = dict(zip(kept["task"], values, strict=True), job_id=job_id)
        tasks.append(as_task([named.get(name, of) for name, of in _TASK_VALUES]))
    tried: defaultdict[int, list[Attempt]] = defaultdict(list)
    for values in kept["attempts"]:
        named = dict(zip(kept["attempt"], values, strict=True))
        tried[named["idx"]].append(Attempt(*(named[name] for name in _ATTEMPT_FIELDS)))
    return tasks, tried


_ATTEMPT_FIELDS = (
    "lease_no",
    "card_id",
    "card_name",
    "outcome",
    "reason",
    "started_ms",
    "ended_ms",
)
_OF_ACCOUNT: BindParameter[str] = bindparam("account")
_MAY_GO = (
    select(*JOB_COLUMNS)
    .where(
        job.c.account_id == _OF_ACCOUNT,
        job.c.ended_ms > 0,
        job.c.ended_ms < bindparam("before"),
        job.c.state.in_(_ENDED),
    )
    .order_by(job.c.ended_ms)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
)
_JOBS: BindParameter[list[str]] = bindparam("jobs", expanding=True)
_THEIR_TASKS = (
    select(*TASK_COLUMNS)
    .where(task.c.account_id == _OF_ACCOUNT, task.c.job_id.in_(_JOBS))
    .order_by(task.c.job_id, task.c.idx)
)
_THEIR_ATTEMPTS = (
    select(attempt)
    .where(attempt.c.account_id == _OF_ACCOUNT, attempt.c.job_id.in_(_JOBS))
    .order_by(attempt.c.job_id, attempt.c.idx, attempt.c.lease_no)
)
_THEIR_BYTES = (
    select(picture.c.job_id, func.sum(picture.c.size).label("bytes"))
    .where(picture.c.account_id == _OF_ACCOUNT, picture.c.job_id.in_(_JOBS))
    .group_by(picture.c.job_id)
)
_DELETES = [
    delete(table).where(table.c.account_id == _OF_ACCOUNT, table.c.job_id.in_(_JOBS))
    for table in (attempt, task, job)
]
_INSERT = insert(job_history)
_HERE = and_(job_history.c.account_id == _OF_ACCOUNT, job_history.c.job_id == bindparam("job"))
_ONE = select(*HISTORY_COLUMNS, job_history.c.details).where(_HERE)
_LOCK_ONE = _ONE.with_for_update()
_FORGET_ONE = delete(job_history).where(_HERE)
_PICTURES = select(picture.c.idx, picture.c.sha256, picture.c.size, picture.c.meta).where(
    picture.c.account_id == _OF_ACCOUNT, picture.c.job_id == bindparam("job")
)
_JOB_BACK = insert(job)
_TASK_BACK = insert(task)
_ATTEMPT_BACK = insert(attempt)
