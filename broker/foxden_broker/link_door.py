"""Where agents' links arrive: who may come in, and the link itself until its connection ends."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from starlette.websockets import WebSocket, WebSocketDisconnect

from foxden_broker import agent_calls
from foxden_broker.account import Account
from foxden_broker.auth import Doorkeeper
from foxden_broker.joining.arriving import Arriving
from foxden_broker.joining.proving import prove
from foxden_broker.relay import relay
from foxden_broker.replicas import Replicas
from foxden_broker.session import Connection, Session, dismiss
from foxden_broker.store.base import StoreError
from foxden_proto import logs, proofs
from foxden_proto.link_checks import LinkError, read_hello
from foxden_proto.problems import Problem
from foxden_proto.states import LinkState, UnknownTransition
from foxden_proto.timers import Timers
from foxden_proto.v1 import link_pb2 as pb

log = logging.getLogger(__name__)

# Agents on their way through the hello. At 2 to 3 ms of processor time each they wait a second or
# two on a free core, and on a fifth of one still less than the 12 s after which an agent gives up.
_MOST_ARRIVING = 500
_STORE_AWAY = "the broker cannot store anything just now"


class LinkDoor:
    """Lets agents in, by token or by key, as far as they can be welcomed in time."""

    def __init__(
        self, accounts: Mapping[str, Account], keeper: Doorkeeper, replicas: Replicas | None
    ) -> None:
        self._accounts, self._keeper, self._replicas = accounts, keeper, replicas
        self._arriving: Arriving[WebSocket] = Arriving(_MOST_ARRIVING)
        self._closings: set[asyncio.Task[None]] = set()
        # For an administrator's yes, one per agent.
        self._waiting: dict[tuple[str, str], WebSocket] = {}

    def _part_with(self, websocket: WebSocket, why: str) -> None:
        closing = asyncio.create_task(dismiss(websocket, why))
        self._closings.add(closing)
        closing.add_done_callback(self._closings.discard)

    async def agent_link(self, websocket: WebSocket) -> None:
        """An agent has dialled: serve its link, or say why not."""
        out = self._arriving.comes(websocket, websocket.client.host if websocket.client else "")
        if out is websocket:
            # After a restart thousands come at once. Those beyond what can be welcomed before
            # they lose patience are turned away while that is still cheap, and dial again. They see
            # status 403: uvicorn logs an error for each answer that says it better.
            await websocket.close(1013)
            return
        if out is not None:
            self._part_with(out, "too many connections have come from where this one does")
        try:
            await self._let_in(websocket)
        finally:
            self._arriving.leaves(websocket)

    async def _let_in(self, websocket: WebSocket) -> None:
        header = websocket.headers.get("authorization", "")
        who = proofs.split_authorization(header)
        if who is not None:
            await self._let_in_by_key(websocket, who)
            return
        try:
            member = await self._keeper.admit(header, "agent")
        except Problem as problem:
            await websocket.accept()
            await dismiss(websocket, problem.message, final=True, code=4401)
            return
        except StoreError as error:
            log.error("an agent could not be let in: %s", error)
            await websocket.accept()
            await dismiss(websocket, _STORE_AWAY, retry_after=0.0)
            return
        self._arriving.proved(websocket)
        await websocket.accept()

        async def welcome() -> None:
            await self._keeper.admit(header, "agent")

        await self._serve_or_relay(websocket, member.account_id, member.name, "", welcome)

    def _waits(self, websocket: WebSocket, who: tuple[str, str]) -> None:
        self._arriving.leaves(websocket)
        before, self._waiting[who] = self._waiting.get(who), websocket
        if before is not None:
            self._part_with(before, "this agent waits on another connection")

    async def _let_in_by_key(self, websocket: WebSocket, who: tuple[str, str]) -> None:
        try:
            await self._prove_and_serve(websocket, who)
        finally:
            if self._waiting.get(who) is websocket:
                del self._waiting[who]

    async def _prove_and_serve(self, websocket: WebSocket, who: tuple[str, str]) -> None:
        await websocket.accept()
        timers = next((one.timers for one in self._accounts.values()), Timers())
        try:
            agent = await prove(
                websocket, self._keeper, who, timers, waits=lambda: self._waits(websocket, who)
            )
        except Problem as problem:
            await dismiss(websocket, problem.message, final=True, code=4401)
            return
        except StoreError as error:
            log.error("an agent could not be let in: %s", error)
            await dismiss(websocket, _STORE_AWAY, retry_after=0.0)
            return
        except (LinkError, TimeoutError, WebSocketDisconnect, KeyError, RuntimeError) as error:
            await dismiss(websocket, str(error) or "no proof came in time")
            return
        self._arriving.proved(websocket)

        async def welcome() -> None:
            await self._keeper.admit_agent(agent)

        account_id, agent_id = agent.account_id, agent.agent_id
        await self._serve_or_relay(websocket, account_id, agent.name, agent_id, welcome)

    async def _serve_or_relay(
        self,
        websocket: WebSocket,
        account_id: str,
        name: str,
        agent_id: str,
        welcome: Callable[[], Awaitable[None]],
    ) -> None:
        async def still_welcome() -> None:  # with each heartbeat; the first follows the welcome
            self._arriving.leaves(websocket)
            await welcome()

        if self._replicas is not None:
            # Waiting costs less than a refusal: the agent would come back later and later.
            owner = await self._replicas.owners.within(account_id, self._replicas.timers.hello)
            if not owner.mine:
                await relay(self._replicas, account_id, name, websocket, still_welcome, agent_id)
                return
        account = self._accounts[account_id]
        await serve_link(account, websocket, still_welcome, agent_id, at_hello=welcome)


class AgentConnection(Connection, Protocol):
    """A WebSocket, or the stream from another broker that has it."""

    async def receive_bytes(self) -> bytes:
        """The next frame. Raises WebSocketDisconnect at the end."""
        ...


async def serve_link(
    account: Account,
    websocket: AgentConnection,
    still_welcome: Callable[[], Awaitable[None]],
    agent_id: str = "",
    at_hello: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Drive one agent's link until its connection ends, or its token does: `still_welcome`, asked
    with each heartbeat and each finished picture, raises the Problem, as does `at_hello`, asked
    once. `agent_id`: of an agent that has proved its own key, and is nobody else; empty for one
    with a token."""
    try:
        async with asyncio.timeout(account.timers.hello):
            first = await websocket.receive_bytes()
        hello = read_hello(first)
    except (LinkError, TimeoutError, WebSocketDisconnect, KeyError) as error:
        await dismiss(websocket, str(error) or "no hello came in time")
        return
    if (why := await _not_its_own(account, hello.agent_id, agent_id)) is not None:
        await dismiss(websocket, why, final=bool(why), code=4401, retry_after=0.0)
        return
    if not account.planned:  # no more since a moment ago: nobody would look after this link
        await dismiss(websocket, "another broker plans for this account now", retry_after=0.0)
        return
    session = account.sessions.get(hello.agent_id)
    if session is None:
        session = Session(hello.agent_id, account.timers, time.monotonic())
        account.sessions[hello.agent_id] = session
    before = session.connected(websocket)
    if before is not None:
        why = "another agent with the same id has connected: stop one of the two"
        await dismiss(before, why, final=True, code=4409)
    patience = account.timers.silent + 2 * account.timers.heartbeat  # the link's own is shorter
    sender = asyncio.create_task(session.send(websocket), name=f"send {hello.agent_id}")
    try:
        # Who is revoked between proof and hello has no link yet that could be closed.
        if at_hello is not None:
            await at_hello()
        data = first
        while session.serves(websocket):
            for event in session.link.receive(data, time.monotonic()):
                # Also with each picture: one whose token is revoked may say no heartbeats.
                if isinstance(event, pb.Heartbeat | pb.TaskFinished):
                    await still_welcome()
                await agent_calls.handle(account, session, event)
            async with asyncio.timeout(patience):
                data = await websocket.receive_bytes()
    except (WebSocketDisconnect, KeyError, RuntimeError, TimeoutError):
        pass  # gone, silent, cut off by us, or a text message where only binary ones are spoken
    except Problem as problem:
        await dismiss(websocket, problem.message, final=True, code=4401)
        if agent_id:  # its key is gone: nobody can come back with these
            await agent_calls.put_back(account, agent_id, problem.message)
    except (LinkError, UnknownTransition) as error:
        log.warning(
            *("agent %s: %s", hello.agent_id, error), extra=logs.fields(agent=hello.agent_id)
        )
        await dismiss(websocket, str(error))
    except StoreError as error:
        # What the agent said is not written down. It keeps its outcomes until they are settled
        # and says them again over its next connection, so cutting this one loses nothing.
        log.error("agent %s: %s", hello.agent_id, error, extra=logs.fields(agent=hello.agent_id))
        await dismiss(websocket, _STORE_AWAY, retry_after=0.0)
    finally:
        if session.disconnected(websocket):
            agent_calls.offline(account, session)
            if session.link.state is LinkState.CLOSED:  # it said goodbye: its next hello is new
                account.sessions.pop(hello.agent_id, None)
        sender.cancel()
        await asyncio.gather(sender, return_exceptions=True)


async def _not_its_own(account: Account, says: str, proved: str) -> str | None:
    """Why an agent may not be who it says; None where it may. With a token alone nobody takes the
    place of an agent that has joined with a key."""
    if proved:
        return None if says == proved else f"the key is agent {proved}'s, and it says it is {says}"
    try:
        if not await account.enrolled.has(says):
            return None
    except StoreError:
        return ""
    return "this agent has joined with a key of its own: start it without a token"
