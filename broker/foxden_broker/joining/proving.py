"""The first words on the link of an agent that has a key of its own."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable

from starlette.websockets import WebSocket

from foxden_broker.auth import Doorkeeper
from foxden_broker.joining.enrolment import verifies
from foxden_broker.store.base import Agent
from foxden_proto import link, proofs
from foxden_proto.link_checks import LinkError
from foxden_proto.timers import Timers

_WAITS = "An administrator has to say yes to this machine: foxden agents approve"


async def prove(
    websocket: WebSocket,
    keeper: Doorkeeper,
    who: tuple[str, str],
    timers: Timers,
    *,
    waits: Callable[[], None],
) -> Agent:
    """Have an agent sign a fresh nonce; then, where nobody has approved it yet, wait for that, as
    long as it stays. `who`: account and agent as it says; `waits` is called before a wait.

    Raises Problem, LinkError, TimeoutError, StoreError, WebSocketDisconnect.
    """
    account_id, agent_id = who
    nonce = secrets.token_bytes(proofs.NONCE_BYTES)
    await websocket.send_bytes(link.challenge(nonce))
    async with asyncio.timeout(timers.hello):
        signature = link.read_proof(await websocket.receive_bytes())
    agent = await keeper.agent(account_id, agent_id)
    # An unknown agent hears the same as one with another key.
    known = agent.public_key if agent else bytes(proofs.PUBLIC_KEY_BYTES)
    audience = agent.audience if agent else ""
    statement = proofs.link_statement(nonce, account_id, agent_id, audience)
    if not verifies(known, signature, statement) or agent is None:
        raise keeper.unknown_key()
    agent = await keeper.admit_agent(agent)
    if not agent.approved_ms:
        waits()
        agent = await _approved(websocket, keeper, agent, timers)
    await websocket.send_bytes(link.admitted())
    return agent


async def _approved(
    websocket: WebSocket, keeper: Doorkeeper, agent: Agent, timers: Timers
) -> Agent:
    said_at = -1e9
    reading = asyncio.ensure_future(websocket.receive_bytes())
    try:
        while not agent.approved_ms:
            now = asyncio.get_running_loop().time()
            if now - said_at >= timers.heartbeat:
                said_at = now
                await websocket.send_bytes(link.pending(f"{_WAITS} {agent.agent_id}"))
            await asyncio.wait([reading], timeout=timers.store_poll / 2)
            if reading.done():
                reading.result()  # WebSocketDisconnect, where it has gone
                raise LinkError("the agent spoke before it was let in")
            agent = await keeper.admit_agent(agent)
    finally:
        reading.cancel()
    return agent
