"""Joined machines whose link is at another broker than the one that plans for their account."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from machine import Machine

import foxden
from foxden_agent import joining
from foxden_agent.link_driver import LinkRefused
from foxden_broker.app import Running, broker
from foxden_broker.settings import BrokerSettings
from foxden_proto.timers import Timers

TIMERS = replace(Timers().scaled(0.1), hello=1.5)  # the rest of a second is short on a busy machine
SIZE = {"width": 64, "height": 64, "steps": 4}


class Two:
    """`a` plans, `b` passes on. The machine's link is at `b`."""

    def __init__(self, a: Running, b: Running, folder: Path, stack: AsyncExitStack) -> None:
        self.a, self.b, self._folder, self._stack = a, b, folder, stack

    def client(self, of: Running) -> foxden.AsyncClient:
        client = foxden.AsyncClient(str(of.address), token=of.token)
        self._stack.push_async_callback(client.close)
        return client

    async def joined(self, name: str) -> Machine:
        pc = Machine(self._folder / name, TIMERS)
        link = await self.client(self.b).create_join_link()
        await pc.join(link.text, name=name)
        return pc


@pytest_asyncio.fixture
async def two(postgresql_url: Callable[[], str], tmp_path: Path) -> AsyncIterator[Two]:
    url = postgresql_url()
    async with AsyncExitStack() as stack:
        running = []
        for name in "ab":
            settings = BrokerSettings(
                tmp_path / name,
                grpc_port=0,
                http_port=0,
                database_url=url,
                blobs=str(tmp_path / "blobs"),
                timers=TIMERS,
            )
            running.append(await stack.enter_async_context(broker(settings)))
        yield Two(*running, tmp_path, stack)


async def until(what: Callable[[], Any], seconds: float = 20.0) -> None:
    """Look again and again: what another task brings about has no event here."""
    async with asyncio.timeout(seconds):
        while not what():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("asked", ["a", "b"])
async def test_revocation_closes_a_link_at_another_broker_and_its_image_goes_elsewhere(
    two: Two, asked: str
) -> None:
    bad = await two.joined("bad")
    async with bad.serving(alone=True) as running:
        async with asyncio.timeout(20):
            await bad.online.wait()
        job = await two.client(two.a).submit("a red cube", **SIZE)
        await until(lambda: bad.worker.images)
        admin = two.client(getattr(two, asked))
        assert [agent.state for agent in await admin.agents()] == ["online"]
        await admin.revoke_agent("bad")
        with pytest.raises(LinkRefused, match="shut out"):
            async with asyncio.timeout(5):
                await running
    good = await two.joined("good")
    async with good.serving():
        await until(lambda: good.worker.images)
        assert {key.job_id for key in good.worker.images} == {job.id}


async def test_machine_that_leaves_at_another_broker_frees_its_image_at_once(two: Two) -> None:
    pc = await two.joined("pc")
    async with pc.serving():
        async with asyncio.timeout(20):
            await pc.online.wait()
        job = await two.client(two.a).submit("a red cube", **SIZE)
        await until(lambda: pc.worker.images)
        left = await joining.leave(pc.folder, keystore=pc.keystore)
        assert left.broker_told
        other = await two.joined("other")
        async with other.serving():
            await until(lambda: other.worker.images)
            assert {key.job_id for key in other.worker.images} == {job.id}
    assert len(await two.client(two.a).cards()) == 1
