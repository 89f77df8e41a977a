"""What is stored between two tenures of one broker is known to the second. The store is real; each
test holds one of its answers or questions back, as a database does that was away for a moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest_asyncio
from one_account import ANN, new_store

from foxden_broker import client_calls, dispatcher
from foxden_broker.account import Account
from foxden_broker.blobs_folder import FolderBlobs
from foxden_broker.peers import Peers, Seal
from foxden_broker.replicas import Replicas
from foxden_broker.store.base import Store, StoreError
from foxden_broker.store.sql_store import SqlStore
from foxden_broker.uploads import Signer
from foxden_proto.timers import Timers
from foxden_proto.v1 import generation_pb2 as gen

SECONDS = 30.0  # for what takes milliseconds


class Gate:
    """Holds one call of the store back: `reached` once it is there, on until `go`."""

    def __init__(self) -> None:
        self.reached, self.go = asyncio.Event(), asyncio.Event()

    async def hold(self) -> None:
        self.reached.set()
        await self.go.wait()


class HeldStore:
    """The store, with gates before or after some of its calls; each holds one call, once."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store
        self.before: dict[str, Gate] = {}
        self.after: dict[str, Gate] = {}
        self.fails: set[str] = set()  # calls that are done and whose answer is lost

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            if (gate := self.before.pop(name, None)) is not None:
                await gate.hold()
            answer = await method(*args, **kwargs)
            if (gate := self.after.pop(name, None)) is not None:
                await gate.hold()
            if name in self.fails:
                raise StoreError("the answer was lost")
            return answer

        return call


class Lone:
    """One broker on a database that others could share; nothing runs for its account but what
    keeps the lease, so that a test dispatches by hand."""

    def __init__(self, store: HeldStore, folder: Path) -> None:
        self.store = store
        blobs, signer, timers = FolderBlobs(folder), Signer(bytes(32)), Timers()

        def account(account_id: str, fenced: Store) -> Account:
            return Account(account_id, fenced, blobs, signer, timers)

        peers = Peers("r1", Seal(bytes(32)))
        shared = cast("Store", store)
        self.replicas = Replicas("r1", "", shared, account, lambda _: (), peers, timers, ["main"])

    @property
    def account(self) -> Account:
        return self.replicas.accounts["main"]

    async def planning(self, after: Account | None = None) -> Account:
        """The account of the first tenure, or of the next one `after` that."""
        async with asyncio.timeout(SECONDS):
            while self.account is after or not self.account.planned:
                await self.replicas.owners.of("main").changed.wait()
        return self.account

    def lose(self) -> None:
        tenure = self.replicas.owners.of("main").tenure
        assert tenure is not None
        tenure.end("its lease ran out and could not be renewed")

    async def submit(self, account: Account, count: int = 2) -> str:
        request = gen.ImageRequest(prompt="a red cube", seed=1)
        wanted = gen.SubmitRequest(request=request, count=count, idempotency_key="k")
        return (await client_calls.submit(account, ANN, wanted)).job.id


@pytest_asyncio.fixture
async def lone(tmp_path: Path) -> AsyncIterator[Lone]:
    store = await new_store(tmp_path)
    made = Lone(HeldStore(store), tmp_path / "blobs")
    running = asyncio.create_task(made.replicas.run())
    yield made
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await made.replicas.peers.close()
    await store.close()


async def waits(account: Account, job_id: str) -> set[int]:
    """The images of the job that this account's dispatcher will hand out."""
    await dispatcher.dispatch(account)
    job = account.pool.jobs.get(job_id)
    return job.waiting if job is not None else set()


async def reached(gate: Gate) -> None:
    async with asyncio.timeout(SECONDS):
        await gate.reached.wait()


async def test_submit_under_way_when_its_tenure_ends_is_stored_in_the_next_and_planned(
    lone: Lone,
) -> None:
    first = await lone.planning()
    gate = lone.store.before["submit"] = Gate()
    submitting = asyncio.create_task(lone.submit(first))
    await reached(gate)
    lone.lose()
    second = await lone.planning(first)  # has read the store, where the job is not yet
    gate.go.set()
    job_id = await submitting
    assert await waits(second, job_id) == {0, 1}


async def test_submit_while_nobody_plans_is_stored_after_the_next_tenure_has_read_and_planned(
    lone: Lone,
) -> None:
    first = await lone.planning()
    gate = lone.store.after["open_tasks"] = Gate()
    lone.lose()
    await reached(gate)
    assert not lone.account.planned
    job_id = await lone.submit(lone.account)
    gate.go.set()
    assert await waits(await lone.planning(first), job_id) == {0, 1}


async def test_submit_whose_answer_was_lost_while_nobody_plans_is_planned(lone: Lone) -> None:
    first = await lone.planning()
    gate = lone.store.after["open_tasks"] = Gate()
    lone.lose()
    await reached(gate)
    lone.store.fails = {"submit"}
    answers = await asyncio.gather(lone.submit(lone.account), return_exceptions=True)
    assert isinstance(answers[0], StoreError)
    lone.store.fails = set()
    gate.go.set()
    second = await lone.planning(first)
    (job,) = (await lone.store.jobs("main", member="", state=None, before="", limit=9)).jobs
    assert await waits(second, job.job_id) == {0, 1}


async def test_cancel_while_the_next_tenure_reads_leaves_nothing_in_its_queue(lone: Lone) -> None:
    first = await lone.planning()
    job_id = await lone.submit(first)
    gate = lone.store.after["open_tasks"] = Gate()
    lone.lose()
    await reached(gate)
    await client_calls.cancel(lone.account, ANN, job_id)
    gate.go.set()
    assert await waits(await lone.planning(first), job_id) == set()


async def test_submit_in_a_tenure_that_holds_is_planned_without_asking_the_store_again(
    lone: Lone,
) -> None:
    account = await lone.planning()
    job_id = await lone.submit(account)
    assert not account.doubts
    assert await waits(account, job_id) == {0, 1}
