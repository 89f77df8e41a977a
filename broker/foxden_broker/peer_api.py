"""What this broker does for its peers: links of agents that are connected to another replica."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import grpc
from starlette.websockets import WebSocketDisconnect

from foxden_broker.joining.removal import remove
from foxden_broker.link_door import serve_link
from foxden_broker.replicas import Replicas
from foxden_proto.v1 import peer_pb2 as pb
from foxden_proto.v1 import peer_pb2_grpc as pb_grpc

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]


class PeerConnection:
    """An agent's link that arrives through another replica; to a session it is a WebSocket."""

    def __init__(
        self, read: Callable[[], Awaitable[Any]], write: Callable[[pb.PeerFrame], Awaitable[None]]
    ) -> None:
        self._read = read
        self._write = write
        self._writing = asyncio.Lock()  # gRPC allows one writer at a time
        self._closed = asyncio.Event()

    async def receive_bytes(self) -> bytes:
        """The agent's next frame. Raises WebSocketDisconnect once either side has closed."""
        reading = asyncio.ensure_future(self._read())
        closed = asyncio.ensure_future(self._closed.wait())
        both: set[asyncio.Future[Any]] = {reading, closed}
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            frame = reading.result() if reading.done() else None
        except grpc.RpcError as error:
            raise WebSocketDisconnect(1006, "the broker between has gone") from error
        finally:
            for task in both:
                task.cancel()
        if not isinstance(frame, pb.PeerFrame) or frame.WhichOneof("frame") != "data":
            raise WebSocketDisconnect(1006)
        return frame.data

    async def send_bytes(self, data: bytes) -> None:
        """Waits while the replica between, or the agent behind it, does not read."""
        await self._send(pb.PeerFrame(data=data))

    async def close(self, code: int = 1000, reason: str | None = None) -> None:
        try:
            await self._send(pb.PeerFrame(close=pb.LinkClose(code=code, reason=reason or "")))
        finally:
            self._closed.set()

    async def _send(self, frame: pb.PeerFrame) -> None:
        if self._closed.is_set():
            raise WebSocketDisconnect(1006)
        try:
            async with self._writing:
                await self._write(frame)
        except (grpc.RpcError, asyncio.InvalidStateError) as error:
            raise WebSocketDisconnect(1006, "the broker between has gone") from error


class PeerService(pb_grpc.PeerServicer):
    def __init__(self, replicas: Replicas) -> None:
        self._replicas = replicas

    async def Link(self, request_iterator: Any, context: Context) -> None:  # type: ignore[override]
        await self._admit(context)
        first = await context.read()
        if not isinstance(first, pb.PeerFrame) or first.WhichOneof("frame") != "open":
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first frame must be `open`")
        owner = self._replicas.owners.of(first.open.account_id)
        if not owner.mine:
            await context.abort(
                grpc.StatusCode.UNAVAILABLE, "another broker plans for this account"
            )
        account, agent_id = self._replicas.accounts[first.open.account_id], first.open.agent_id
        if first.open.left:
            await remove(account, agent_id, "this agent has left the pool")
            return
        connection = PeerConnection(context.read, context.write)
        await serve_link(account, connection, _still_welcome, agent_id)
        with suppress(WebSocketDisconnect, TimeoutError):
            async with asyncio.timeout(1.0):
                await connection.close(1001, "the link is over")

    async def Poke(self, request: pb.PokeRequest, context: Context) -> pb.PokeResponse:
        await self._admit(context)
        self._replicas.poked(request.account_id)
        return pb.PokeResponse()

    async def _admit(self, context: Context) -> None:
        why = self._replicas.peers.check(dict(context.invocation_metadata() or ()))
        if why:
            log.warning("a call between brokers was refused: %s", why)
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, why)


async def _still_welcome() -> None:
    """The replica that has the agent's WebSocket asks for its token again and again."""
