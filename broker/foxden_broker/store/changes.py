"""The one place where a task changes its state and its job follows.

A use case locks the jobs, reads the tasks, says what each becomes (`Move`), and `apply` writes
all of them with a fixed number of statements. Locking the job row first keeps two writers of one
job apart on PostgreSQL (on SQLite there is one writer anyway, and FOR UPDATE is left out); jobs
are locked in the order of their ids, so that two batches can't wait for each other.

The statements are built once, here and in rows.py: building one anew for each call cost more than
running it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import (
    Connection,
    Select,
    bindparam,
    func,
    select,
)

from foxden_broker.store.base import Change, StoreError, Task
from foxden_broker.store.change_rows import (
    JobHead,
    Move,
    attempt_writes,
    head_writes,
    picture_writes,
    task_writes,
)
from foxden_broker.store.database import execute_all, rows_of
from foxden_broker.store.rows import MOST_AT_ONCE, TASK_COLUMNS, as_task
from foxden_broker.store.schema import job, task
from foxden_proto.states import (
    JOB_ENDED,
    TASK,
    TASK_ENDED,
    TASK_HELD,
    JobState,
    TaskEvent,
    TaskState,
    advance,
    job_state,
)

_HEAD = (
    job.c.job_id,
    job.c.state,
    job.c.revision,
    job.c.ended_ms,
    job.c.cancel_requested,
    job.c.reason,
    job.c.done,
    job.c.count,
)
_LOCK = (
    select(*_HEAD)
    .where(job.c.account_id == bindparam("account"))
    .order_by(job.c.job_id)
    .with_for_update()
)
_LOCK_ONE = _LOCK.where(job.c.job_id == bindparam("job"))
_LOCK_MANY = _LOCK.where(job.c.job_id.in_(bindparam("jobs", expanding=True)))
# Job and task in one go. Both are locked: PostgreSQL then reads both anew after it waited.
_LOCK_TASK = (
    select(*_HEAD, *TASK_COLUMNS)
    .join_from(job, task, (task.c.account_id == job.c.account_id) & (task.c.job_id == job.c.job_id))
    .where(
        job.c.account_id == bindparam("account"),
        job.c.job_id == bindparam("job"),
        task.c.account_id == bindparam("account"),
        task.c.idx == bindparam("idx"),
    )
    .with_for_update()
)


def lock_jobs(conn: Connection, account_id: str, job_ids: Iterable[str]) -> dict[str, JobHead]:
    heads: dict[str, JobHead] = {}
    for job_id, state, *rest in _for_jobs(conn, _LOCK_ONE, _LOCK_MANY, account_id, set(job_ids)):
        heads[job_id] = JobHead(job_id, JobState(state), *rest)
    return heads


def lock_task(
    conn: Connection, account_id: str, job_id: str, index: int
) -> tuple[JobHead, Task] | None:
    """A job, locked, and one of its tasks. None: there is no such task."""
    rows = rows_of(conn, _LOCK_TASK, {"account": account_id, "job": job_id, "idx": index})
    if not rows:
        return None
    (row,) = rows
    head_id, state, *rest = row[: len(_HEAD)]
    return JobHead(head_id, JobState(state), *rest), as_task(row[len(_HEAD) :])


def _for_jobs(
    conn: Connection, one: Select[Any], many: Select[Any], account_id: str, job_ids: Collection[str]
) -> Iterator[Sequence[Any]]:
    wanted = sorted(job_ids)
    if len(wanted) == 1:  # the hot case: plain equality costs half of what a list does
        yield from rows_of(conn, one, {"account": account_id, "job": wanted[0]})
        return
    for at in range(0, len(wanted), MOST_AT_ONCE):
        some = wanted[at : at + MOST_AT_ONCE]
        yield from conn.execute(many, {"account": account_id, "jobs": some})


def apply(
    conn: Connection,
    account_id: str,
    heads: dict[str, JobHead],
    moves: Sequence[Move],
    now_ms: int,
) -> tuple[Change, ...]:
    """Write the moves, in order, and what follows from them for their jobs.

    Raises UnknownTransition, before anything is written, where a task's state lacks the event.
    """
    if not moves:
        return ()
    after: list[Task] = []
    for move in moves:
        head = heads[move.task.job_id]
        head.revision += 1
        after.append(moved(move, head.revision, now_ms))
    touched = {move.task.job_id: heads[move.task.job_id] for move in moves}
    _derive(conn, account_id, touched, moves, after, now_ms)
    changed, *_ = execute_all(
        conn,
        [
            task_writes(account_id, moves, after),
            *attempt_writes(account_id, moves, after, now_ms),
            picture_writes(account_id, moves),
            head_writes(account_id, touched.values()),
        ],
    )
    if changed != len(moves):  # can't be while every writer locks the job first
        raise StoreError("A task changed while its job was locked; nothing was stored. Try again.")
    return tuple(
        Change(new, move.event, touched[new.job_id].state, new.revision)
        for move, new in zip(moves, after, strict=True)
    )


def moved(move: Move, revision: int, now_ms: int) -> Task:
    """The task after the move. Pure."""
    old, event = move.task, move.event
    state = advance(TASK, old.state, event)
    changed: dict[str, Any] = {"state": state, "revision": revision, "reason": move.reason}
    if event is TaskEvent.LEASE:
        assert move.to is not None
        changed |= {
            "lease_no": old.lease_no + 1,
            "card_id": move.to.card_id,
            "card_name": move.to.card_name,
            "agent_id": move.to.agent_id,
            "leased_ms": now_ms,
            "started_ms": 0,
        }
    elif event is TaskEvent.START:
        changed["started_ms"] = now_ms
    elif event is TaskEvent.FINISH:
        assert move.picture is not None
        changed["picture"] = move.picture
    elif event is TaskEvent.FAIL or (event is TaskEvent.GIVE_UP and old.state in TASK_HELD):
        changed["failures"] = old.failures + 1
    elif event is TaskEvent.LOSE:
        changed["losses"] = old.losses + 1
    elif event is TaskEvent.RELEASE:
        changed["releases"] = old.releases + 1
    elif event is TaskEvent.RELEASED:
        changed["reason"] = move.reason or old.reason
    elif event is TaskEvent.RETRY:
        changed |= {"failures": 0, "losses": 0, "ended_ms": 0}
    if state in TASK_ENDED:
        changed["ended_ms"] = now_ms
    if state in TASK_ENDED or event is TaskEvent.FAIL or move.forget_checkpoint:
        # What an engine failed on may be at fault itself.
        changed["checkpoint"] = None
    elif (new := move.checkpoint) is not None and new.step > (
        old.checkpoint.step if old.checkpoint else 0
    ):
        changed["checkpoint"] = new
    return replace(old, **changed)


def _derive(
    conn: Connection,
    account_id: str,
    heads: dict[str, JobHead],
    moves: Sequence[Move],
    after: Sequence[Task],
    now_ms: int,
) -> None:
    """Count the tasks of the jobs by state, as they will be, and put into the heads what follows.

    Asked of the database only for jobs that have more tasks than the ones that move.
    """
    by_job: defaultdict[str, list[tuple[TaskState, TaskState]]] = defaultdict(list)
    for move, new in zip(moves, after, strict=True):
        by_job[new.job_id].append((move.task.state, new.state))
    counts = _count(conn, account_id, [j for j, h in heads.items() if len(by_job[j]) < h.count])
    for job_id, steps in by_job.items():
        known = job_id in counts
        for old, new_state in steps:
            counts[job_id][new_state] = counts[job_id].get(new_state, 0) + 1
            if known:
                counts[job_id][old] -= 1
    last_reason = {move.task.job_id: move.reason for move in moves}
    for job_id, head in heads.items():
        settle(head, counts[job_id], last_reason[job_id], now_ms)


def settle(head: JobHead, counts: dict[TaskState, int], last_reason: str, now_ms: int) -> None:
    """Put into the head what follows from the states of its tasks. Pure but for the head."""
    was_ended = head.state in JOB_ENDED
    head.state = job_state({state: n for state, n in counts.items() if n})
    head.done = counts.get(TaskState.DONE, 0)
    if head.state not in JOB_ENDED:
        head.ended_ms = 0
    elif not was_ended:
        head.ended_ms = now_ms
        if head.state is not JobState.DONE and not head.reason:
            head.reason = last_reason


_COUNT = (
    select(task.c.job_id, task.c.state, func.count())
    .where(task.c.account_id == bindparam("account"))
    .group_by(task.c.job_id, task.c.state)
)
_COUNT_ONE = _COUNT.where(task.c.job_id == bindparam("job"))
_COUNT_MANY = _COUNT.where(task.c.job_id.in_(bindparam("jobs", expanding=True)))


def _count(
    conn: Connection, account_id: str, job_ids: Collection[str]
) -> defaultdict[str, dict[TaskState, int]]:
    counts: defaultdict[str, dict[TaskState, int]] = defaultdict(dict)
    for job_id, state, number in _for_jobs(conn, _COUNT_ONE, _COUNT_MANY, account_id, job_ids):
        counts[job_id][TaskState(state)] = number
    return counts


def write_heads(conn: Connection, account_id: str, heads: Iterable[JobHead]) -> None:
    execute_all(conn, [head_writes(account_id, heads)])


def are_there(conn: Connection, account_id: str, changes: Sequence[Change]) -> bool:
    """Whether these changes were committed: their first task is as they left it. It was one
    transaction, so one row tells of all; the lock waits for one that is still being committed.

    A task that moved on since says no: then the guards of the use case give the answer of now.
    """
    if not changes:
        return False
    told = changes[0].task
    found = lock_task(conn, account_id, told.job_id, told.index)
    if found is None:
        return False
    # A checkpoint may have been told since; it is no move.
    plain = replace(told, picture=None, attempts=(), checkpoint=None)
    return replace(found[1], checkpoint=None) == plain
