"""The short way of a job's four writes: it says what the long way says, and notices when what it
remembers is not so."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import psycopg
import pytest
import pytest_asyncio

from foxden_broker.store import jobs, leases
from foxden_broker.store.base import Assign, Job, LeaseLost, Picture, Store
from foxden_broker.store.hot import Memory, Remembered
from foxden_broker.store.sql_store import SqlStore, open_store
from foxden_proto.states import JobState, TaskEvent, TaskState

World = Any  # of conftest.py
NewUrl = Callable[[], str]
E, T, J = TaskEvent, TaskState, JobState
DAY_MS = 86_400_000
PICTURE = Picture("p", 1, b"")


@pytest.fixture
def no_long_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: Any) -> None:
        raise AssertionError("this went the long way")

    monkeypatch.setattr(jobs, "submit", forbidden)
    for name in ("assign", "start", "finish"):
        monkeypatch.setattr(leases, name, forbidden)


def given(job_id: str, *indices: int) -> list[Assign]:
    return [Assign(job_id, index, "c", "C", "a", batch=len(indices)) for index in indices]


def memory_of(store: Store) -> Memory:
    assert isinstance(store, SqlStore)
    return store._memory


@pytest.mark.usefixtures("no_long_way")
async def test_job_of_several_images_x_submit_to_done_x_nothing_is_read_before(
    world: World,
) -> None:
    submitted = await world.submit(3, idempotency_key="k")
    job_id = submitted.job.job_id
    assert await world.job(job_id) == submitted.job
    leased = await world.store.assign("den", given(job_id, 0, 2), world.tick())
    assert [(one.task.index, one.task.lease_no, one.revision) for one in leased] == [
        (0, 1, 2),
        (2, 1, 3),
    ]
    (third,) = await world.store.assign("den", given(job_id, 1), world.tick())
    for change in (*leased, third):
        started = await world.store.start("den", change.task.lease, world.tick())
        assert started is not None
        assert started.job_state is J.RUNNING
        world.now += 1000
        done, holds = await world.finish(change.task.lease)
        assert (done.task.state, holds) == (T.DONE, True)
    job = await world.job(job_id)
    assert (job.state, job.done, job.revision, job.ended_ms) == (J.DONE, 3, 10, world.now)
    assert [task.attempts[0].outcome for task in job.tasks] == ["finish"] * 3
    assert not len(memory_of(world.store)), "what ended is not remembered"


async def test_long_way_and_short_way_answer_and_store_the_same(world: World) -> None:
    """Two accounts hear the same; what is remembered of the second is forgotten before each call,
    so that every one of its writes goes the long way."""
    seed = random.randrange(2**32)
    dice = random.Random(seed)
    store = world.store
    memory = memory_of(store)
    await store.ensure_account("cub", "Cub", 1)
    known: dict[str, int] = {}
    short = 0

    def plain(answer: Any) -> Any:
        if isinstance(answer, Job):
            return replace(answer, account_id="")
        if hasattr(answer, "job"):
            return replace(answer, job=replace(answer.job, account_id=""))
        return answer

    async def both(call: Callable[[str], Any]) -> Any:
        nonlocal short
        first = await call("den")
        short += bool(len(memory))
        memory.forget(("cub", job_id) for job_id in known)
        second = await call("cub")
        assert plain(first) == plain(second), f"seed {seed}"
        return first

    def lease_of(job_id: str, index: int) -> Any:
        return replace(tasks[job_id][index].lease)

    tasks: dict[str, Any] = {}
    for _ in range(150):
        now = world.tick()
        if not known or dice.random() < 0.1:
            job_id, count = f"job-{len(known)}", dice.choice([1, 1, 2, 3])
            new = world.new_job(count, job_id=job_id, idempotency_key=dice.choice(["", job_id]))
            known[job_id] = count
            answer = await both(
                lambda account, new=new: store.submit(
                    replace(new, account_id=account), key_window_ms=DAY_MS
                )
            )
            tasks[job_id] = answer.job.tasks
            continue
        job_id = dice.choice(list(known)[-4:])
        index = dice.randrange(known[job_id])
        lease = lease_of(job_id, index)
        some = given(job_id, *dice.sample(range(known[job_id]), dice.randint(1, known[job_id])))
        event = dice.choice([E.LOSE, E.FAIL, E.RELEASE])
        calls: list[Callable[[str], Any]] = [
            lambda a, s=some, n=now: store.assign(a, s, n),
            lambda a, s=some, n=now: store.assign(a, s, n),
            lambda a, x=lease, n=now: store.start(a, x, n),
            lambda a, x=lease, n=now: store.start(a, x, n),
            lambda a, x=lease, n=now: store.finish(a, x, PICTURE, n),
            lambda a, x=lease, n=now, e=event: store.end_lease(a, x, e, "why", n),
            lambda a, j=job_id, n=now: store.cancel(a, j, "stop", n),
            lambda a, j=job_id, n=now: store.retry(a, j, n),
        ]
        weights = [4, 4, 4, 4, 6, 2, 0.5, 1]
        await both(dice.choices(calls, weights)[0])
        mine, other = [await store.job(a, job_id, attempts=True) for a in ("den", "cub")]
        assert mine is not None
        assert plain(mine) == plain(other), f"seed {seed}"
        tasks[job_id] = mine.tasks
    assert short > 30, f"seed {seed}"


@pytest.mark.usefixtures("no_long_way")
async def test_broker_that_starts_again_remembers_what_waits_and_runs(
    new_url: NewUrl, new_world: Callable[[Store], World]
) -> None:
    url = new_url()
    before = new_world(await open_store(url))
    waiting, running = await before.queued(2), await before.queued()
    lease = await before.started(running)
    await before.store.close()

    after = new_world(await open_store(url))
    after.now = 5_000
    assert len(await after.store.open_tasks("den")) == 3
    (change, _) = await after.store.assign("den", given(waiting, 0, 1), after.tick())
    assert change.revision == 2
    done, holds = await after.finish(lease)
    assert (done.job_state, holds) == (J.DONE, True)
    await after.store.close()


async def test_epoch_of_another_broker_x_assign_x_the_others_of_its_group_are_written(
    world: World,
) -> None:
    assert (await world.store.lease_account("den", "r", 1, 2)).epoch == 1
    ids = [await world.queued() for _ in range(4)]
    answers = await asyncio.gather(
        *(
            world.store.assign("den", given(job_id, 0), world.now, epoch=2 if n == 1 else 1)
            for n, job_id in enumerate(ids)
        ),
        return_exceptions=True,
    )
    assert isinstance(answers.pop(1), LeaseLost)
    assert all(len(one) == 1 for one in answers)
    assert [(await world.task(job_id)).state for job_id in ids] == [
        T.LEASED,
        T.QUEUED,
        T.LEASED,
        T.LEASED,
    ]


Two = tuple[World, World]


@pytest_asyncio.fixture
async def two(postgresql_url: NewUrl, new_world: Callable[[Store], World]) -> AsyncIterator[Two]:
    """Two brokers' stores on one database."""
    url = postgresql_url()
    stores = [await open_store(url) for _ in range(2)]
    await stores[0].ensure_account("den", "Den", 1)
    yield new_world(stores[0]), new_world(stores[1])
    for store in stores:
        await store.close()


async def test_job_that_another_broker_changed_x_start_x_the_answer_is_of_now(two: Two) -> None:
    mine, other = two
    ids = [await mine.queued() for _ in range(5)]
    given_out = [await mine.leased(job_id) for job_id in ids]
    assert await other.store.start("den", given_out[0], 2_000)
    await other.store.cancel("den", ids[1], "stop", 2_000)
    answers = await asyncio.gather(*(mine.store.start("den", one, 3_000) for one in given_out))
    assert answers[0] is None, "it runs already"
    assert [one.revision for one in answers[1:]] == [3] * 4
    assert (await mine.job(ids[1])).cancel_requested, "not written over"
    assert {(await mine.job(job_id)).revision for job_id in ids} == {3}


async def test_two_brokers_write_the_same_jobs_at_once_each_change_is_one_ones(two: Two) -> None:
    ids = [await two[0].queued(2) for _ in range(6)]
    for one in two:
        await one.store.open_tasks("den")
    for step in ("assign", "start", "finish"):
        calls = []
        for job_id in random.sample(ids, len(ids)):
            for one in two:
                for index in (0, 1):
                    lease = replace((await one.task(job_id, index)).lease)
                    if step == "assign":
                        calls.append(one.store.assign("den", given(job_id, index), 2_000))
                    elif step == "start":
                        calls.append(one.store.start("den", lease, 3_000))
                    else:
                        calls.append(one.store.finish("den", lease, Picture("p", 1, b""), 4_000))
        answers = await asyncio.gather(*calls)
        won = [a[0] if step == "finish" else a for a in answers]
        assert sum(1 for one in won if one) == 12, step
    for job_id in ids:
        job = await two[0].job(job_id)
        assert (job.state, job.done, job.revision) == (J.DONE, 2, 7)
        assert sorted(task.revision for task in job.tasks)[-1] == 7


async def test_job_that_another_transaction_holds_stops_nobody_else(
    two: Two, postgresql_url: NewUrl, cluster: Any
) -> None:
    mine, _ = two
    held, free = await mine.queued(), await mine.queued()
    first, second = await mine.leased(held), await mine.leased(free)
    with psycopg.connect(cluster.url().replace("+psycopg", "")) as holder:
        holder.execute("SELECT 1 FROM job WHERE job_id = %s FOR UPDATE", (held,))
        waiting = asyncio.create_task(mine.store.start("den", first, 2_000))
        other = await mine.store.start("den", second, 2_000)
        assert other is not None
        assert not waiting.done()
        third = await mine.queued()
        assert not waiting.done()
        assert (await mine.job(third)).state is J.QUEUED
    change = await waiting
    assert change is not None
    assert change.revision == 3


def test_memory_full_x_another_job_x_the_one_that_changed_longest_ago_is_forgotten() -> None:
    memory = Memory(most=3)
    memory.keep({("a", "1"): 1, ("a", "2"): 1, ("a", "3"): 1})
    memory.keep({("a", "1"): 1})
    memory.keep({("a", "4"): 1})
    assert [memory.get(("a", str(n))) for n in range(1, 5)] == [1, None, 1, 1]


async def test_memory_counts_the_images_of_jobs_that_were_begun(world: World) -> None:
    job_id = await world.queued(4)
    await world.leased(job_id)
    entry = memory_of(world.store).get(("den", job_id))
    assert isinstance(entry, Remembered)
    memory = Memory(most=5)
    memory.keep({("a", "1"): 1, ("a", "2"): 1})
    memory.keep({("den", job_id): entry})
    assert [memory.get(("a", "1")), memory.get(("a", "2"))] == [None, 1]
    memory.forget([("den", job_id)])
    memory.keep({("a", str(n)): 1 for n in range(5)})
    assert len(memory) == 5


async def test_memory_hears_something_older_than_it_has_x_keeps_its_own(world: World) -> None:
    job_id = await world.queued()
    await world.leased(job_id)
    memory, key = memory_of(world.store), ("den", job_id)
    own = memory.get(key)
    memory.learn({key: 1})
    assert memory.get(key) is own
    memory.forget([key])
    memory.learn({key: 1})
    assert memory.get(key) == 1
