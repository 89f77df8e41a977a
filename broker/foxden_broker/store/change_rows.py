"""What a change of tasks writes: a statement for each table, and its rows of values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, bindparam, case, insert, update

from foxden_broker.store.base import Assign, Checkpoint, Picture, Task
from foxden_broker.store.database import Write
from foxden_broker.store.schema import attempt, job, picture, task
from foxden_proto.states import TASK_HELD, JobState, TaskEvent


@dataclass
class JobHead:
    """What a change needs of its job, locked until the transaction ends."""

    job_id: str
    state: JobState
    revision: int
    ended_ms: int
    cancel_requested: bool
    reason: str
    done: int
    count: int


@dataclass(frozen=True)
class Move:
    """One task and what happens to it."""

    task: Task  # before, as read under the job's lock
    event: TaskEvent
    reason: str = ""
    to: Assign | None = None  # for LEASE
    picture: Picture | None = None  # for FINISH
    checkpoint: Checkpoint | None = None  # that came with the end of a lease
    forget_checkpoint: bool = False


_OF_TASK = (
    "state",
    "lease_no",
    "card_id",
    "card_name",
    "agent_id",
    "reason",
    "failures",
    "losses",
    "releases",
    "revision",
    "leased_ms",
    "started_ms",
    "ended_ms",
)
_OF_CHECKPOINT = ("checkpoint_sha256", "checkpoint_size", "checkpoint_step")
_THE_TASK = update(task).where(
    task.c.account_id == bindparam("at_account"),
    task.c.job_id == bindparam("at_job"),
    task.c.idx == bindparam("at_idx"),
    task.c.state == bindparam("at_state"),
    task.c.lease_no == bindparam("at_lease"),
)
_UPDATE_TASK = _THE_TASK.values({name: bindparam(f"to_{name}") for name in _OF_TASK})
# Most changes leave the checkpoint alone, and do not pay for it.
_UPDATE_TASK_AND_CHECKPOINT = _THE_TASK.values(
    {name: bindparam(f"to_{name}") for name in _OF_TASK + _OF_CHECKPOINT}
)


def task_writes(account_id: str, moves: Sequence[Move], after: Sequence[Task]) -> Write:
    rows = [
        {
            "at_account": account_id,
            "at_job": new.job_id,
            "at_idx": new.index,
            "at_state": move.task.state.value,
            "at_lease": move.task.lease_no,
            "to_state": new.state.value,
            "to_lease_no": new.lease_no,
            "to_card_id": new.card_id,
            "to_card_name": new.card_name,
            "to_agent_id": new.agent_id,
            "to_reason": new.reason,
            "to_failures": new.failures,
            "to_losses": new.losses,
            "to_releases": new.releases,
            "to_revision": new.revision,
            "to_leased_ms": new.leased_ms,
            "to_started_ms": new.started_ms,
            "to_ended_ms": new.ended_ms,
        }
        for move, new in zip(moves, after, strict=True)
    ]
    if all(move.task.checkpoint == new.checkpoint for move, new in zip(moves, after, strict=True)):
        return _UPDATE_TASK, rows
    return _UPDATE_TASK_AND_CHECKPOINT, [
        row | _checkpoint_values(new.checkpoint) for row, new in zip(rows, after, strict=True)
    ]


def _checkpoint_values(kept: Checkpoint | None) -> dict[str, object]:
    return {
        "to_checkpoint_sha256": kept.sha256 if kept else "",
        "to_checkpoint_size": kept.size if kept else 0,
        "to_checkpoint_step": kept.step if kept else 0,
    }


_OPEN_ATTEMPT = insert(attempt).values(
    {
        name: bindparam(name)
        for name in (
            "account_id",
            "job_id",
            "idx",
            "lease_no",
            "card_id",
            "card_name",
            "outcome",
            "reason",
            "started_ms",
            "ended_ms",
            "batch",
        )
    }
)
_KEEP_PICTURE = insert(picture)
_RAN_FROM = bindparam("ran_from", type_=BigInteger)
_RAN_TO = bindparam("to_ended_ms", type_=BigInteger)
_CLOSE_ATTEMPT = (
    update(attempt)
    .where(
        attempt.c.account_id == bindparam("at_account"),
        attempt.c.job_id == bindparam("at_job"),
        attempt.c.idx == bindparam("at_idx"),
        attempt.c.lease_no == bindparam("at_lease"),
        attempt.c.outcome == "",
    )
    .values(
        outcome=bindparam("to_outcome"),
        reason=bindparam("to_reason"),
        ended_ms=bindparam("to_ended_ms"),
        # Nothing where it never started, or the clock was set back.
        gpu_ms=case(
            (_RAN_FROM == 0, 0),
            (_RAN_FROM >= _RAN_TO, 0),
            else_=(_RAN_TO - _RAN_FROM) // attempt.c.batch,
        ),
    )
)


def attempt_writes(
    account_id: str, moves: Sequence[Move], after: Sequence[Task], now_ms: int
) -> tuple[Write, Write]:
    """An attempt is open for as long as a card holds the task, releasing included."""
    opened, closed = [], []
    for move, new in zip(moves, after, strict=True):
        if move.event is TaskEvent.LEASE:
            opened.append(
                {
                    "account_id": account_id,
                    "job_id": new.job_id,
                    "idx": new.index,
                    "lease_no": new.lease_no,
                    "card_id": new.card_id,
                    "card_name": new.card_name,
                    "outcome": "",
                    "reason": "",
                    "started_ms": now_ms,
                    "ended_ms": 0,
                    "batch": max(1, move.to.batch) if move.to else 1,
                }
            )
        elif move.task.state in TASK_HELD and new.state not in TASK_HELD:
            closed.append(
                {
                    "at_account": account_id,
                    "at_job": new.job_id,
                    "at_idx": new.index,
                    "at_lease": new.lease_no,
                    "to_outcome": move.event.value,
                    "to_reason": new.reason,
                    "to_ended_ms": now_ms,
                    "ran_from": move.task.started_ms,
                }
            )
    return (_OPEN_ATTEMPT, opened), (_CLOSE_ATTEMPT, closed)


def picture_writes(account_id: str, moves: Sequence[Move]) -> Write:
    rows = [
        {
            "account_id": account_id,
            "job_id": move.task.job_id,
            "idx": move.task.index,
            "sha256": move.picture.sha256,
            "size": move.picture.size,
            "meta": move.picture.meta,
        }
        for move in moves
        if move.picture is not None
    ]
    return _KEEP_PICTURE, rows


UPDATE_JOB = (
    update(job)
    .where(job.c.account_id == bindparam("at_account"), job.c.job_id == bindparam("at_job"))
    .values(
        state=bindparam("to_state"),
        revision=bindparam("to_revision"),
        ended_ms=bindparam("to_ended_ms"),
        cancel_requested=bindparam("to_cancel_requested"),
        reason=bindparam("to_reason"),
        done=bindparam("to_done"),
    )
)


def head_writes(account_id: str, heads: Iterable[JobHead]) -> Write:
    return UPDATE_JOB, [head_row(account_id, head) for head in heads]


def head_row(account_id: str, head: JobHead) -> dict[str, Any]:
    return {
        "at_account": account_id,
        "at_job": head.job_id,
        "to_state": head.state.value,
        "to_revision": head.revision,
        "to_ended_ms": head.ended_ms,
        "to_cancel_requested": head.cancel_requested,
        "to_reason": head.reason,
        "to_done": head.done,
    }
