"""The fence: what a broker that does not plan any more may still write, on a real store."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from foxden_broker.account import now_ms
from foxden_broker.replica_rules import Term
from foxden_broker.store.base import Assign, LeaseLost, NewJob, Store
from foxden_broker.store.sql_store import open_store
from foxden_broker.tenure import Tenure, fenced
from foxden_proto.link import LeaseKey
from foxden_proto.states import TaskEvent, TaskState

DAY_MS = 86_400_000


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await open_store(str(tmp_path / "foxden.db"))
    await opened.ensure_account("den", "Den", 1)
    yield opened
    await opened.close()


def lasting(seconds: float) -> Term:
    return Term(time.monotonic() + seconds, now_ms() + int(seconds * 1000))


async def tenure_of(store: Store, replica: str = "r1", seconds: float = 60.0) -> Tenure:
    lease = await store.lease_account("den", replica, now_ms(), now_ms() + int(seconds * 1000))
    assert lease is not None
    return Tenure("den", lease.epoch, lasting(seconds))


async def submit(store: Store) -> None:
    job = NewJob("den", "job", "ann", b"request", "m" * 64, 2, 2, now_ms())
    await store.submit(job, key_window_ms=DAY_MS)


ASSIGN = [Assign("job", 0, "card", "CARD", "agent")]
LEASE = LeaseKey("job", 0, 1)


async def test_tenure_that_holds_writes_as_before(store: Store) -> None:
    tenure = await tenure_of(store)
    mine = fenced(store, tenure)
    await submit(mine)
    (change,) = await mine.assign("den", ASSIGN, now_ms())
    assert change.task.state is TaskState.LEASED
    assert await mine.start("den", change.task.lease, now_ms()) is not None


async def test_tenure_run_out_refuses_every_planning_write_and_is_over(store: Store) -> None:
    await submit(store)
    (change,) = await store.assign("den", ASSIGN, now_ms())
    tenure = Tenure("den", 1, lasting(-0.001))
    mine = fenced(store, tenure)
    attempts = [
        mine.assign("den", [Assign("job", 1, "card", "CARD", "agent")], now_ms()),
        mine.start("den", change.task.lease, now_ms()),
        mine.end_lease("den", change.task.lease, TaskEvent.LOSE, "silent", now_ms()),
        mine.end_queued("den", [("job", 1)], TaskEvent.EXPIRE, "late", now_ms()),
        mine.cancel("den", "job", "no", now_ms()),
        mine.resolve("den", "job", b"", "m"),
    ]
    for attempt in attempts:
        with pytest.raises(LeaseLost, match="does not plan"):
            await attempt
    assert tenure.over.is_set()
    job = await store.job("den", "job")
    assert job is not None
    assert [task.state for task in job.tasks] == [TaskState.LEASED, TaskState.QUEUED]


async def test_tenure_over_still_stores_what_any_broker_may_and_reads(store: Store) -> None:
    tenure = Tenure("den", 1, lasting(60))
    tenure.end("stepped down")
    mine = fenced(store, tenure)
    await submit(mine)
    assert await mine.job("den", "job") is not None
    assert await mine.accounts() == ("den",)


async def test_epoch_that_another_has_raised_refuses_assign_though_the_clock_says_it_holds(
    store: Store,
) -> None:
    tenure = await tenure_of(store, "r1")
    mine = fenced(store, tenure)
    await submit(store)
    await store.leave_account("den", "r1", tenure.epoch)
    await tenure_of(store, "r2")
    with pytest.raises(LeaseLost):
        await mine.assign("den", ASSIGN, now_ms())
    assert tenure.over.is_set()
    job = await store.job("den", "job")
    assert job is not None
    assert job.tasks[0].state is TaskState.QUEUED


async def test_tenure_renewed_goes_on(store: Store) -> None:
    tenure = Tenure("den", 1, lasting(-1))
    assert not tenure.holds
    tenure.renewed(lasting(60))
    assert tenure.holds
    tenure.end("asked to stop")
    tenure.renewed(lasting(60))
    assert not tenure.holds  # never begins again
