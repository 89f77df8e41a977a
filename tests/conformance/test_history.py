"""Jobs that ended a while ago: moved, still found, brought back, and their results swept."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from foxden_broker.store.base import Upload
from foxden_proto.states import JobState, TaskEvent, TaskState

World = Any  # of conftest.py
DAY_MS = 86_400_000
LATER = 10**12  # after everything in these tests
E, T, J = TaskEvent, TaskState, JobState


async def ended(world: World, count: int = 1, **more: Any) -> str:
    job_id: str = await world.queued(count, **more)
    for index in range(count):
        lease = await world.started(job_id, index)
        await world.finish(lease, f"{job_id}-{index}")
    return job_id


async def failed(world: World) -> str:
    """One image done, one given up after two tries."""
    job_id: str = await world.queued(2)
    await world.done(job_id, 0)
    first = await world.started(job_id, 1)
    await world.store.end_lease("den", first, E.FAIL, "too hot", world.tick())
    second = await world.started(job_id, 1, card="card-2")
    await world.store.end_lease("den", second, E.GIVE_UP, "broken", world.tick())
    return job_id


async def test_archived_job_is_found_as_it_was(world: World) -> None:
    job_id = await failed(world)
    whole, plain = await world.job(job_id), await world.store.job("den", job_id)
    later = await world.store.changed_tasks("den", job_id, 4)
    assert await world.store.archive("den", LATER, 10) == 1
    assert await world.job(job_id) == whole
    assert await world.store.job("den", job_id) == plain
    assert await world.store.changed_tasks("den", job_id, 4) == later
    assert (await world.store.changed_tasks("den", job_id, whole.revision))[1] == ()
    assert len(whole.tasks[1].attempts) == 2
    assert whole.tasks[0].picture is not None


async def test_archive_takes_the_oldest_ended_jobs_and_leaves_open_and_young_ones(
    world: World,
) -> None:
    jobs = [await ended(world) for _ in range(3)]
    running = await world.queued(2)
    await world.done(running)
    border = (await world.job(jobs[2])).ended_ms
    assert await world.store.archive("den", border, 1) == 1
    assert await world.store.archive("den", border, 10) == 1
    assert await world.store.archive("den", border, 10) == 0
    assert await world.store.archive("fox", LATER, 10) == 0
    assert [job.job_id for job, _ in await world.store.open_tasks("den")] == [running]
    assert await world.store.archive("den", LATER, 10) == 1
    assert (await world.job(running)).state is J.RUNNING


async def test_jobs_lists_hot_and_archived_ones_in_one_order(world: World) -> None:
    ids = []
    for n in range(8):
        ids.append(await ended(world, member="ann" if n % 3 else "bob"))
        if n % 2:
            await world.store.archive("den", LATER, 1)
    found, before = [], ""
    while True:
        page = await world.store.jobs("den", before=before, limit=3)
        assert page.total == 8
        found += [job.job_id for job in page.jobs]
        before = page.next_before
        if not before:
            break
    assert found == ids[::-1]
    mine = await world.store.jobs("den", member="bob", state=J.DONE)
    assert [job.job_id for job in mine.jobs] == [ids[6], ids[3], ids[0]]


async def test_archived_job_cannot_be_cancelled_and_says_what_it_is(world: World) -> None:
    job_id = await ended(world)
    before = await world.store.job("den", job_id)
    await world.store.archive("den", LATER, 10)
    cancelled = await world.store.cancel("den", job_id, "late", world.tick())
    assert (cancelled.job, cancelled.changes, cancelled.running) == (before, (), ())


async def test_finish_again_of_an_archived_picture_holds(world: World) -> None:
    job_id = await world.queued()
    lease = await world.done(job_id)
    await world.store.archive("den", LATER, 10)
    assert await world.finish(lease, "again") == (None, True)
    stale = lease.__class__(job_id, 0, lease.lease_no + 1)
    assert await world.finish(stale, "other") == (None, False)


async def test_key_of_an_archived_job_still_finds_it(world: World) -> None:
    first = await world.submit(idempotency_key="k")
    await world.store.cancel("den", first.job.job_id, "x", world.tick())
    await world.store.archive("den", LATER, 10)
    again = await world.submit(idempotency_key="k")
    assert (again.repeated, again.job.job_id) == (True, first.job.job_id)
    await world.store.forget_history("den", LATER, 10)
    fresh = await world.submit(idempotency_key="k")
    assert not fresh.repeated
    assert (await world.submit(idempotency_key="k")).job.job_id == fresh.job.job_id


async def test_archived_failure_is_retried_and_ends_and_is_archived_again(world: World) -> None:
    job_id = await failed(world)
    await world.store.archive("den", LATER, 10)
    (change,) = await world.store.retry("den", job_id, world.tick())
    assert (change.event, change.task.index, change.job_state) == (E.RETRY, 1, J.RUNNING)
    assert [task.index for _, task in await world.store.open_tasks("den")] == [1]
    lease = await world.leased(job_id, 1)
    assert lease.lease_no == 3
    await world.store.start("den", lease, world.tick())
    await world.finish(lease, "second")
    job = await world.job(job_id)
    assert (job.state, job.done) == (J.DONE, 2)
    assert await world.store.archive("den", LATER, 10) == 1
    assert await world.job(job_id) == job


async def test_retry_of_an_archived_job_without_failures_leaves_it_there(world: World) -> None:
    await ended(world)
    job_id = await ended(world)
    await world.store.archive("den", LATER, 10)
    assert await world.store.retry("den", job_id, world.tick()) == ()
    assert await world.store.archive("den", LATER, 10) == 0
    assert await world.store.forget_history("den", LATER, 10) == 0, "they have pictures"


async def test_archive_by_many_at_once_moves_each_job_once(world: World) -> None:
    jobs = [await ended(world) for _ in range(12)]
    before = [await world.job(job_id) for job_id in jobs]
    moved = await asyncio.gather(*(world.store.archive("den", LATER, 5) for _ in range(6)))
    left = await world.store.archive("den", LATER, 50)
    assert sum(moved) + left == 12
    assert [await world.job(job_id) for job_id in jobs] == before
    (used,) = await world.store.usage("den", first_day="1970-01-01", last_day="1970-01-01")
    assert used.images == 12


async def test_archive_while_jobs_end_loses_none(world: World) -> None:
    leases = [await world.started(await world.queued()) for _ in range(16)]
    finishing = [world.finish(lease, f"n{n}") for n, lease in enumerate(leases)]
    archiving = [world.store.archive("den", LATER, 3) for _ in range(12)]
    results = await asyncio.gather(*finishing, *archiving)
    assert all(holds for _, holds in results[:16])
    page = await world.store.jobs("den")
    assert (page.total, {job.state for job in page.jobs}) == (16, {J.DONE})


async def sweep(world: World, before: int = LATER, most: int = 0, limit: int = 100) -> list[str]:
    return list(
        await world.store.sweep_results(
            "den", ended_before_ms=before, most_bytes=most, limit=limit, now_ms=world.tick()
        )
    )


def blob(name: str) -> str:
    return name.ljust(64, "0")


async def test_sweep_forgets_pictures_of_old_archived_jobs_only(world: World) -> None:
    old, young, hot = await ended(world, 2), await ended(world), await ended(world)
    await world.store.archive("den", (await world.job(hot)).ended_ms, 10)
    border = (await world.job(young)).ended_ms
    assert await sweep(world, border) == [blob(f"{old}-0"), blob(f"{old}-1")]
    assert await sweep(world, border) == []
    assert [task.picture for task in (await world.job(old)).tasks] == [None, None]
    assert (await world.task(young)).picture is not None
    assert await sweep(world, LATER) == [blob(f"{young}-0")]
    assert (await world.task(hot)).picture is not None


async def test_sweep_beyond_the_size_takes_the_oldest_until_it_fits(world: World) -> None:
    jobs = [await ended(world) for _ in range(4)]  # 7 bytes each
    await world.store.archive("den", LATER, 10)
    assert await sweep(world, before=0, most=28) == []
    assert await sweep(world, before=0, most=20) == [blob(f"{j}-0") for j in jobs[:2]]
    await world.store.add_upload(Upload("den", "u", "a" * 64, 10, "image/png", world.tick()))
    assert await sweep(world, before=0, most=20) == [blob(f"{jobs[2]}-0")]


async def test_sweep_takes_no_more_than_its_limit(world: World) -> None:
    for _ in range(3):
        await ended(world)
    await world.store.archive("den", LATER, 10)
    assert [len(await sweep(world, limit=2)) for _ in range(3)] == [2, 1, 0]


async def test_sweep_keeps_a_blob_that_something_else_refers_to(world: World) -> None:
    first, second = await world.queued(), await world.queued()
    await world.finish(await world.started(first), "same")
    await world.finish(await world.started(second), "same")
    at = world.tick()
    await world.store.add_upload(Upload("den", "u", blob("same"), 7, "image/png", at))
    await world.store.archive("den", (await world.job(second)).ended_ms, 10)
    assert await sweep(world, before=at) == []
    assert await world.store.referred("den", [blob("same"), blob("x")]) == {blob("same")}
    assert await world.store.referred("fox", [blob("same")]) == frozenset()
    await world.store.archive("den", LATER, 10)
    assert await sweep(world, before=at) == []
    await world.store.cancel("den", await world.queued(), "x", 5)
    assert await sweep(world) == [blob("same")]
    assert await world.store.upload("den", "u") is None


async def test_sweep_leaves_uploads_that_jobs_used_or_may_use(world: World) -> None:
    for n in range(3):
        await world.store.add_upload(Upload("den", f"u{n}", blob(f"u{n}"), 1, "image/png", 5))
    used = await world.queued(uploads=("u0", "u9"))
    await world.store.cancel("den", used, "x", world.tick())
    border = (await world.job(used)).created_ms
    assert await sweep(world, border) == [blob("u1"), blob("u2")]
    waiting = await world.queued(uploads=("u0",))
    assert await sweep(world) == []
    await world.store.cancel("den", waiting, "x", world.tick())
    assert await sweep(world) == [blob("u0")]


async def test_sweep_while_others_refer_never_forgets_a_reference(world: World) -> None:
    """What is returned as free is either free or, when asked again, known to be in use."""
    for n in range(8):
        await world.finish(await world.started(await world.queued()), f"s{n}")
    await world.store.archive("den", LATER, 100)
    adding = [
        world.store.add_upload(Upload("den", f"u{n}", blob(f"s{n}"), 1, "image/png", LATER))
        for n in range(8)
    ]
    sweeping = [sweep(world, limit=3) for _ in range(4)]
    results = await asyncio.gather(*adding[:4], *sweeping, *adding[4:])
    free = {sha for result in results if result for sha in result}
    free |= set(await sweep(world))
    in_use = await world.store.referred("den", sorted(free | {blob(f"s{n}") for n in range(8)}))
    assert in_use == {blob(f"s{n}") for n in range(8)}
    for n in range(8):
        assert (await world.store.upload("den", f"u{n}")).sha256 == blob(f"s{n}")


async def test_forget_history_deletes_the_oldest_that_keep_no_picture(world: World) -> None:
    first = await ended(world)
    second = await world.queued()
    await world.store.cancel("den", second, "x", world.tick())
    await world.store.archive("den", LATER, 10)
    used = await world.store.usage("den", first_day="1970-01-01", last_day="1970-01-01")
    assert await world.store.forget_history("den", LATER, 10) == 1
    assert await world.store.job("den", second) is None
    await sweep(world)
    assert await world.store.forget_history("den", 1, 10) == 0
    assert await world.store.forget_history("den", LATER, 10) == 1
    assert await world.store.job("den", first) is None
    assert (await world.store.jobs("den")).jobs == ()
    assert await world.store.usage("den", first_day="1970-01-01", last_day="1970-01-01") == used


async def test_sweep_keys_forgets_the_old_ones(world: World) -> None:
    first = await world.submit(idempotency_key="old")
    second = await world.submit(idempotency_key="new")
    assert await world.store.sweep_keys("fox", LATER, 10) == 0
    assert await world.store.sweep_keys("den", second.job.created_ms, 10) == 1
    assert not (await world.submit(idempotency_key="old")).repeated
    assert (await world.submit(idempotency_key="new")).repeated
    assert await world.store.sweep_keys("den", LATER, 1) == 1
    assert (await world.job(first.job.job_id)).state is J.QUEUED


@pytest.mark.parametrize("archived", [False, True], ids=["hot", "archived"])
async def test_usage_counts_images_and_the_time_cards_were_held(
    world: World, archived: bool
) -> None:
    day = 20_000 * DAY_MS  # 2024-10-04
    world.now = day
    job_id = await world.queued(3)
    lease = await world.leased(job_id)
    await world.store.start("den", lease, day + 100)
    await world.store.end_lease("den", lease, E.FAIL, "x", day + 400)  # 300 ms, no image
    lease = await world.leased(job_id)
    await world.store.start("den", lease, day + 1_000)
    await world.store.end_lease("den", lease, E.RELEASE, "a game", day + 1_010)
    await world.store.end_lease("den", lease, E.RELEASED, "", day + 1_050)  # 50
    refused = await world.leased(job_id)
    await world.store.end_lease("den", refused, E.REFUSE, "no", day + 9_000)  # never started
    from foxden_broker.store.base import Assign, Picture

    both = [Assign(job_id, n, "c", "C", "a", batch=2) for n in (0, 1)]
    for change in await world.store.assign("den", both, day + 10_000):
        at = DAY_MS - 1_000 if change.task.index == 0 else DAY_MS - 200
        await world.store.start("den", change.task.lease, day + at)
        end = day + DAY_MS - 1 if change.task.index == 0 else day + DAY_MS
        await world.store.finish("den", change.task.lease, Picture("p", 1, b""), end)
    await world.store.cancel("den", job_id, "x", day + DAY_MS)
    await world.queued(member="bob")
    if archived:
        assert await world.store.archive("den", LATER * 10, 10) == 1
    used = await world.store.usage("den", first_day="2024-10-04", last_day="2024-10-05")
    assert [(u.member, u.day, u.images, u.gpu_ms) for u in used] == [
        ("ann", "2024-10-04", 1, 300 + 50 + 999 // 2),
        ("ann", "2024-10-05", 1, 100),
    ]
    assert await world.store.usage(
        "den", member="ann", first_day="2024-10-05", last_day="2024-10-09"
    ) == (used[1],)
    for nothing in ({"member": "bob"}, {"member": "eve"}):
        days = {"first_day": "2024-10-01", "last_day": "2024-10-31"}
        assert await world.store.usage("den", **days, **nothing) == ()
    assert await world.store.usage("fox", first_day="2024-10-01", last_day="2024-10-31") == ()


async def test_usage_of_a_job_that_came_back_is_counted_once(world: World) -> None:
    days = {"first_day": "1970-01-01", "last_day": "1970-01-02"}
    job_id = await failed(world)
    used = await world.store.usage("den", **days)
    for _ in range(2):
        await world.store.archive("den", LATER, 10)
        assert await world.store.usage("den", **days) == used
        await world.store.retry("den", job_id, world.tick())
        assert await world.store.usage("den", **days) == used
        end = [(job_id, 1)]
        await world.store.end_queued("den", end, E.GIVE_UP, "no card", world.tick())
        assert await world.store.usage("den", **days) == used
    assert used[0].images == 1


async def test_usage_of_days_that_are_none_is_an_error(world: World) -> None:
    with pytest.raises(ValueError, match="today"):
        await world.store.usage("den", first_day="today", last_day="2024-10-05")
