"""Retry, limits, cards set aside and use, on a real store with agents that the test plays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from one_account import ADMIN, ANN, World, new_store

from foxden_broker import admin_calls, client_calls, keeper
from foxden_broker.client_calls import Member
from foxden_broker.quotas import Defaults
from foxden_proto.problems import Problem, Reason
from foxden_proto.v1 import generation_pb2 as gen
from foxden_proto.v1 import pool_pb2

Make = Callable[..., Any]
BOB = Member("main", "bob", frozenset({"generate"}))


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    store = await new_store(tmp_path)
    yield World(store, tmp_path, limits=Defaults(10, 15))
    await store.close()


def states(job: gen.Job) -> list[str]:
    return [
        gen.TaskState.Name(task.state).removeprefix("TASK_STATE_").lower() for task in job.tasks
    ]


async def give_up(world: World, count: int = 2) -> str:
    """A job whose last image failed for good, and whose others are done."""
    job_id = await world.submit(count)
    while leases := await world.dispatch():
        for lease in sorted(leases, key=lambda lease: lease.index):
            await world.start(lease)
            if lease.index == count - 1:
                await world.fail(lease, "out of luck")
            else:
                await world.finish(lease)
    return job_id


# Retry


async def test_failed_image_is_retried_and_drawn(world: World, make_card: Make) -> None:
    await world.join(make_card("a"))
    job_id = await give_up(world)
    assert (await world.job(job_id)).state == gen.JOB_STATE_PARTIAL
    assert world.account.pool.jobs == {}

    job = await client_calls.retry(world.account, ANN, job_id)

    assert states(job) == ["done", "queued"]
    assert world.account.pool.tally.queued("ann") == 1
    (lease,) = await world.dispatch()
    await world.start(lease)
    await world.finish(lease)
    job = await world.job(job_id)
    assert (job.state, states(job)) == (gen.JOB_STATE_DONE, ["done", "done"])
    outcomes = [(a.outcome, a.reason) for a in job.tasks[1].attempts]
    assert outcomes == [("give_up", "out of luck"), ("finish", "")]
    assert all(a.started_ms and a.ended_ms and a.card for a in job.tasks[1].attempts)


async def test_retry_said_twice_queues_once(world: World, make_card: Make) -> None:
    await world.join(make_card("a"))
    job_id = await give_up(world)
    await client_calls.retry(world.account, ANN, job_id)
    job = await client_calls.retry(world.account, ANN, job_id)
    assert states(job) == ["done", "queued"]
    assert world.account.pool.tally.queued("ann") == 1


async def test_retry_survives_a_restart(world: World, make_card: Make) -> None:
    await world.join(make_card("a"))
    job_id = await give_up(world)
    await client_calls.retry(world.account, ANN, job_id)
    await world.restart()
    assert world.account.pool.jobs[job_id].waiting == {1}
    assert world.account.pool.tally.queued("ann") == 1


async def test_job_in_history_is_retried(world: World, make_card: Make) -> None:
    await world.join(make_card("a"))
    job_id = await give_up(world)
    assert await world.store.archive("main", 2**53, 10) == 1
    await client_calls.retry(world.account, ANN, job_id)
    (lease,) = await world.dispatch()
    await world.start(lease)
    await world.finish(lease)
    assert (await world.job(job_id)).state == gen.JOB_STATE_DONE


async def test_job_without_a_failed_image_is_not_retried(world: World, make_card: Make) -> None:
    await world.join(make_card("a"))
    job_id, _ = await world.draw()
    with pytest.raises(Problem, match="no failed image") as caught:
        await client_calls.retry(world.account, ANN, job_id)
    assert caught.value.reason is Reason.INVALID_REQUEST


async def test_strangers_job_is_not_there_to_retry(world: World, make_card: Make) -> None:
    await world.join(make_card("a"))
    job_id = await give_up(world)
    with pytest.raises(Problem) as caught:
        await client_calls.retry(world.account, BOB, job_id)
    assert caught.value.reason is Reason.NOT_FOUND
    await client_calls.retry(world.account, ADMIN, job_id)


# Quotas


async def test_images_beyond_the_default_are_refused_and_nothing_is_stored(world: World) -> None:
    await world.submit(8)
    with pytest.raises(Problem, match="ann may have 10") as caught:
        await world.submit(3)
    assert caught.value.reason is Reason.QUOTA_EXCEEDED
    assert len((await world.store.jobs("main")).jobs) == 1
    await world.submit(2)
    with pytest.raises(Problem, match="this account may have 15"):
        await world.submit(6, BOB)


async def test_repeated_submit_at_the_limit_is_the_job_of_the_first(world: World) -> None:
    first = await world.submit(10, key="once")
    assert await world.submit(10, key="once") == first
    with pytest.raises(Problem, match="may have 10"):
        await world.submit(10, key="another")
    with pytest.raises(Problem) as caught:
        await world.submit(9, key="once")
    assert caught.value.reason is Reason.IDEMPOTENCY_CONFLICT


async def test_cancelled_and_drawn_images_make_room(world: World, make_card: Make) -> None:
    job_id = await world.submit(10)
    await client_calls.cancel(world.account, ANN, job_id)
    await world.join(make_card("a"))
    await world.draw()  # what is known to be quick is staged
    await world.submit(4)
    (first, _) = sorted(await world.dispatch(), key=lambda lease: lease.index)
    await world.start(first)
    await world.finish(first)
    tally = world.account.pool.tally
    assert (tally.queued("ann"), tally.running("ann")) == (2, 1)
    await world.submit(8)


async def test_quota_is_kept_over_a_restart_and_retry_obeys_it(
    world: World, make_card: Make
) -> None:
    await world.join(make_card("a"))
    job_id = await give_up(world)
    quota = pool_pb2.Quota(member="ann", most_queued=1)
    await admin_calls.set_quota(world.account, pool_pb2.SetQuotaRequest(quota=quota))
    await world.restart()
    await world.submit(1)
    for over in (world.submit(1), client_calls.retry(world.account, ANN, job_id)):
        with pytest.raises(Problem, match="ann may have 1 images waiting"):
            await over
    (listed,) = admin_calls.list_quotas(world.account).members
    assert (listed.quota.most_queued, listed.most_queued, listed.queued) == (1, 1, 1)


async def test_no_more_images_run_than_the_member_may(world: World, make_card: Make) -> None:
    for name in "abc":
        await world.join(make_card(name))
    quota = pool_pb2.Quota(member="ann", most_running=2)
    await admin_calls.set_quota(world.account, pool_pb2.SetQuotaRequest(quota=quota))
    await world.submit(5)
    await world.submit(3)
    leases = await world.dispatch()
    tally = world.account.pool.tally
    assert tally.running("ann") == 2
    assert not await world.dispatch()
    await world.submit(3, BOB, priority=gen.PRIORITY_INTERACTIVE)
    assert {world.account.pool.jobs[x.job_id].member for x in await world.dispatch()} == {"bob"}
    mine = next(iter(leases))
    await world.start(mine)
    await world.finish(mine)
    await world.dispatch()
    assert tally.running("ann") <= 2
    quota = pool_pb2.Quota(member="ann")
    await admin_calls.set_quota(world.account, pool_pb2.SetQuotaRequest(quota=quota))
    await world.dispatch()
    assert tally.running("ann") + tally.running("bob") >= 3


async def test_card_time_counts_at_once_and_as_the_store_has_it(
    world: World, make_card: Make
) -> None:
    await world.join(make_card("a"))
    quota = pool_pb2.Quota(member="ann", gpu_seconds_per_day=0.000001)
    await admin_calls.set_quota(world.account, pool_pb2.SetQuotaRequest(quota=quota))
    job_id = await world.submit(1)
    (lease,) = await world.dispatch()
    await world.start(lease)
    await asyncio.sleep(0.02)  # what is measured is real time
    await world.finish(lease)
    for _ in range(2):
        with pytest.raises(Problem, match="of the cards' time a day"):
            await world.submit(1)
        await world.restart()
    answer = await admin_calls.usage(world.account, pool_pb2.UsageRequest(days=1))
    (row,) = answer.rows
    assert (row.member, row.images, job_id != "") == ("ann", 1, True)
    assert row.gpu_seconds > 0


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"member": ""}, "member"),
        ({"member": "x" * 65}, "member"),
        ({"member": "ann", "most_queued": -1}, "most_queued"),
        ({"member": "ann", "most_running": 10**10}, "most_running"),
        ({"member": "ann", "gpu_seconds_per_day": float("nan")}, "gpu_seconds_per_day"),
        ({"member": "ann", "gpu_seconds_per_day": -1.0}, "gpu_seconds_per_day"),
    ],
)
async def test_quota_out_of_range_is_refused_by_field(
    world: World, values: dict[str, Any], field: str
) -> None:
    request = pool_pb2.SetQuotaRequest(quota=pool_pb2.Quota(**values))
    with pytest.raises(Problem) as caught:
        await admin_calls.set_quota(world.account, request)
    assert caught.value.facts["field"] == field


# Cards set aside


async def aside(world: World, card: str, standing: pool_pb2.Standing.ValueType) -> pool_pb2.Card:
    request = pool_pb2.SetCardStandingRequest(card=card, standing=standing)
    return await admin_calls.set_standing(world.account, request)


async def test_cordoned_card_keeps_what_it_has_and_gets_nothing_new(
    world: World, make_card: Make
) -> None:
    await world.join(make_card("a"))
    await world.draw()  # what is known to be quick is staged
    await world.submit(3)
    leases = await world.dispatch()
    assert len(leases) == 2
    await world.start(min(leases, key=lambda lease: lease.index))
    told = await aside(world, "a", pool_pb2.STANDING_CORDONED)
    assert told.standing == pool_pb2.STANDING_CORDONED
    assert not await world.dispatch()
    assert set(world.account.pool.held) == leases
    await aside(world, "a", pool_pb2.STANDING_UNSPECIFIED)
    await world.finish(min(leases, key=lambda lease: lease.index))
    assert len(await world.dispatch()) == 1


async def test_draining_card_gives_back_what_it_has_not_begun(
    world: World, make_card: Make
) -> None:
    session = await world.join(make_card("a"))
    await world.draw()  # what is known to be quick is staged
    job_id = await world.submit(3)
    begun, staged = sorted(await world.dispatch(), key=lambda lease: lease.index)
    await world.start(begun)
    await world.acknowledge(staged)
    world.heard(session)
    await aside(world, "a", pool_pb2.STANDING_DRAINING)
    assert [frame.stop_task.lease.index for frame in world.heard(session)] == [staged.index]
    assert set(world.account.pool.held) == {begun}
    job = await world.job(job_id)
    assert states(job) == ["running", "queued", "queued"]
    assert (job.tasks[1].failures, job.tasks[1].losses, job.tasks[1].releases) == (0, 0, 0)
    await world.join(make_card("b"))
    assert {world.account.pool.held[x].card_id for x in await world.dispatch()} == {"b"}
    await world.finish(begun)


async def test_image_that_began_before_its_start_was_heard_stays_on_a_draining_card(
    world: World, make_card: Make
) -> None:
    """The store knows of the start, the mirror does not yet."""
    await world.join(make_card("a"))
    await world.submit(1)
    (lease,) = await world.dispatch()
    await world.acknowledge(lease)
    await world.store.start("main", lease, 1)
    await aside(world, "a", pool_pb2.STANDING_DRAINING)
    assert set(world.account.pool.held) == {lease}


async def test_image_that_was_on_its_way_to_a_draining_card_comes_back_with_the_next_tick(
    world: World, make_card: Make
) -> None:
    await world.join(make_card("a"))
    await world.submit(1)
    await world.dispatch()
    world.account.pool.cards["a"].standing = "draining"
    await keeper.look(world.account)
    assert not world.account.pool.held
    assert world.account.pool.tally.queued("ann") == 1


async def test_standing_survives_hello_and_restart(world: World, make_card: Make) -> None:
    await world.join(make_card("a"))
    await aside(world, "a", pool_pb2.STANDING_CORDONED)
    await world.join(make_card("a"))
    assert world.account.pool.cards["a"].standing == "cordoned"
    await world.restart()
    await world.join(make_card("a"))
    await world.submit(1)
    assert not await world.dispatch()
    opened = next(iter(world.account.pool.jobs.values()))
    assert "cordoned" in world.account.waits_for(opened)


@pytest.mark.parametrize("name", ["a1", "the a1", "THE A1", "the a1"[:6]])
async def test_card_is_found_by_id_name_or_beginning(
    world: World, make_card: Make, name: str
) -> None:
    await world.join(make_card("a1"))
    await world.join(make_card("b1"))
    assert admin_calls.find_card(world.account, name).info.card_id == "a1"


@pytest.mark.parametrize(("name", "text"), [("the", "several cards fit"), ("zz", "no card 'zz'")])
async def test_card_that_is_not_one_is_said_so(
    world: World, make_card: Make, name: str, text: str
) -> None:
    await world.join(make_card("a1"))
    await world.join(make_card("b1"))
    with pytest.raises(Problem, match=text):
        admin_calls.find_card(world.account, name)


async def test_card_is_forgotten_once_it_is_away(world: World, make_card: Make) -> None:
    card = make_card("a")
    await world.join(card)
    with pytest.raises(Problem, match="is online"):
        await admin_calls.forget_card(world.account, "a")
    world.leave(card)
    assert (await admin_calls.forget_card(world.account, "a")).name == "the a"
    await world.restart()
    assert world.account.pool.cards == {}


async def test_card_that_went_away_with_an_image_is_not_forgotten_yet(
    world: World, make_card: Make
) -> None:
    card = make_card("a")
    await world.join(card)
    await world.submit(1)
    await world.dispatch()
    world.leave(card)
    with pytest.raises(Problem, match="may still bring back"):
        await admin_calls.forget_card(world.account, "a")
