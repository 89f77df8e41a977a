"""What is kept, for how long and how much of it; on a real store and a real folder."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from one_account import ANN, World, new_store, now_ms

from foxden_broker import client_calls, sweeper
from foxden_broker.store.base import Upload
from foxden_broker.sweeper import Keep
from foxden_proto.problems import Problem, Reason
from foxden_proto.timers import Timers
from foxden_proto.v1 import generation_pb2 as gen

Make = Callable[..., Any]
AT_ONCE = replace(Timers(), archive=0.0, blob_grace=0.0)
FOREVER = Keep(None, None, 0)


@pytest_asyncio.fixture
async def world(tmp_path: Path, make_card: Make) -> AsyncIterator[World]:
    store = await new_store(tmp_path)
    world = World(store, tmp_path, timers=AT_ONCE)
    await world.join(make_card("a"))
    yield world
    await store.close()


async def download(world: World, job_id: str, index: int = 0) -> bytes:
    request = gen.DownloadRequest(picture=gen.PictureRef(job_id=job_id, index=index))
    chunks = client_calls.download(world.account, ANN, request)
    return b"".join([message.chunk async for message in chunks])


async def later(world: World, keep: Keep = FOREVER) -> None:
    """A round of the sweeper, a little after the last thing that happened."""
    await asyncio.sleep(0.003)  # ages are told in whole milliseconds
    await sweeper.sweep(world.account, keep, set())


async def test_results_within_their_time_stay_and_job_moves_to_history(world: World) -> None:
    job_id, _ = await world.draw(2)
    await later(world, Keep(60_000, None, 0))
    told = world.account.metrics.text().decode()
    assert 'foxden_swept_total{what="jobs_archived"} 1.0' in told
    assert await world.store.archive("main", 2**53, 10) == 0  # it is there already
    assert await download(world, job_id, 1)


async def test_results_past_their_time_are_gone_with_words(world: World) -> None:
    job_id, pictures = await world.draw(2)
    await later(world, Keep(1, None, 0))
    with pytest.raises(Problem, match="submit the same request with seed 2") as caught:
        await download(world, job_id, 1)
    assert caught.value.reason is Reason.NOT_FOUND
    for sha256 in pictures:
        assert await world.account.blobs.size(sha256) is None
    job = await world.job(job_id)
    assert (job.state, job.done) == (gen.JOB_STATE_DONE, 2)


async def test_watcher_of_swept_pictures_hears_that_they_are_gone(world: World) -> None:
    job_id, _ = await world.draw(1)
    await later(world, Keep(1, None, 0))
    request = gen.WatchRequest(job_id=job_id)
    events = [event async for event in client_calls.watch(world.account, ANN, request)]
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds == ["started", "task_ended", "ended"]
    assert events[1].task_ended.state == gen.TASK_STATE_DONE
    assert "is gone" in events[1].task_ended.reason


async def test_oldest_results_go_where_there_are_too_many_bytes(world: World) -> None:
    old, _ = await world.draw(1)
    new, (kept,) = await world.draw(1)
    size = await world.account.blobs.size(kept)
    assert size
    await later(world, Keep(None, None, size))
    assert await download(world, new)
    with pytest.raises(Problem, match="is gone"):
        await download(world, old)


async def test_picture_that_two_jobs_made_stays_for_the_other(world: World) -> None:
    old = await world.submit()
    (lease,) = await world.dispatch()
    await world.start(lease)
    sha256 = await world.finish(lease, b"the same")
    await world.store.archive("main", 2**53, 10)
    new = await world.submit()
    (lease,) = await world.dispatch()
    await world.start(lease)
    assert await world.finish(lease, b"the same") == sha256
    # Only the first job is in history, where results are swept from.
    loose = await world.store.sweep_results(
        "main", ended_before_ms=2**53, most_bytes=0, limit=10, now_ms=now_ms()
    )
    assert sha256 not in loose
    await sweeper.look_at_all(world.account)
    assert await download(world, new) == b"the same"
    with pytest.raises(Problem, match="is gone"):
        await download(world, old)


async def test_blob_put_again_just_before_it_goes_stays_for_who_put_it(
    world: World, make_card: Make
) -> None:
    """Swept by the store, put again by another lease before the bytes are deleted."""
    world.account.timers = replace(AT_ONCE, blob_grace=3600.0)
    _, (sha256,) = await world.draw(1)
    young: set[str] = set()
    await asyncio.sleep(0.003)
    await sweeper.sweep(world.account, Keep(1, None, 0), young)
    assert young == {sha256}  # too young to go
    assert await world.account.blobs.size(sha256)
    os.utime(world.folder / "blobs" / sha256[:2] / sha256[2:], (1, 1))
    await sweeper.sweep(world.account, Keep(1, None, 0), young)
    assert young == set()
    assert await world.account.blobs.size(sha256) is None


async def test_blob_that_nobody_refers_to_goes_after_the_grace(world: World) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"of a lease that was lost"

    blobs = world.account.blobs
    orphan, size = await blobs.put(chunks(), limit=100)
    job_id, (picture,) = await world.draw(1)

    async def sent() -> AsyncIterator[bytes]:
        yield b"of an upload"

    uploaded, _ = await blobs.put(sent(), limit=100)
    await world.store.add_upload(Upload("main", "up_1", uploaded, 12, "image/png", now_ms()))
    world.account.timers = replace(AT_ONCE, blob_grace=3600.0)
    await sweeper.look_at_all(world.account)
    assert await blobs.size(orphan) == size
    world.account.timers = AT_ONCE
    await asyncio.sleep(0.003)
    await sweeper.look_at_all(world.account)
    assert await blobs.size(orphan) is None
    assert await blobs.size(picture)
    assert await blobs.size(uploaded)
    assert await download(world, job_id)


async def test_nothing_of_a_running_job_is_swept(world: World) -> None:
    await world.draw()  # what is known to be quick is staged
    job_id = await world.submit(2)
    first, _ = sorted(await world.dispatch(), key=lambda lease: lease.index)
    await world.start(first)
    await world.finish(first)
    await later(world, Keep(1, 1, 1))
    assert await download(world, job_id, 0)
