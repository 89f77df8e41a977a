"""The checkpoint of an image, through the store: told, replaced, kept over a lease, forgotten."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from foxden_broker.store.base import Checkpoint, Lease
from foxden_proto.states import TaskEvent, TaskState

World = Any  # of conftest.py
E, T = TaskEvent, TaskState


def at(step: int, name: str = "") -> Checkpoint:
    return Checkpoint((name or f"{step:x}").rjust(64, "0"), 1000 + step, step)


async def tell(world: World, *told: tuple[Lease, Checkpoint]) -> list[Checkpoint]:
    return list(await world.store.keep_checkpoints("den", told))


async def end(world: World, lease: Lease, event: TaskEvent, **more: Any) -> Any:
    return await world.store.end_lease("den", lease, event, "why", world.tick(), **more)


async def test_told_x_kept_by_the_task_and_its_job_s_revision_stays(world: World) -> None:
    lease = await world.started(await world.queued())
    before = await world.job(lease.job_id)
    assert await tell(world, (lease, at(7))) == []
    after = await world.job(lease.job_id)
    assert after.tasks[0].checkpoint == at(7)
    assert after.revision == before.revision
    assert after.tasks[0].state is T.RUNNING


async def test_told_later_one_x_replaces_and_names_the_older(world: World) -> None:
    lease = await world.started(await world.queued())
    await tell(world, (lease, at(7)))
    assert await tell(world, (lease, at(15))) == [at(7)]
    assert (await world.task(lease.job_id)).checkpoint == at(15)


@pytest.mark.parametrize("step", [3, 7])
async def test_told_one_that_is_no_later_x_changes_nothing(world: World, step: int) -> None:
    lease = await world.started(await world.queued())
    await tell(world, (lease, at(7)))
    assert await tell(world, (lease, at(step, "other"))) == []
    assert (await world.task(lease.job_id)).checkpoint == at(7)


async def test_told_of_many_at_once_x_each_is_kept_and_the_newest_of_one(world: World) -> None:
    job_id = await world.queued(3)
    leases = [await world.started(job_id, index) for index in range(3)]
    told = [(leases[2], at(4)), (leases[0], at(2)), (leases[0], at(9)), (leases[1], at(5))]
    await tell(world, *told)
    tasks = (await world.job(job_id)).tasks
    assert [task.checkpoint for task in tasks] == [at(9), at(5), at(4)]


@pytest.mark.parametrize("state", [T.QUEUED, T.LEASED, T.DONE])
async def test_told_while_it_does_not_run_x_changes_nothing(world: World, state: T) -> None:
    lease = await world.leased(await world.queued())
    if state is T.QUEUED:
        await end(world, lease, E.REFUSE)
    if state is T.DONE:
        await world.store.start("den", lease, world.tick())
        await world.finish(lease)
    assert await tell(world, (lease, at(7))) == []
    assert (await world.task(lease.job_id)).checkpoint is None


async def test_told_by_a_stale_lease_x_changes_nothing(world: World) -> None:
    job_id = await world.queued()
    stale = await world.started(job_id)
    await end(world, stale, E.LOSE)
    now = await world.started(job_id, card="card-2")
    await tell(world, (stale, at(90)), (now, at(3)))
    assert (await world.task(job_id)).checkpoint == at(3)
    await tell(world, (stale, at(91)))
    assert (await world.task(job_id)).checkpoint == at(3)


async def test_told_of_another_account_s_lease_x_changes_nothing(world: World) -> None:
    lease = await world.started(await world.queued())
    assert await world.store.keep_checkpoints("another", [(lease, at(7))]) == ()
    assert (await world.task(lease.job_id)).checkpoint is None


@pytest.mark.parametrize("how", [[E.LOSE], [E.RELEASE, E.RELEASED], [E.RELEASE, E.LOSE]])
async def test_lease_ends_and_it_waits_again_x_next_lease_comes_with_the_checkpoint(
    world: World, how: list[E]
) -> None:
    job_id = await world.queued()
    lease = await world.started(job_id)
    await tell(world, (lease, at(7)))
    for event in how:
        assert await end(world, lease, event)
    again = await world.leased(job_id, card="card-2")
    ((_, task),) = await world.store.open_tasks("den")
    assert task.lease == again
    assert task.checkpoint == at(7)
    assert task.failures == 0
    await end(world, again, E.REFUSE)
    assert (await world.task(job_id)).checkpoint == at(7)


async def test_released_with_its_last_one_x_kept_with_the_same_write(world: World) -> None:
    lease = await world.started(await world.queued())
    await tell(world, (lease, at(7)))
    await end(world, lease, E.RELEASE)
    change = await end(world, lease, E.RELEASED, checkpoint=at(12))
    assert change.task.checkpoint == at(12)
    assert await world.task(lease.job_id) == change.task.__class__(
        **{n: getattr(change.task, n) for n in change.task.__slots__ if n != "attempts"},
        attempts=(await world.task(lease.job_id)).attempts,
    )


async def test_released_with_an_older_one_than_told_x_the_later_stays(world: World) -> None:
    lease = await world.started(await world.queued())
    await tell(world, (lease, at(7)))
    await end(world, lease, E.RELEASE)
    change = await end(world, lease, E.RELEASED, checkpoint=at(5))
    assert change.task.checkpoint == at(7)


@pytest.mark.parametrize("event", [E.FAIL, E.GIVE_UP, E.CANCEL, E.EXPIRE])
async def test_engine_failed_or_image_ended_x_forgotten(world: World, event: E) -> None:
    lease = await world.started(await world.queued())
    await tell(world, (lease, at(7)))
    change = await end(world, lease, event)
    assert change.task.checkpoint is None
    assert (await world.task(lease.job_id)).checkpoint is None


async def test_finished_x_forgotten(world: World) -> None:
    lease = await world.started(await world.queued())
    await tell(world, (lease, at(7)))
    await world.finish(lease)
    assert (await world.task(lease.job_id)).checkpoint is None


async def test_queued_with_one_and_cancelled_x_forgotten(world: World) -> None:
    lease = await world.started(await world.queued())
    await tell(world, (lease, at(7)))
    await end(world, lease, E.LOSE)
    await world.store.cancel("den", lease.job_id, "no more", world.tick())
    assert (await world.task(lease.job_id)).checkpoint is None


async def test_refused_by_a_card_x_forgotten_without_a_failure(world: World) -> None:
    job_id = await world.queued()
    lease = await world.started(job_id)
    await tell(world, (lease, at(7)))
    await end(world, lease, E.LOSE)
    again = await world.leased(job_id)
    change = await end(world, again, E.REFUSE, forget_checkpoint=True)
    assert (change.task.checkpoint, change.task.failures) == (None, 0)
    assert (await world.task(job_id)).state is T.QUEUED


async def test_referred_x_while_the_image_is_open_and_no_longer(world: World) -> None:
    lease = await world.started(await world.queued())
    await tell(world, (lease, at(7)))
    names = [at(7).sha256, at(8).sha256]
    assert await world.store.referred("den", names) == {at(7).sha256}
    assert await world.store.referred("another", names) == frozenset()
    await tell(world, (lease, at(8)))
    assert await world.store.referred("den", names) == {at(8).sha256}
    await world.finish(lease)
    assert await world.store.referred("den", names) == frozenset()


async def test_failed_job_in_history_x_comes_back_without_one(world: World) -> None:
    lease = await world.started(await world.queued())
    await tell(world, (lease, at(7)))
    await end(world, lease, E.GIVE_UP)
    assert await world.store.archive("den", world.now + 10, 10) == 1
    (change,) = await world.store.retry("den", lease.job_id, world.tick())
    assert change.task.checkpoint is None
    assert (await world.task(lease.job_id)).checkpoint is None


async def test_told_while_its_lease_ends_x_one_comes_first_and_both_orders_hold(
    world: World,
) -> None:
    job_id = await world.queued(8)
    leases = [await world.started(job_id, index) for index in range(8)]
    await asyncio.gather(
        *(tell(world, (lease, at(7))) for lease in leases),
        *(end(world, lease, E.LOSE) for lease in leases),
    )
    tasks = (await world.job(job_id)).tasks
    assert all(task.state is T.QUEUED for task in tasks)
    assert all(task.checkpoint in (None, at(7)) for task in tasks)
