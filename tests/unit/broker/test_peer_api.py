"""A link that arrives through another broker, over a real gRPC connection."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import grpc
import pytest
import pytest_asyncio
from starlette.websockets import WebSocketDisconnect

from foxden_broker.peer_api import PeerConnection
from foxden_broker.session import Session
from foxden_proto.timers import Timers
from foxden_proto.v1 import peer_pb2 as pb
from foxden_proto.v1 import peer_pb2_grpc

BIG = bytes(60_000)


class Served(peer_pb2_grpc.PeerServicer):
    """What each call opens as is done with its connection; how it ended is kept."""

    def __init__(self) -> None:
        self.ends: dict[str, str] = {}
        self.behind = asyncio.Event()

    async def Link(self, request_iterator: Any, context: Any) -> None:
        what = (await context.read()).open.account_id
        connection = PeerConnection(context.read, context.write)
        try:
            await getattr(self, what)(connection)
            self.ends[what] = "returned"
        except WebSocketDisconnect as error:
            self.ends[what] = f"disconnected {error.code}"
        except asyncio.CancelledError:
            self.ends[what] = "cancelled"
            raise

    async def echo(self, connection: PeerConnection) -> None:
        while True:
            await connection.send_bytes(await connection.receive_bytes())

    async def flood(self, connection: PeerConnection) -> None:
        """What a session does for an agent that has much to hear."""
        session = Session("agent", Timers(), time.monotonic())
        session.connected(connection)
        sender = asyncio.create_task(session.send(connection))
        while session.serves(connection):
            session.link._out.append(BIG)
            session.flush()
            await asyncio.sleep(0)
        self.behind.set()
        await session.close("you do not read")
        sender.cancel()
        await connection.receive_bytes()

    async def close(self, connection: PeerConnection) -> None:
        reading = asyncio.create_task(connection.receive_bytes())
        await asyncio.sleep(0)
        await connection.close(4409, "another has connected")
        with pytest.raises(WebSocketDisconnect):
            await reading
        await connection.send_bytes(b"after the end")


@pytest_asyncio.fixture
async def served() -> AsyncIterator[tuple[Served, peer_pb2_grpc.PeerStub]]:
    server = grpc.aio.server()
    service = Served()
    peer_pb2_grpc.add_PeerServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
    yield service, peer_pb2_grpc.PeerStub(channel)
    await channel.close()
    await server.stop(None)


async def opened(stub: Any, what: str) -> Any:
    call = stub.Link()
    await call.write(pb.PeerFrame(open=pb.LinkOpen(account_id=what)))
    return call


async def ended(service: Served, what: str) -> str:
    async with asyncio.timeout(10):
        while what not in service.ends:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return service.ends[what]


async def test_frames_go_both_ways_unchanged(served: Any) -> None:
    _, stub = served
    call = await opened(stub, "echo")
    for data in (b"", b"frame", BIG):
        await call.write(pb.PeerFrame(data=data))
        assert (await call.read()).data == data
    call.cancel()


async def test_link_that_is_not_read_is_cut_and_holds_up_no_other_on_the_same_connection(
    served: Any,
) -> None:
    service, stub = served
    deaf, good = await opened(stub, "flood"), await opened(stub, "echo")
    slowest = 0.0
    for number in range(300):
        began = time.monotonic()
        await good.write(pb.PeerFrame(data=b"%d" % number))
        assert (await good.read()).data == b"%d" % number
        slowest = max(slowest, time.monotonic() - began)
        if number > 50 and service.behind.is_set():
            break
    async with asyncio.timeout(20):
        await service.behind.wait()
    assert (await ended(service, "flood")).startswith("disconnected")
    assert slowest < 2.0
    deaf.cancel()
    good.cancel()


async def test_other_broker_gone_is_a_disconnect(served: Any) -> None:
    service, stub = served
    call = await opened(stub, "echo")
    await call.write(pb.PeerFrame(data=b"x"))
    await call.read()
    call.cancel()
    assert await ended(service, "echo") in ("cancelled", "disconnected 1006")


async def test_agent_gone_is_a_disconnect(served: Any) -> None:
    service, stub = served
    call = await opened(stub, "echo")
    await call.done_writing()
    assert await ended(service, "echo") == "disconnected 1006"


@pytest.mark.parametrize(
    "frame", [pb.PeerFrame(), pb.PeerFrame(close=pb.LinkClose(code=1000)), pb.PeerFrame(open={})]
)
async def test_frame_that_is_no_data_ends_the_link(served: Any, frame: pb.PeerFrame) -> None:
    service, stub = served
    call = await opened(stub, "echo")
    await call.write(frame)
    assert await ended(service, "echo") == "disconnected 1006"


async def test_closed_by_the_owner_says_why_and_takes_nothing_more(served: Any) -> None:
    service, stub = served
    call = await opened(stub, "close")
    frame = await call.read()
    assert (frame.close.code, frame.close.reason) == (4409, "another has connected")
    with suppress(grpc.RpcError):
        await call.read()
    assert await ended(service, "close") == "disconnected 1006"
