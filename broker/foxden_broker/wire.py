"""Rows of the store as messages of the contract. Pure."""

from __future__ import annotations

from typing import cast

from foxden_broker.store.base import Job, Task, Token
from foxden_proto.states import JobState
from foxden_proto.v1 import generation_pb2 as gen
from foxden_proto.v1 import pool_pb2


def job_message(job: Job) -> gen.Job:
    return gen.Job(
        id=job.job_id,
        state=gen.JobState.Value(f"JOB_STATE_{job.state.name}"),
        request=gen.ImageRequest.FromString(job.request),
        count=job.count,
        priority=cast("gen.Priority.ValueType", job.priority),
        created_ms=job.created_ms,
        ended_ms=job.ended_ms,
        deadline_ms=job.deadline_ms,
        member=job.member,
        cancel_requested=job.cancel_requested,
        tasks=[task_message(task) for task in job.tasks],
        done=job.done,
        reason=job.reason,
    )


def task_message(task: Task) -> gen.Task:
    return gen.Task(
        index=task.index,
        state=gen.TaskState.Value(f"TASK_STATE_{task.state.name}"),
        picture=task_picture(task) if task.picture else None,
        card=task.card_name,
        reason=task.reason,
        failures=task.failures,
        losses=task.losses,
        releases=task.releases,
        attempts=[
            gen.Attempt(
                lease_no=attempt.lease_no,
                card=attempt.card_name,
                outcome=attempt.outcome,
                reason=attempt.reason,
                started_ms=attempt.started_ms,
                ended_ms=attempt.ended_ms,
            )
            for attempt in task.attempts
        ],
    )


def task_picture(task: Task) -> gen.Picture:
    assert task.picture is not None
    return gen.Picture.FromString(task.picture.meta)


def job_state_of(state: gen.JobState.ValueType) -> JobState | None:
    """The state to list by; None for all. An unknown number of a newer client is also all."""
    if state == gen.JOB_STATE_UNSPECIFIED or state not in gen.JobState.values():
        return None
    return JobState[gen.JobState.Name(state).removeprefix("JOB_STATE_")]


def token_message(token: Token) -> pool_pb2.Token:
    return pool_pb2.Token(
        token_id=token.token_id,
        member=token.member,
        scopes=sorted(token.scopes),
        created_ms=token.created_ms,
        expires_ms=token.expires_ms,
        revoked_ms=token.revoked_ms,
    )
