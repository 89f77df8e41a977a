"""Leases: from the queue to a card and back, each write fenced by state and lease number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import Connection, bindparam, or_, select, update

from foxden_broker.store import history
from foxden_broker.store.base import (
    Assign,
    Change,
    Checkpoint,
    Decide,
    Job,
    Lease,
    Picture,
    Task,
)
from foxden_broker.store.change_rows import JobHead, Move
from foxden_broker.store.changes import apply, lock_jobs, lock_task
from foxden_broker.store.database import execute_all
from foxden_broker.store.replicas import check_epoch
from foxden_broker.store.rows import (
    JOB_COLUMNS,
    TASK_COLUMNS,
    as_job,
    as_task,
    pick_tasks,
    read_attempts,
    read_tasks,
)
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
    sources,
)

_OPEN_JOBS = sorted(state.value for state in set(JobState) - JOB_ENDED)
_OPEN_TASKS = sorted(state.value for state in set(TaskState) - TASK_ENDED)
_END_LEASE = frozenset(
    {
        TaskEvent.REFUSE,
        TaskEvent.LOSE,
        TaskEvent.FAIL,
        TaskEvent.GIVE_UP,
        TaskEvent.RELEASE,
        TaskEvent.RELEASED,
        TaskEvent.CANCEL,
        TaskEvent.EXPIRE,
    }
)


def open_tasks(
    conn: Connection, account_id: str, created_after_ms: int = 0
) -> tuple[tuple[Job, Task], ...]:
    is_open = [job.c.account_id == account_id, job.c.state.in_(_OPEN_JOBS)]
    if created_after_ms:
        is_open.append(job.c.created_ms > created_after_ms)
    jobs = {row.job_id: as_job(row) for row in conn.execute(select(*JOB_COLUMNS).where(*is_open))}
    # The requests are read once per job above, not once per task: a thousand images share one.
    rows = conn.execute(
        select(*TASK_COLUMNS)
        .join_from(
            job, task, (task.c.account_id == job.c.account_id) & (task.c.job_id == job.c.job_id)
        )
        .where(*is_open, task.c.account_id == account_id, task.c.state.in_(_OPEN_TASKS))
        .order_by(job.c.created_ms, job.c.job_id, task.c.idx)
    )
    return tuple((jobs[one.job_id], one) for one in map(as_task, rows))


def assign(
    conn: Connection,
    account_id: str,
    assigns: Sequence[Assign],
    now_ms: int,
    epoch: int | None = None,
) -> tuple[Change, ...]:
    if epoch is not None:
        check_epoch(conn, account_id, epoch)
    wanted: dict[tuple[str, int], Assign] = {}
    for one in assigns:
        wanted.setdefault((one.job_id, one.index), one)
    heads = lock_jobs(conn, account_id, (one.job_id for one in assigns))
    tasks = pick_tasks(conn, account_id, wanted)
    moves = [
        Move(tasks[key], TaskEvent.LEASE, to=one)
        for key, one in wanted.items()
        if key in tasks and tasks[key].state in sources(TaskEvent.LEASE)
    ]
    return apply(conn, account_id, heads, moves, now_ms)


def start(conn: Connection, account_id: str, lease: Lease, now_ms: int) -> Change | None:
    found = _held(conn, account_id, lease)
    if found is None or found[1].state not in sources(TaskEvent.START):
        return None
    head, mine = found
    return _apply_one(conn, account_id, head, Move(mine, TaskEvent.START), now_ms)


def finish(
    conn: Connection, account_id: str, lease: Lease, picture: Picture, now_ms: int
) -> tuple[Change | None, bool]:
    found = _held(conn, account_id, lease)
    if found is None:
        return None, _held_in_history(conn, account_id, lease)
    head, mine = found
    if mine.state is TaskState.DONE:  # this very lease delivered before: its frame was repeated
        return None, True
    if mine.state not in sources(TaskEvent.FINISH):
        return None, False
    move = Move(mine, TaskEvent.FINISH, picture=picture)
    return _apply_one(conn, account_id, head, move, now_ms), True


def end_lease(
    conn: Connection,
    account_id: str,
    lease: Lease,
    event: TaskEvent | Decide,
    reason: str,
    now_ms: int,
    checkpoint: Checkpoint | None = None,
    forget_checkpoint: bool = False,
) -> Change | None:
    """Raises UnknownTransition where `event` decides on one that the task's state lacks, and
    ValueError for an event that ends no lease."""
    found = _held(conn, account_id, lease)
    if found is None or found[1].state not in TASK_HELD:
        return None
    head, mine = found
    if not isinstance(event, TaskEvent):
        tried = read_attempts(conn, account_id, lease.job_id, lease.index)
        event = event(replace(mine, attempts=tried))
    elif mine.state not in sources(event):
        return None
    if event not in _END_LEASE:
        raise ValueError(f"end_lease can't {event.value!r}: that ends no lease.")
    if head.cancel_requested and advance(TASK, mine.state, event) is TaskState.QUEUED:
        event, reason = TaskEvent.CANCEL, reason or head.reason
    move = Move(mine, event, reason, checkpoint=checkpoint, forget_checkpoint=forget_checkpoint)
    return _apply_one(conn, account_id, head, move, now_ms)


_KEEP_CHECKPOINT = (
    update(task)
    .where(
        task.c.account_id == bindparam("at_account"),
        task.c.job_id == bindparam("at_job"),
        task.c.idx == bindparam("at_idx"),
        task.c.lease_no == bindparam("at_lease"),
        task.c.checkpoint_step < bindparam("to_step"),
        or_(
            task.c.state == TaskState.RUNNING.value,
            task.c.state == TaskState.RELEASING.value,
        ),
    )
    .values(
        checkpoint_sha256=bindparam("to_sha256"),
        checkpoint_size=bindparam("to_size"),
        checkpoint_step=bindparam("to_step"),
    )
)


def keep_checkpoints(
    conn: Connection, account_id: str, told: Sequence[tuple[Lease, Checkpoint]]
) -> tuple[Checkpoint, ...]:
    """Without the jobs' locks: the one guarded write of a row that is no change of state. Whoever
    moves the task meanwhile has it locked, and this looks at it again then."""
    newest: dict[tuple[str, int], tuple[Lease, Checkpoint]] = {}
    for lease, one in told:
        before = newest.get((lease.job_id, lease.index))
        if before is None or (before[0].lease_no, before[1].step) < (lease.lease_no, one.step):
            newest[lease.job_id, lease.index] = (lease, one)
    before_them = pick_tasks(conn, account_id, newest)
    replaced = []
    for key in sorted(newest):  # in one order, against deadlocks
        lease, one = newest[key]
        row = {
            "at_account": account_id,
            "at_job": lease.job_id,
            "at_idx": lease.index,
            "at_lease": lease.lease_no,
            "to_sha256": one.sha256,
            "to_size": one.size,
            "to_step": one.step,
        }
        was = before_them[key].checkpoint if key in before_them else None
        if execute_all(conn, [(_KEEP_CHECKPOINT, [row])])[0] and was is not None:
            replaced.append(was)
    return tuple(replaced)


def retry(
    conn: Connection, account_id: str, job_id: str, now_ms: int, epoch: int | None = None
) -> tuple[Change, ...]:
    """While a cancel is still being carried out nothing is retried: the tasks that a card holds
    must not find their way back to the queue."""
    if epoch is not None:
        check_epoch(conn, account_id, epoch)
    head = lock_jobs(conn, account_id, [job_id]).get(job_id)
    if head is None and history.bring_back(conn, account_id, job_id):
        head = lock_jobs(conn, account_id, [job_id]).get(job_id)
    if head is None or (head.cancel_requested and head.state not in JOB_ENDED):
        return ()
    moves = [
        Move(one, TaskEvent.RETRY)
        for one in read_tasks(conn, account_id, job_id)
        if one.state in sources(TaskEvent.RETRY)
    ]
    if moves:
        head.cancel_requested, head.reason = False, ""
    return apply(conn, account_id, {job_id: head}, moves, now_ms)


def _held_in_history(conn: Connection, account_id: str, lease: Lease) -> bool:
    """Whether this lease had delivered, and the job was archived since."""
    archived = history.read(conn, account_id, lease.job_id)
    if archived is None or not 0 <= lease.index < len(archived.tasks):
        return False
    mine = archived.tasks[lease.index]
    return mine.state is TaskState.DONE and mine.lease_no == lease.lease_no


def _held(conn: Connection, account_id: str, lease: Lease) -> tuple[JobHead, Task] | None:
    """The job, locked, and the task if this is its latest lease."""
    found = lock_task(conn, account_id, lease.job_id, lease.index)
    if found is None or found[1].lease_no != lease.lease_no or not lease.lease_no:
        return None
    return found


def _apply_one(conn: Connection, account_id: str, head: JobHead, move: Move, now_ms: int) -> Change:
    (change,) = apply(conn, account_id, {head.job_id: head}, [move], now_ms)
    return change
