"""The HTTP door of a real server: what is turned away before any work is done for it."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
import uvicorn
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from foxden_broker import http_api, link_door
from foxden_broker.metrics import Metrics
from foxden_proto import proofs
from foxden_proto.v1 import link_pb2 as pb


class Keeper:
    """Lets everybody wait."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def admit(self, authorization: str, *scopes: str) -> Any:
        self.asked.set()
        await asyncio.sleep(60)


@pytest.fixture
def keeper() -> Keeper:
    return Keeper()


@pytest_asyncio.fixture
async def port(keeper: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    monkeypatch.setattr(link_door, "_MOST_ARRIVING", 2)
    app = http_api.create({}, keeper, "", Metrics(), metrics_open=False)
    config = uvicorn.Config(app, log_level="error", lifespan="off", ws="websockets-sansio")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        yield listener.getsockname()[1]
        server.force_exit = server.should_exit = True
        await serving


async def test_agent_beyond_those_that_can_be_welcomed_in_time_is_turned_away(
    port: int, keeper: Keeper
) -> None:
    url = f"ws://127.0.0.1:{port}/v1/link"
    asking = []
    for _ in range(2):
        keeper.asked.clear()
        asking.append(asyncio.create_task(connect(url, open_timeout=60).__aenter__()))
        await keeper.asked.wait()
    with pytest.raises(InvalidStatus, match="403"):
        await connect(url, open_timeout=60).__aenter__()
    for one in asking:
        one.cancel()
    await asyncio.gather(*asking, return_exceptions=True)


@pytest.mark.skipif(sys.platform != "linux", reason="calls from 127.0.0.2")
async def test_one_address_that_proves_nothing_does_not_take_all_places(port: int) -> None:
    header = {"Authorization": proofs.authorization("main", "agent-1")}

    def dialled(address: str) -> connect:
        url = f"ws://127.0.0.1:{port}/v1/link"
        return connect(url, additional_headers=header, local_addr=(address, 0), proxy=None)

    async with dialled("127.0.0.1") as first, dialled("127.0.0.1") as second:
        for connection in (first, second):
            assert (await heard(connection)).HasField("challenge")
        with pytest.raises(InvalidStatus, match="403"):
            await dialled("127.0.0.1").__aenter__()
        async with dialled("127.0.0.2") as other:
            assert (await heard(other)).HasField("challenge")
        told = (await heard(first)).rejected
        assert "too many connections" in told.reason
        assert not told.final


async def heard(connection: ClientConnection) -> pb.BrokerFrame:
    async with asyncio.timeout(20):
        data = await connection.recv()
    assert isinstance(data, bytes)
    return pb.BrokerFrame.FromString(data)


async def test_put_of_a_picture_for_an_unknown_account_is_refused(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = "PUT /v1/pictures/nobody/job/0/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
    writer.write(head.encode())
    assert b" 401 " in await reader.readline()
    writer.close()
