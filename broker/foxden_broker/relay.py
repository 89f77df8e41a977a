"""Agents whose account another broker plans for: their frames go there and back, unread."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import grpc
from starlette.websockets import WebSocket, WebSocketDisconnect

from foxden_broker.owners import Owner
from foxden_broker.replicas import Replicas
from foxden_broker.session import CLOSE_SECONDS
from foxden_broker.store.base import StoreError
from foxden_proto import link
from foxden_proto.problems import Problem
from foxden_proto.v1 import peer_pb2 as pb

log = logging.getLogger(__name__)


async def relay(
    replicas: Replicas,
    account_id: str,
    member: str,
    websocket: WebSocket,
    still_welcome: Callable[[], Awaitable[None]],
    agent_id: str = "",
) -> None:
    """Carry one agent's link to the owner of its account until either end is over.

    Nothing is kept here but the frame that is just passing: gRPC's flow control and the
    WebSocket's slow down whoever sends faster than the other end reads, and the owner cuts an
    agent that reads too little.
    """
    owner = replicas.owners.of(account_id)
    if owner.replica is None:
        again = replicas.timers.reconnect_first
        await _refuse(websocket, "no broker plans for this account just now", again)
        return
    stub = replicas.peers.stub(owner.replica)
    call = stub.Link(metadata=replicas.peers.signature(owner.replica))
    told = pb.LinkOpen(account_id=account_id, member=member, agent_id=agent_id)
    opening = pb.PeerFrame(open=told)
    ways = [
        asyncio.create_task(_up(websocket, call, opening)),
        asyncio.create_task(_down(call, websocket)),
        asyncio.create_task(_watch(owner, still_welcome, replicas.timers.heartbeat)),
    ]
    why, again = "the broker that plans for this account has gone", 0.0
    try:
        done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in done:
            if not way.cancelled():  # its channel was closed: the owner is not among the living
                way.result()
    except Problem as problem:
        await _refuse(websocket, problem.message, None)
        return
    except (WebSocketDisconnect, KeyError, RuntimeError):
        pass  # the agent has gone, or speaks text
    except (grpc.RpcError, asyncio.InvalidStateError) as error:
        why_broken = error.details() if isinstance(error, grpc.aio.AioRpcError) else error
        log.info("a link of account %s broke between two brokers: %s", account_id, why_broken)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        call.cancel()
        await _close(websocket, 1001, why)


async def tell_left(replicas: Replicas, account_id: str, agent_id: str) -> None:
    """Tell the owner of an account that this agent has left it. Where that cannot be reached its
    images go elsewhere when their link has been gone for long enough."""
    owner = replicas.owners.of(account_id)
    if owner.replica is None:
        return
    stub = replicas.peers.stub(owner.replica)
    call = stub.Link(metadata=replicas.peers.signature(owner.replica))
    told = pb.LinkOpen(account_id=account_id, agent_id=agent_id, left=True)
    try:
        async with asyncio.timeout(replicas.timers.hello):
            await call.write(pb.PeerFrame(open=told))
            async for _ in call:
                pass
    except (grpc.RpcError, asyncio.InvalidStateError, TimeoutError) as error:
        log.info("the owner of account %s was not told who left: %s", account_id, error)
    finally:
        call.cancel()


async def _up(websocket: WebSocket, call: Any, opening: pb.PeerFrame) -> None:
    await call.write(opening)
    while True:
        await call.write(pb.PeerFrame(data=await websocket.receive_bytes()))


async def _down(call: Any, websocket: WebSocket) -> None:
    async for frame in call:
        if frame.WhichOneof("frame") == "close":
            await _close(websocket, frame.close.code, frame.close.reason)
            return
        await websocket.send_bytes(frame.data)


async def _watch(
    owner: Owner, still_welcome: Callable[[], Awaitable[None]], heartbeat: float
) -> None:
    """Returns when another broker owns the account; raises the Problem of a revoked token."""
    while True:
        with suppress(TimeoutError):
            async with asyncio.timeout(heartbeat):
                await owner.changed.wait()
                return
        with suppress(StoreError):  # who cannot ask goes on as before
            await still_welcome()


async def _refuse(websocket: WebSocket, reason: str, retry_after: float | None) -> None:
    """Say why, and close. `retry_after` None: it need not come again."""
    final = retry_after is None
    with suppress(WebSocketDisconnect, RuntimeError, TimeoutError):
        async with asyncio.timeout(CLOSE_SECONDS):
            await websocket.send_bytes(
                link.rejection(reason, final=final, retry_after=retry_after or 0.0)
            )
    await _close(websocket, 4401 if final else 1013, reason)


async def _close(websocket: WebSocket, code: int, reason: str) -> None:
    with suppress(WebSocketDisconnect, RuntimeError, TimeoutError):
        async with asyncio.timeout(CLOSE_SECONDS):
            await websocket.close(code, reason[:100])
