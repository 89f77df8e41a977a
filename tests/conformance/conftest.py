"""Every test that takes `world` runs once on each database.

SQLite starts from a copy of one migrated file. PostgreSQL is a cluster of our own for the session,
run by the OS user `postgres`; where that can't be done those tests are skipped, saying why.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio
from postgres import Cluster, Unavailable

from foxden_broker.store.base import (
    Assign,
    Change,
    Job,
    Lease,
    NewJob,
    Picture,
    Store,
    Submitted,
    Task,
)
from foxden_broker.store.schema import metadata
from foxden_broker.store.sql_store import open_store

NewUrl = Callable[[], str]
DAY_MS = 86_400_000


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def new_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> NewUrl:
    """Makes migrated databases, each with a URL of its own."""
    factory: NewUrl = request.getfixturevalue(f"{request.param}_url")
    return factory


@pytest.fixture(scope="session")
def sqlite_url() -> Iterator[NewUrl]:
    # In memory where there is such a folder: an fsync per call is most of the time otherwise.
    shm = Path("/dev/shm")
    where = shm if os.access(shm, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="foxden-", dir=where) as folder:
        template = Path(folder) / "template.db"
        _migrate(str(template))

        def make() -> str:
            path = Path(tempfile.mkdtemp(dir=folder)) / "foxden.db"
            shutil.copyfile(template, path)
            return str(path)

        yield make


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    pytest.importorskip("psycopg")
    try:
        # These tests end the server only cleanly.
        running = Cluster(synchronous_commit="off")
    except Unavailable as why:
        pytest.skip(str(why))
    try:
        yield running
    finally:
        running.close()


@pytest.fixture(scope="session")
def postgresql_url(cluster: Cluster) -> NewUrl:
    url = cluster.url()
    tables = ", ".join(metadata.tables)
    _migrate(url)

    def make() -> str:  # emptied, not created: a new database costs ten times as much
        cluster.execute(f"TRUNCATE {tables}")
        return url

    return make


@pytest.fixture
def empty_url(request: pytest.FixtureRequest, new_url: NewUrl, tmp_path: Path) -> Iterator[str]:
    """A database of its own, without tables, on the engine of `new_url`."""
    if "sqlite" in request.node.callspec.id:
        yield str(tmp_path / "empty.db")
        return
    cluster: Cluster = request.getfixturevalue("cluster")
    yield cluster.new_database()


def _migrate(url: str) -> None:
    async def run() -> None:
        await (await open_store(url)).close()

    asyncio.run(run())


@dataclass
class World:
    """A store, a clock that moves with every look, and short words for long calls."""

    store: Store
    account: str = "den"
    now: int = 1_000
    jobs: int = 0
    leases: list[Lease] = field(default_factory=list)

    def tick(self) -> int:
        self.now += 1
        return self.now

    def new_job(self, count: int = 1, **more: object) -> NewJob:
        self.jobs += 1
        fields: dict[str, object] = {
            "account_id": self.account,
            "job_id": f"job-{self.jobs:04}",
            "member": "ann",
            "request": b"request",
            "model_sha256": "m" * 64,
            "count": count,
            "priority": 2,
            "created_ms": self.tick(),
            "request_digest": b"digest",
        }
        return NewJob(**(fields | more))  # type: ignore[arg-type]

    async def submit(self, count: int = 1, **more: object) -> Submitted:
        return await self.store.submit(self.new_job(count, **more), key_window_ms=DAY_MS)

    async def queued(self, count: int = 1, **more: object) -> str:
        return (await self.submit(count, **more)).job.job_id

    async def leased(self, job_id: str, index: int = 0, card: str = "card-1") -> Lease:
        given = [Assign(job_id, index, card, card.upper(), "agent-1")]
        (change,) = await self.store.assign(self.account, given, self.tick())
        return change.task.lease

    async def started(self, job_id: str, index: int = 0, card: str = "card-1") -> Lease:
        lease = await self.leased(job_id, index, card)
        assert await self.store.start(self.account, lease, self.tick())
        return lease

    async def finish(self, lease: Lease, name: str = "p") -> tuple[Change | None, bool]:
        picture = Picture(name.ljust(64, "0"), 7, b"meta-" + name.encode())
        return await self.store.finish(self.account, lease, picture, self.tick())

    async def done(self, job_id: str, index: int = 0) -> Lease:
        lease = await self.started(job_id, index)
        change, holds = await self.finish(lease)
        assert change is not None
        assert holds
        return lease

    async def job(self, job_id: str) -> Job:
        found = await self.store.job(self.account, job_id, attempts=True)
        assert found is not None
        return found

    async def task(self, job_id: str, index: int = 0) -> Task:
        return (await self.job(job_id)).tasks[index]


@pytest_asyncio.fixture
async def world(new_url: NewUrl) -> AsyncIterator[World]:
    store = await open_store(new_url())
    try:
        await store.ensure_account("den", "Den", 1)
        yield World(store)
    finally:
        await store.close()


@pytest.fixture
def new_world() -> Callable[[Store], World]:
    """For tests that open stores of their own."""
    return World
