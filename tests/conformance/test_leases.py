"""Task state × event → outcome, through the store."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from foxden_broker.store.base import Assign, Lease, Picture, Task
from foxden_proto.states import JobState, TaskEvent, TaskState, UnknownTransition

World = Any  # of conftest.py
E, T, J = TaskEvent, TaskState, JobState


def assigns(job_id: str, *indices: int, card: str = "card-1") -> list[Assign]:
    return [Assign(job_id, index, card, card.upper(), "agent-1") for index in indices]


async def held(world: World, job_id: str, state: TaskState) -> Lease:
    """The job's first task in the given state."""
    lease: Lease = await world.leased(job_id)
    if state in (T.RUNNING, T.DONE):
        await world.store.start("den", lease, world.tick())
    if state is T.DONE:
        await world.finish(lease)
    if state is T.RELEASING:
        await world.store.end_lease("den", lease, E.RELEASE, "a game", world.tick())
    return lease


async def test_queued_assign_leases_with_number_card_attempt_and_running_job(world: World) -> None:
    job_id = await world.queued(2)
    now = world.tick()
    (change,) = await world.store.assign("den", assigns(job_id, 1), now)
    assert change.event is E.LEASE
    assert change.job_state is J.RUNNING
    task = await world.task(job_id, 1)
    assert (task.state, task.lease_no, task.card_id, task.card_name, task.agent_id) == (
        T.LEASED,
        1,
        "card-1",
        "CARD-1",
        "agent-1",
    )
    assert (task.leased_ms, task.started_ms, task.ended_ms) == (now, 0, 0)
    assert [(a.lease_no, a.card_name, a.outcome, a.ended_ms) for a in task.attempts] == [
        (1, "CARD-1", "", 0)
    ]
    assert (await world.task(job_id, 0)).state is T.QUEUED
    assert (await world.job(job_id)).state is J.RUNNING


async def test_assign_of_many_jobs_is_one_batch_in_the_order_given(world: World) -> None:
    one, two = await world.queued(3), await world.queued(2)
    given = [*assigns(two, 1), *assigns(one, 0, 2), *assigns(two, 0)]
    changes = await world.store.assign("den", given, world.tick())
    assert [(c.task.job_id, c.task.index) for c in changes] == [
        (two, 1),
        (one, 0),
        (one, 2),
        (two, 0),
    ]
    assert [c.revision for c in changes] == [2, 2, 3, 3]
    assert [c.revision for c in changes] == [c.task.revision for c in changes]
    assert (await world.job(two)).revision == 3


async def test_assign_leaves_out_what_is_not_queued_unknown_or_named_twice(world: World) -> None:
    job_id = await world.queued(3)
    await world.leased(job_id, 0)
    given = [*assigns(job_id, 0, 1, 7), *assigns("nowhere", 0), *assigns(job_id, 1, card="card-2")]
    changes = await world.store.assign("den", given, world.tick())
    assert [(c.task.index, c.task.card_id) for c in changes] == [(1, "card-1")]
    assert await world.store.assign("den", [], world.tick()) == ()


async def test_assign_again_raises_the_lease_number(world: World) -> None:
    job_id = await world.queued()
    first = await world.leased(job_id)
    await world.store.end_lease("den", first, E.REFUSE, "no room", world.tick())
    second = await world.leased(job_id, card="card-2")
    assert (first.lease_no, second.lease_no) == (1, 2)
    task = await world.task(job_id)
    assert [(a.card_id, a.outcome, a.reason) for a in task.attempts] == [
        ("card-1", "refuse", "no room"),
        ("card-2", "", ""),
    ]
    assert (task.failures, task.losses, task.releases, task.reason) == (0, 0, 0, "")


async def test_leased_start_runs(world: World) -> None:
    job_id = await world.queued()
    lease = await world.leased(job_id)
    now = world.tick()
    change = await world.store.start("den", lease, now)
    assert change is not None
    assert change.task.state is T.RUNNING
    assert change.task.started_ms == now
    stored = await world.task(job_id)
    assert stored == replace(change.task, attempts=stored.attempts)


async def test_running_start_again_changes_nothing(world: World) -> None:
    job_id = await world.queued()
    lease = await world.started(job_id)
    before = await world.job(job_id)
    assert await world.store.start("den", lease, world.tick()) is None
    assert await world.job(job_id) == before


async def test_running_finish_keeps_the_picture_and_ends_the_job(world: World) -> None:
    job_id = await world.queued()
    lease = await world.started(job_id)
    now = world.now + 1
    change, holds = await world.finish(lease)
    assert holds
    assert change.job_state is J.DONE
    job = await world.job(job_id)
    assert (job.state, job.done, job.ended_ms) == (J.DONE, 1, now)
    (task,) = job.tasks
    assert task.picture == Picture("p".ljust(64, "0"), 7, b"meta-p")
    assert task.ended_ms == now
    assert [(a.outcome, a.ended_ms) for a in task.attempts] == [("finish", now)]


async def test_done_finish_again_by_the_same_lease_holds_and_keeps_the_first(world: World) -> None:
    job_id = await world.queued()
    lease = await world.done(job_id)
    before = await world.job(job_id)
    assert await world.finish(lease, "other") == (None, True)
    assert await world.job(job_id) == before


async def test_done_finish_by_another_lease_does_not_hold(world: World) -> None:
    job_id = await world.queued()
    stale = await world.started(job_id)
    await world.store.end_lease("den", stale, E.LOSE, "link lost", world.tick())
    await world.done(job_id)
    before = await world.job(job_id)
    assert await world.finish(stale, "other") == (None, False)
    assert await world.job(job_id) == before


@pytest.mark.parametrize("state", [T.LEASED, T.RELEASING])
async def test_finish_of_what_does_not_run_does_not_hold(world: World, state: TaskState) -> None:
    job_id = await world.queued()
    lease = await held(world, job_id, state)
    assert await world.finish(lease) == (None, False)
    assert (await world.task(job_id)).state is state


async def test_stale_lease_changes_nothing_whatever_it_says(world: World) -> None:
    job_id = await world.queued()
    stale = await world.started(job_id)
    await world.store.end_lease("den", stale, E.LOSE, "link lost", world.tick())
    for next_state in (T.QUEUED, T.LEASED, T.RUNNING):
        if next_state is T.LEASED:
            fresh = await world.leased(job_id)
        if next_state is T.RUNNING:
            await world.store.start("den", fresh, world.tick())
        before = await world.job(job_id)
        assert before.tasks[0].state is next_state
        assert await world.store.start("den", stale, world.tick()) is None
        assert await world.finish(stale) == (None, False)
        for event in (E.FAIL, E.LOSE, E.REFUSE, E.RELEASE, E.RELEASED, E.GIVE_UP, E.CANCEL):
            assert await world.store.end_lease("den", stale, event, "x", world.tick()) is None
        assert await world.store.end_lease("den", stale, lambda _: E.FAIL, "x", 9) is None
        assert await world.job(job_id) == before


async def test_lease_of_a_job_or_index_that_is_not_there_changes_nothing(world: World) -> None:
    job_id = await world.queued()
    for lease in (Lease(job_id, 5, 1), Lease("nowhere", 0, 1), Lease(job_id, 0, 0)):
        assert await world.store.start("den", lease, 5) is None
        assert await world.finish(lease) == (None, False)
        assert await world.store.end_lease("den", lease, E.LOSE, "x", 5) is None
    assert (await world.task(job_id)).state is T.QUEUED


OUTCOMES = [
    (T.LEASED, E.REFUSE, T.QUEUED, J.QUEUED, (0, 0, 0)),
    (T.LEASED, E.LOSE, T.QUEUED, J.QUEUED, (0, 1, 0)),
    (T.LEASED, E.FAIL, T.QUEUED, J.QUEUED, (1, 0, 0)),
    (T.LEASED, E.RELEASE, T.RELEASING, J.RUNNING, (0, 0, 1)),
    (T.LEASED, E.GIVE_UP, T.FAILED, J.FAILED, (1, 0, 0)),
    (T.LEASED, E.CANCEL, T.CANCELLED, J.CANCELLED, (0, 0, 0)),
    (T.LEASED, E.EXPIRE, T.EXPIRED, J.EXPIRED, (0, 0, 0)),
    (T.RUNNING, E.LOSE, T.QUEUED, J.QUEUED, (0, 1, 0)),
    (T.RUNNING, E.FAIL, T.QUEUED, J.QUEUED, (1, 0, 0)),
    (T.RUNNING, E.RELEASE, T.RELEASING, J.RUNNING, (0, 0, 1)),
    (T.RUNNING, E.GIVE_UP, T.FAILED, J.FAILED, (1, 0, 0)),
    (T.RUNNING, E.CANCEL, T.CANCELLED, J.CANCELLED, (0, 0, 0)),
    (T.RUNNING, E.EXPIRE, T.EXPIRED, J.EXPIRED, (0, 0, 0)),
    (T.RELEASING, E.RELEASED, T.QUEUED, J.QUEUED, (0, 0, 1)),
    (T.RELEASING, E.LOSE, T.QUEUED, J.QUEUED, (0, 1, 1)),
    (T.RELEASING, E.GIVE_UP, T.FAILED, J.FAILED, (1, 0, 1)),
    (T.RELEASING, E.CANCEL, T.CANCELLED, J.CANCELLED, (0, 0, 1)),
    (T.RELEASING, E.EXPIRE, T.EXPIRED, J.EXPIRED, (0, 0, 1)),
]


@pytest.mark.parametrize(
    ("state", "event", "after", "job_after", "counters"),
    OUTCOMES,
    ids=[f"{row[0].value}-{row[1].value}-{row[2].value}" for row in OUTCOMES],
)
async def test_held_end_lease(
    world: World,
    state: TaskState,
    event: TaskEvent,
    after: TaskState,
    job_after: JobState,
    counters: tuple[int, int, int],
) -> None:
    job_id = await world.queued()
    lease = await held(world, job_id, state)
    now = world.tick()
    change = await world.store.end_lease("den", lease, event, "because", now)
    assert change is not None
    assert (change.event, change.task.state, change.job_state) == (event, after, job_after)
    job = await world.job(job_id)
    (task,) = job.tasks
    assert (job.state, job.revision, task.revision) == (job_after, change.revision, change.revision)
    assert (task.state, task.reason, task.lease_no) == (after, "because", lease.lease_no)
    assert (task.failures, task.losses, task.releases) == counters
    (attempt,) = task.attempts
    if after is T.RELEASING:
        assert (attempt.outcome, attempt.ended_ms) == ("", 0)
    else:
        assert (attempt.outcome, attempt.reason, attempt.ended_ms) == (event.value, "because", now)
    ended = job_after is not J.QUEUED and job_after is not J.RUNNING
    assert (job.ended_ms, task.ended_ms) == ((now, now) if ended else (0, 0))
    assert job.reason == ("because" if ended else "")


@pytest.mark.parametrize(
    ("state", "event"),
    [(T.RUNNING, E.REFUSE), (T.RUNNING, E.RELEASED), (T.RELEASING, E.FAIL), (T.DONE, E.CANCEL)],
    ids=lambda value: value.value,
)
async def test_end_lease_with_an_event_the_state_lacks_changes_nothing(
    world: World, state: TaskState, event: TaskEvent
) -> None:
    job_id = await world.queued()
    lease = await held(world, job_id, state)
    before = await world.job(job_id)
    assert await world.store.end_lease("den", lease, event, "x", world.tick()) is None
    assert await world.job(job_id) == before


@pytest.mark.parametrize("event", [E.START, E.FINISH], ids=lambda event: event.value)
async def test_end_lease_with_an_event_that_ends_none_is_an_error(
    world: World, event: TaskEvent
) -> None:
    job_id = await world.queued()
    lease = await held(world, job_id, T.LEASED if event is E.START else T.RUNNING)
    with pytest.raises(ValueError, match=event.value):
        await world.store.end_lease("den", lease, event, "x", world.tick())


async def test_release_reason_is_kept_where_released_has_none(world: World) -> None:
    job_id = await world.queued()
    lease = await held(world, job_id, T.RELEASING)
    await world.store.end_lease("den", lease, E.RELEASED, "", world.tick())
    task = await world.task(job_id)
    assert task.reason == "a game"
    assert [(a.outcome, a.reason) for a in task.attempts] == [("released", "a game")]


async def test_end_lease_decided_sees_task_and_attempts(world: World) -> None:
    job_id = await world.queued()
    first = await world.started(job_id)
    await world.store.end_lease("den", first, E.FAIL, "out of memory", world.tick())
    second = await world.started(job_id, card="card-2")
    seen: list[Task] = []

    def decide(task: Task) -> TaskEvent:
        seen.append(task)
        return E.GIVE_UP

    change = await world.store.end_lease("den", second, decide, "crashed", world.tick())
    assert change is not None
    assert (change.event, change.task.failures) == (E.GIVE_UP, 2)
    assert (seen[-1].state, seen[-1].failures) == (T.RUNNING, 1)
    assert [(a.card_id, a.outcome, a.reason) for a in seen[-1].attempts] == [
        ("card-1", "fail", "out of memory"),
        ("card-2", "", ""),
    ]


async def test_end_lease_decided_on_what_the_state_lacks_raises_and_changes_nothing(
    world: World,
) -> None:
    job_id = await world.queued()
    lease = await held(world, job_id, T.RELEASING)
    before = await world.job(job_id)
    with pytest.raises(UnknownTransition, match="fail"):
        await world.store.end_lease("den", lease, lambda _: E.FAIL, "x", world.tick())
    assert await world.job(job_id) == before


@pytest.mark.parametrize(
    ("state", "event"),
    [
        (T.LEASED, E.REFUSE),
        (T.RUNNING, E.LOSE),
        (T.RUNNING, E.FAIL),
        (T.RELEASING, E.RELEASED),
        (T.RUNNING, E.CANCEL),
    ],
    ids=lambda value: value.value,
)
async def test_end_lease_after_cancel_was_requested_cancels(
    world: World, state: TaskState, event: TaskEvent
) -> None:
    job_id = await world.queued()
    lease = await held(world, job_id, state)
    await world.store.cancel("den", job_id, "changed my mind", world.tick())
    change = await world.store.end_lease("den", lease, event, "", world.tick())
    assert change is not None
    assert (change.event, change.task.state) == (E.CANCEL, T.CANCELLED)
    if event is not E.CANCEL:
        assert change.task.reason == "changed my mind"
    job = await world.job(job_id)
    assert (job.state, job.reason) == (J.CANCELLED, "changed my mind")


async def test_finish_after_cancel_was_requested_still_holds(world: World) -> None:
    job_id = await world.queued()
    lease = await world.started(job_id)
    await world.store.cancel("den", job_id, "late", world.tick())
    _, holds = await world.finish(lease)
    assert holds
    assert (await world.job(job_id)).state is J.DONE


async def test_failed_retry_queues_again_with_fresh_counters_and_reopens_the_job(
    world: World,
) -> None:
    job_id = await world.queued(2)
    await world.done(job_id, 0)
    lease = await world.started(job_id, 1)
    await world.store.end_lease("den", lease, E.GIVE_UP, "broken", world.tick())
    job = await world.job(job_id)
    assert (job.state, job.reason, job.ended_ms > 0) == (J.PARTIAL, "broken", True)
    (change,) = await world.store.retry("den", job_id, world.tick())
    assert (change.event, change.task.index, change.job_state) == (E.RETRY, 1, J.RUNNING)
    job = await world.job(job_id)
    assert (job.state, job.reason, job.ended_ms, job.done) == (J.RUNNING, "", 0, 1)
    task = job.tasks[1]
    assert (task.state, task.failures, task.losses, task.ended_ms) == (T.QUEUED, 0, 0, 0)
    assert len(task.attempts) == 1
    assert (await world.leased(job_id, 1)).lease_no == 2


async def test_retry_of_what_did_not_fail_changes_nothing(world: World) -> None:
    job_id = await world.queued(2)
    await world.done(job_id, 0)
    before = await world.job(job_id)
    assert await world.store.retry("den", job_id, world.tick()) == ()
    assert await world.store.retry("den", "nowhere", world.tick()) == ()
    assert await world.job(job_id) == before


async def test_retry_while_a_cancel_is_carried_out_changes_nothing(world: World) -> None:
    job_id = await world.queued(2)
    failed, running = await world.started(job_id, 0), await world.started(job_id, 1)
    await world.store.end_lease("den", failed, E.GIVE_UP, "broken", world.tick())
    await world.store.cancel("den", job_id, "stop", world.tick())
    assert await world.store.retry("den", job_id, world.tick()) == ()
    await world.store.end_lease("den", running, E.CANCEL, "", world.tick())
    (change,) = await world.store.retry("den", job_id, world.tick())
    assert change.task.index == 0
    assert not (await world.job(job_id)).cancel_requested


@pytest.mark.parametrize(
    ("event", "after", "job_after"),
    [
        (E.EXPIRE, T.EXPIRED, J.EXPIRED),
        (E.GIVE_UP, T.FAILED, J.FAILED),
        (E.CANCEL, T.CANCELLED, J.CANCELLED),
    ],
    ids=lambda value: value.value,
)
async def test_queued_end_queued(
    world: World, event: TaskEvent, after: TaskState, job_after: JobState
) -> None:
    job_id = await world.queued(2)
    keys = [(job_id, 1), (job_id, 0), (job_id, 0)]
    changes = await world.store.end_queued("den", keys, event, "too late", world.tick())
    assert [(c.task.index, c.event, c.job_state) for c in changes] == [
        (1, event, job_after),
        (0, event, job_after),
    ]
    job = await world.job(job_id)
    assert (job.state, job.reason, job.ended_ms) == (job_after, "too late", world.now)
    assert {task.state for task in job.tasks} == {after}
    assert all((task.failures, task.attempts) == (0, ()) for task in job.tasks)


async def test_end_queued_leaves_what_is_held_alone(world: World) -> None:
    job_id = await world.queued(2)
    await world.leased(job_id, 0)
    keys = [(job_id, 0), (job_id, 1), (job_id, 9), ("nowhere", 0)]
    changes = await world.store.end_queued("den", keys, E.EXPIRE, "late", world.tick())
    assert [c.task.index for c in changes] == [1]
    assert (await world.task(job_id, 0)).state is T.LEASED


async def test_end_queued_with_another_event_is_an_error(world: World) -> None:
    job_id = await world.queued()
    with pytest.raises(ValueError, match="lose"):
        await world.store.end_queued("den", [(job_id, 0)], E.LOSE, "x", 5)


async def test_open_tasks_are_queued_and_held_ones_oldest_job_first(world: World) -> None:
    young, old = await world.queued(2, created_ms=900), await world.queued(2, created_ms=100)
    ended = await world.queued()
    await world.done(ended)
    await world.done(old, 0)
    await world.started(young, 1)
    found = await world.store.open_tasks("den")
    assert [(job.job_id, task.index, task.state) for job, task in found] == [
        (old, 1, T.QUEUED),
        (young, 0, T.QUEUED),
        (young, 1, T.RUNNING),
    ]
    assert found[0][0].request == b"request"
    assert found[0][0].tasks == ()
