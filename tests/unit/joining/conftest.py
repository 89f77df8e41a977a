"""A whole broker in this process, with a CA of its own, and machines that join it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from machine import Machine

import foxden
from foxden_broker.app import Running, broker
from foxden_broker.settings import BrokerSettings
from foxden_proto.timers import Timers

TIMERS = replace(Timers().scaled(0.1), hello=1.5)  # the rest of a second is short on a busy machine
_TEMPLATE: list[bytes] = []  # a migrated database: making one takes most of a broker's start


class Den:
    """One broker, its administrator, and machines in folders of their own."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self._context: Any = None
        self.running: Running | None = None
        self.ports = (0, 0)
        self.public_host = "localhost"  # a name, so that TLS is spoken

    async def start(self, name: str = "broker") -> Running:
        home = self._folder / name
        database = home / "broker" / "foxden.db"
        if _TEMPLATE and not database.exists():
            database.parent.mkdir(parents=True, mode=0o700)
            database.write_bytes(_TEMPLATE[0])
        settings = BrokerSettings(
            home,
            grpc_port=self.ports[0],
            http_port=self.ports[1],
            public_host=self.public_host,
            timers=TIMERS,
        )
        self._context = broker(settings)
        self.running = running = await self._context.__aenter__()
        self.ports = (running.address.grpc_port, running.address.http_port)
        return running

    async def stop(self) -> None:
        context, self._context = self._context, None
        if context is not None:
            await context.__aexit__(None, None, None)

    @property
    def address(self) -> Any:
        assert self.running is not None
        return self.running.address

    def admin(self) -> foxden.AsyncClient:
        assert self.running is not None
        client = foxden.AsyncClient(str(self.running.address), token=self.running.token)
        self._stack.push_async_callback(client.close)
        return client

    async def link(self, uses: int = 1, expires_in: float = 3600, *, approve: bool = False) -> str:
        made = await self.admin().create_join_link(uses, expires_in, approve=approve)
        return made.text

    def machine(self, name: str = "pc") -> Machine:
        return Machine(self._folder / name, TIMERS)


@pytest_asyncio.fixture
async def den(tmp_path: Path) -> AsyncIterator[Den]:
    if not _TEMPLATE:
        from foxden_broker.store.sql_store import open_store

        await (await open_store(str(tmp_path / "template.db"))).close()
        _TEMPLATE.append((tmp_path / "template.db").read_bytes())
    async with AsyncExitStack() as stack:
        made = Den(tmp_path, stack)
        await made.start()
        yield made
        await made.stop()


async def until(what: Callable[[], Any], seconds: float = 20.0) -> None:
    """Look again and again: what another task brings about has no event here."""
    async with asyncio.timeout(seconds):
        while True:
            told = what()
            if asyncio.iscoroutine(told):
                told = await told
            if told:
                return
            await asyncio.sleep(0.01)


@pytest.fixture
def eventually() -> Callable[..., Any]:
    return until


@pytest.fixture
def written(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """All that was logged by anybody, down to the last detail."""
    caplog.set_level(logging.DEBUG)
    return lambda: "\n".join(
        f"{record.getMessage()} {record.args} {record.__dict__}" for record in caplog.records
    )
