"""Any sequence of events, also stale and senseless ones, keeps what everybody relies on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foxden_broker.store.base import Assign, Job, Lease, NewJob, Picture, Store
from foxden_broker.store.sql_store import open_store
from foxden_proto.states import JOB_ENDED, TASK_HELD, TaskEvent, TaskState, job_state

NewUrl = Callable[[], str]
ENDINGS = ("refuse", "lose", "fail", "give_up", "release", "released", "cancel", "expire")
CALLS = ("assign", "assign", "start", "start", "finish", "finish", "cancel_job", "retry")
QUEUED_ENDS = ("end_queued expire", "end_queued give_up", "end_queued cancel")


@dataclass(frozen=True)
class Step:
    call: str
    index: int
    age: int  # 0: with the task's latest lease; more: with an older one


steps = st.lists(
    st.builds(
        Step,
        call=st.sampled_from(CALLS * 2 + ENDINGS + QUEUED_ENDS),
        index=st.integers(0, 2),
        age=st.sampled_from([0, 0, 0, 0, 1]),
    ),
    min_size=4,
    max_size=30,
)


@dataclass
class Shared:
    """One store for all examples: each takes a job of its own."""

    runner: asyncio.Runner
    store: Store
    jobs: int = 0


@pytest.fixture
def shared(new_url: NewUrl) -> Iterator[Shared]:
    with asyncio.Runner() as runner:
        store = runner.run(open_store(new_url()))
        yield Shared(runner, store)
        runner.run(store.close())


@given(count=st.integers(1, 3), sequence=steps)
@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_sequence_of_events_keeps_the_invariants(
    shared: Shared, count: int, sequence: list[Step]
) -> None:
    shared.jobs += 1
    new = NewJob("den", f"job-{shared.jobs}", "ann", b"", "", count, 2, shared.jobs)
    shared.runner.run(_play(shared.store, new, sequence))


async def _play(store: Store, new: NewJob, sequence: Sequence[Step]) -> None:
    before = (await store.submit(new, key_window_ms=1)).job
    for now, step in enumerate(sequence, start=10):
        said = await _call(store, before, step, now)
        after = await store.job("den", new.job_id, attempts=True)
        assert after is not None
        _holds(before, after)
        if said is not None:
            assert bool(said) == (before.revision != after.revision)
        before = after


def _call(store: Store, job: Job, step: Step, now: int) -> Awaitable[Any]:
    key = (job.job_id, step.index)
    latest = job.tasks[step.index].lease_no if step.index < job.count else 1
    lease = Lease(*key, latest - step.age)
    match step.call.split():
        case ["assign"]:
            return store.assign("den", [Assign(*key, f"card-{now}", "C", "a")], now)
        case ["start"]:
            return _truth(store.start("den", lease, now))
        case ["finish"]:
            picture = Picture(f"{now:064}", now, b"meta")
            return _first(store.finish("den", lease, picture, now))
        case ["cancel_job"]:
            return _nothing(store.cancel("den", job.job_id, "stop", now))
        case ["retry"]:
            return store.retry("den", job.job_id, now)
        case ["end_queued", event]:
            return store.end_queued("den", [key], TaskEvent(event), "late", now)
        case [event]:
            return _truth(store.end_lease("den", lease, TaskEvent(event), "why", now))
    raise AssertionError(step)


async def _truth(call: Awaitable[object]) -> bool:
    return await call is not None


async def _first(call: Awaitable[tuple[object, bool]]) -> bool:
    change, holds = await call
    assert holds or change is None
    return change is not None


async def _nothing(call: Awaitable[object]) -> None:
    await call


def _holds(before: Job, after: Job) -> None:
    states = [task.state for task in after.tasks]
    assert after.state is job_state(states)
    assert (after.ended_ms > 0) == (after.state in JOB_ENDED)
    assert after.done == states.count(TaskState.DONE)
    assert after.revision >= before.revision
    assert after.revision == max(task.revision for task in after.tasks)
    for old, new in zip(before.tasks, after.tasks, strict=True):
        assert new.lease_no - old.lease_no in (0, 1)
        assert new.revision >= old.revision
        if new.revision == old.revision:
            assert (new.state, new.lease_no, new.picture) == (old.state, old.lease_no, old.picture)
        assert (new.picture is not None) == (new.state is TaskState.DONE)
        if old.picture is not None:
            assert new.picture == old.picture
        assert [attempt.lease_no for attempt in new.attempts] == list(range(1, new.lease_no + 1))
        still_open = [attempt.lease_no for attempt in new.attempts if not attempt.outcome]
        assert still_open == ([new.lease_no] if new.state in TASK_HELD else [])
        for was, now in zip(old.attempts, new.attempts, strict=False):
            assert was == now or not was.outcome, "an attempt is closed once"
