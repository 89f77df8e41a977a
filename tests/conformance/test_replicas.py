"""Several brokers on one database, and what administrators decide on members and cards."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from foxden_broker.store.base import Assign, LeaseLost, Quota, Replica, SchedulingLease
from foxden_broker.store.sql_store import open_store
from foxden_proto.states import TaskState

World = Any  # of conftest.py


async def test_free_account_is_taken_extended_and_refused_to_others(world: World) -> None:
    store = world.store
    assert await store.scheduling_lease("den") is None
    mine = await store.lease_account("den", "a", 100, 200)
    assert mine == SchedulingLease("den", "a", 1, 200)
    assert await store.lease_account("den", "b", 199, 300) is None
    assert await store.scheduling_lease("den") == mine
    assert await store.lease_account("den", "a", 150, 250) == replace(mine, until_ms=250)
    assert await store.lease_account("fox", "b", 150, 250) == SchedulingLease("fox", "b", 1, 250)


async def test_expired_lease_is_another_ones_with_the_next_epoch(world: World) -> None:
    store = world.store
    await store.lease_account("den", "a", 100, 200)
    assert await store.lease_account("den", "b", 200, 300) == SchedulingLease("den", "b", 2, 300)
    assert await store.lease_account("den", "a", 201, 400) is None
    await store.leave_account("den", "a", 1)
    assert (await store.scheduling_lease("den")).replica_id == "b"


async def test_own_expired_lease_that_nobody_took_keeps_its_epoch(world: World) -> None:
    await world.store.lease_account("den", "a", 100, 200)
    assert (await world.store.lease_account("den", "a", 900, 1_000)).epoch == 1


async def test_lease_given_up_is_free_at_once(world: World) -> None:
    await world.store.lease_account("den", "a", 100, 200)
    await world.store.leave_account("den", "a", 1)
    await world.store.leave_account("den", "a", 1)
    assert (await world.store.scheduling_lease("den")).replica_id == ""
    assert (await world.store.lease_account("den", "b", 101, 300)).epoch == 2
    await world.store.leave_account("den", "b", 1)  # an old epoch
    assert (await world.store.scheduling_lease("den")).replica_id == "b"


async def test_account_taken_by_many_at_once_is_one_ones(world: World) -> None:
    now = 1_000
    for epoch in range(1, 11):
        names = [f"r{n}" for n in range(8)]
        took = await asyncio.gather(
            *(world.store.lease_account("den", f"{name}-{epoch}", now, now + 5) for name in names)
        )
        (winner,) = [lease for lease in took if lease is not None]
        assert winner.epoch == epoch
        assert await world.store.scheduling_lease("den") == winner
        now += 10


async def test_account_taken_by_two_replicas_at_once_is_one_ones(postgresql_url: Any) -> None:
    """With a store, and so with connections, each."""
    url = postgresql_url()
    stores = [await open_store(url), await open_store(url)]
    try:
        for epoch in range(1, 21):
            now = epoch * 10
            took = await asyncio.gather(
                *(s.lease_account("den", f"r{n}", now, now + 10) for n, s in enumerate(stores))
            )
            # Its own it extends, another's it takes only after `until`: never both.
            assert len([lease for lease in took if lease is not None]) == 1
    finally:
        for store in stores:
            await store.close()


async def test_assign_with_the_epoch_of_now_is_written(world: World) -> None:
    lease = await world.store.lease_account("den", "a", 100, 200)
    job_id = await world.queued()
    given = [Assign(job_id, 0, "c", "C", "a")]
    assert len(await world.store.assign("den", given, 5, epoch=lease.epoch)) == 1


@pytest.mark.parametrize("epoch", [0, 1, 3])
async def test_assign_with_another_epoch_writes_nothing(world: World, epoch: int) -> None:
    await world.store.lease_account("den", "a", 100, 200)
    await world.store.lease_account("den", "b", 200, 300)
    job_id = await world.queued()
    before = await world.job(job_id)
    with pytest.raises(LeaseLost, match="den"):
        await world.store.assign("den", [Assign(job_id, 0, "c", "C", "a")], 5, epoch=epoch)
    assert await world.job(job_id) == before


async def test_assign_with_an_epoch_where_nobody_leads_writes_nothing(world: World) -> None:
    job_id = await world.queued()
    with pytest.raises(LeaseLost):
        await world.store.assign("den", [Assign(job_id, 0, "c", "C", "a")], 5, epoch=1)
    assert (await world.task(job_id)).state is TaskState.QUEUED


async def test_assign_while_the_account_is_taken_over_is_before_it_or_not_at_all(
    world: World,
) -> None:
    await world.store.lease_account("den", "a", 0, 1)
    jobs = [await world.queued() for _ in range(20)]
    taking = world.store.lease_account("den", "b", 10, 20)
    assigning = [
        world.store.assign("den", [Assign(job_id, 0, "c", "C", "a")], 5, epoch=1) for job_id in jobs
    ]
    results = await asyncio.gather(*assigning[:10], taking, *assigning[10:], return_exceptions=True)
    assert results.pop(10).epoch == 2
    for job_id, result in zip(jobs, results, strict=True):
        held = (await world.task(job_id)).state is TaskState.LEASED
        assert held == (not isinstance(result, LeaseLost)), "told what was done"
    with pytest.raises(LeaseLost):
        await world.store.assign("den", [Assign(jobs[0], 0, "c", "C", "a")], 5, epoch=1)


async def test_open_tasks_created_after_are_those_of_later_jobs(world: World) -> None:
    await world.queued(created_ms=500)
    later = await world.queued(created_ms=501)
    found = await world.store.open_tasks("den", created_after_ms=500)
    assert [job.job_id for job, _ in found] == [later]
    assert len(await world.store.open_tasks("den")) == 2


async def test_replicas_are_those_seen_since(world: World) -> None:
    store = world.store
    one = Replica("r1", "10.0.0.1:7443", "", "1.0", 100)
    two = Replica("r2", "[::1]:7443", "-----BEGIN", "1.1", 200)
    for replica in (two, one):
        await store.save_replica(replica)
    assert list(await store.replicas(99)) == [one, two]
    assert list(await store.replicas(100)) == [two]
    await store.save_replica(replace(one, seen_ms=300, address="other:1"))
    assert list(await store.replicas(250)) == [replace(one, seen_ms=300, address="other:1")]
    await store.forget_replica("r1")
    await store.forget_replica("r1")
    assert list(await store.replicas(0)) == [two]


async def test_secret_is_the_first_candidate_for_everybody(world: World) -> None:
    told = await asyncio.gather(
        *(world.store.secret("upload key", bytes([n]) * 32) for n in range(16))
    )
    assert len(set(told)) == 1
    assert told[0] in {bytes([n]) * 32 for n in range(16)}
    assert await world.store.secret("other", b"x") == b"x"


async def test_quota_is_set_changed_and_read_back(world: World) -> None:
    await world.store.set_quota("den", Quota("bob", 10, 2, 3_600.5), 1)
    await world.store.set_quota("den", Quota("ann", 0, 0, 0), 2)
    await world.store.set_quota("den", Quota("bob", 20, 0, 0), 3)
    assert list(await world.store.quotas("den")) == [Quota("ann", 0, 0, 0), Quota("bob", 20, 0, 0)]
    assert list(await world.store.quotas("fox")) == []


async def test_standing_of_a_card_is_kept_when_its_agent_tells_of_it_again(world: World) -> None:
    async def save(*cards: str) -> None:
        await world.store.save_cards("den", "a", "A", "1", [(c, b"i") for c in cards], 1)

    async def standings() -> list[tuple[str, str]]:
        return [(row.card_id, row.standing) for row in await world.store.cards("den")]

    await save("c1", "c2")
    assert await world.store.set_card_standing("den", "c1", "draining", 2)
    await save("c1", "c2")
    assert await standings() == [("c1", "draining"), ("c2", "")]
    assert await world.store.set_card_standing("den", "c1", "", 3)
    assert await standings() == [("c1", ""), ("c2", "")]
    assert not await world.store.set_card_standing("den", "c9", "cordoned", 3)
    assert not await world.store.set_card_standing("fox", "c1", "cordoned", 3)
    with pytest.raises(ValueError, match="asleep"):
        await world.store.set_card_standing("den", "c1", "asleep", 3)


async def test_forgotten_card_is_gone_until_its_agent_tells_of_it(world: World) -> None:
    await world.store.save_cards("den", "a", "A", "1", [("c1", b"i")], 1)
    await world.store.set_card_standing("den", "c1", "cordoned", 2)
    assert not await world.store.forget_card("fox", "c1")
    assert await world.store.forget_card("den", "c1")
    assert not await world.store.forget_card("den", "c1")
    assert await world.store.cards("den") == ()
    await world.store.save_cards("den", "a", "A", "1", [("c1", b"i")], 3)
    (row,) = await world.store.cards("den")
    assert row.standing == ""
