"""What only the shared database has: connections that break, also in the middle of a commit."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
import pytest_asyncio
from postgres import Cluster
from sqlalchemy import Connection, text

from foxden_broker.store import postgres_database
from foxden_broker.store.base import Assign, NewJob, Picture, Store, StoreError, Token, Upload
from foxden_broker.store.database import open_database
from foxden_broker.store.migrate import migrate
from foxden_broker.store.sql_store import open_store
from foxden_proto.states import JobState, TaskEvent, TaskState

World = Any  # of conftest.py
NewUrl = Callable[[], str]
E, T, J = TaskEvent, TaskState, JobState


@pytest_asyncio.fixture
async def store(postgresql_url: NewUrl) -> AsyncIterator[Store]:
    store = await open_store(postgresql_url())
    await store.ensure_account("den", "Den", 1)
    yield store
    await store.close()


@pytest.fixture
def world(store: Store, new_world: Callable[[Store], World]) -> World:
    return new_world(store)


async def test_every_connection_has_its_limits(postgresql_url: NewUrl) -> None:
    names = ("statement_timeout", "idle_in_transaction_session_timeout", "application_name")

    def settings(conn: Connection) -> list[str]:
        return [conn.execute(text(f"SHOW {name}")).scalar_one() for name in names]

    def pings(conn: Connection) -> dict[str, Any]:
        raw: Any = conn.connection.driver_connection
        return dict(raw.info.get_parameters())

    def isolation(conn: Connection) -> tuple[str, str]:
        return tuple(
            conn.execute(text(f"SHOW transaction_{name}")).scalar_one()
            for name in ("isolation", "read_only")
        )

    database = open_database(postgresql_url(), migrate)
    assert await database.write(settings) == ["30s", "5s", "foxden-broker"]
    asked = await database.read(pings)
    assert asked["keepalives"] == "1"
    assert int(asked["connect_timeout"]) > 0
    assert await database.write(isolation) == ("read committed", "off")
    assert await database.read(isolation) == ("repeatable read", "on")
    await database.close()
    with pytest.raises(StoreError, match="closed"):
        await database.read(isolation)


async def test_snapshot_says_what_to_do_instead(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="pg_dump"):
        await store.snapshot(tmp_path / "copy.db")


async def test_broken_idle_connections_are_replaced(world: World, cluster: Cluster) -> None:
    for _ in range(3):
        await asyncio.gather(*(world.store.accounts() for _ in range(8)))
        assert cluster.terminate_backends() >= 1
        assert await world.store.accounts() == ("den",)
        await world.queued()


async def test_a_statement_that_takes_too_long_is_ended_in_words(postgresql_url: NewUrl) -> None:
    database = open_database(postgresql_url(), migrate)

    def slow(conn: Connection) -> None:
        conn.execute(text("SET LOCAL statement_timeout = 50"))
        conn.execute(text("SELECT pg_sleep(5)"))

    with pytest.raises(StoreError, match="statement timeout"):
        await database.write(slow)
    await database.close()


async def test_a_key_that_is_broken_in_a_batch_of_writes_is_an_error(world: World) -> None:
    """Pipelined writes: the error comes later, and must still come."""
    job_id = await world.queued()
    with pytest.raises(StoreError, match="duplicate key"):
        await world.submit(2, job_id=job_id)
    assert (await world.job(job_id)).count == 1


@dataclass
class Doubt:
    """Breaks the connection at the next commit of a write; `keep`: after it was made."""

    keep: bool
    armed: bool = False
    broke: int = 0

    def arm(self) -> None:
        self.armed = True


@pytest.fixture(params=[False, True], ids=["lost", "kept"])
def doubt(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Doubt:
    doubt = Doubt(request.param)
    plain = psycopg.Connection.commit

    def commit(self: Any) -> None:
        idle = self.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        if self.read_only or idle or not doubt.armed:
            return plain(self)
        doubt.armed = False
        doubt.broke += 1
        if doubt.keep:
            plain(self)
        self.close()
        raise psycopg.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(psycopg.Connection, "commit", commit)
    return doubt


async def test_commit_in_doubt_gives_the_answer_of_a_commit(world: World, doubt: Doubt) -> None:
    """Each use case, with its answer as if nothing had happened, and done once."""
    arm, store = doubt.arm, world.store
    arm()
    submitted = await world.submit(4, idempotency_key="k", model_sha256="")
    assert not submitted.repeated, "it is the caller's own"
    assert not submitted.conflict
    job_id = submitted.job.job_id
    assert await world.job(job_id) == submitted.job
    arm()
    keyless = await world.submit(1)
    assert not keyless.repeated
    arm()
    assert (await world.submit(4, idempotency_key="k", model_sha256="")).repeated
    arm()
    assert await store.resolve("den", job_id, b"r", "m")
    given = [Assign(job_id, index, "c", "C", "a") for index in range(3)]
    arm()
    leased = await store.assign("den", given, world.tick())
    assert [(c.task.index, c.task.lease_no) for c in leased] == [(0, 1), (1, 1), (2, 1)]
    first, second, third = (change.task.lease for change in leased)
    arm()
    assert (await store.start("den", first, world.tick())).task.state is T.RUNNING
    arm()
    change, holds = await store.finish("den", first, Picture("p", 1, b""), world.tick())
    assert (change.task.state, holds) == (T.DONE, True)
    arm()
    assert (await store.end_lease("den", second, E.RELEASE, "x", world.tick())) is not None
    arm()
    change = await store.end_lease("den", third, lambda _: E.GIVE_UP, "x", world.tick())
    assert (change.event, change.task.failures) == (E.GIVE_UP, 1)
    arm()
    assert len(await store.retry("den", job_id, world.tick())) == 1
    arm()
    assert len(await store.end_queued("den", [(job_id, 3)], E.EXPIRE, "x", world.tick())) == 1
    arm()
    cancelled = await store.cancel("den", job_id, "stop", world.tick())
    assert [c.task.index for c in cancelled.changes] == [2]
    assert [task.index for task in cancelled.running] == [1]
    token = Token("den", "t", b"x", "ann", frozenset({"generate"}), 1)
    arm()
    await store.add_token(token)
    assert await store.token("den", "t") == token
    arm()
    with pytest.raises(StoreError):
        await store.add_token(replace(token, member="eve"))
    upload = Upload("den", "u", "a", 1, "image/png", 1)
    arm()
    await store.add_upload(upload)
    assert await store.upload("den", "u") == upload
    await store.save_cards("den", "a", "A", "1", [("c", b"i")], 1)
    arm()
    assert await store.forget_card("den", "c")
    assert await store.cards("den") == ()
    arm()
    assert (await store.lease_account("den", "r", 1, 2)).epoch == 1
    assert doubt.broke >= 15
    job = await world.job(job_id)
    assert job.revision == max(task.revision for task in job.tasks) == 1 + 3 + 2 + 2 + 1 + 1 + 1


async def churn(store: Store, name: str, number: int, told: dict[str, JobState]) -> None:
    """Jobs from submit to finish. Only answers that came are relied on."""
    for n in range(number):
        job_id = f"{name}-{n}"
        new = NewJob("den", job_id, "ann", b"r", "m", 1, 2, n + 1, 0, job_id, b"d")
        with suppress(StoreError):
            submitted = await store.submit(new, key_window_ms=10**9)
            assert not submitted.repeated
            told[job_id] = J.QUEUED
            given = [Assign(job_id, 0, "c", "C", "a")]
            (change,) = await store.assign("den", given, n + 1)
            started = await store.start("den", change.task.lease, n + 2)
            assert started is not None
            told[job_id] = J.RUNNING
            change, holds = await store.finish(
                "den", change.task.lease, Picture(job_id, 1, b""), n + 3
            )
            assert holds
            assert change is not None
            told[job_id] = J.DONE


async def check(store: Store, told: dict[str, JobState]) -> None:
    for job_id, state in told.items():
        job = await store.job("den", job_id, attempts=True)
        assert job is not None, f"{job_id} was acknowledged and is gone"
        assert len(job.tasks[0].attempts) <= 1
        if state is J.DONE:
            assert job.state is J.DONE


async def test_backends_ended_at_random_points_lose_nothing_and_repeat_nothing(
    store: Store, cluster: Cluster
) -> None:
    seed = random.randrange(2**32)
    dice = random.Random(seed)
    told: dict[str, JobState] = {}
    working = asyncio.gather(*(churn(store, f"w{n}", 60, told) for n in range(4)))
    ended = 0
    while not working.done():
        await asyncio.sleep(dice.uniform(0.0, 0.1))
        ended += await asyncio.to_thread(cluster.terminate_backends)
    await working
    assert ended > 4, f"seed {seed}"
    assert len(told) == 240, f"seed {seed}: all were told in spite of it"
    assert set(told.values()) == {J.DONE}, f"seed {seed}"
    await check(store, told)


async def test_server_restarted_is_waited_for(store: Store, cluster: Cluster) -> None:
    told: dict[str, JobState] = {}
    working = asyncio.gather(*(churn(store, f"w{n}", 30, told) for n in range(4)))
    await asyncio.sleep(0.1)

    def restart() -> None:
        cluster.stop("fast")
        cluster.start()

    await asyncio.to_thread(restart)
    await working
    assert len(told) == 120
    assert set(told.values()) == {J.DONE}
    await check(store, told)


async def test_server_that_stays_away_is_an_error_in_words(
    store: Store, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_database, "LOST_SECONDS", 0.3)
    await asyncio.to_thread(cluster.stop, "fast")
    try:
        with pytest.raises(StoreError, match="database failed"):
            await store.accounts()
    finally:
        await asyncio.to_thread(cluster.start)
    assert await store.accounts() == ("den",)
