"""One agent as the broker sees it: its link, and the connection it has just now."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import Protocol

from starlette.websockets import WebSocketDisconnect

from foxden_broker.tokens import random_id
from foxden_proto.link import BrokerLink, rejection
from foxden_proto.states import LinkState
from foxden_proto.timers import Timers

log = logging.getLogger(__name__)

_MOST_UNSENT = 2000  # messages; an agent that reads none of them is cut off
CLOSE_SECONDS = 1.0  # for the last words on a connection


class Connection(Protocol):
    """The transport under a link."""

    async def send_bytes(self, data: bytes) -> None: ...
    async def close(self, code: int = 1000, reason: str | None = None) -> None: ...


class Session:
    """Outlives connections: a link that broke comes back to the same session and its leases.

    Sending never waits: messages go through a queue that one task per connection empties, so
    that an agent which reads slowly holds up nobody else.
    """

    def __init__(self, agent_id: str, timers: Timers, now: float) -> None:
        self.agent_id = agent_id
        self.session_id = ""
        self.link = BrokerLink(timers, now)
        self._connection: Connection | None = None
        self._cut: Connection | None = None  # the one that was closed last by us
        self._unsent: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.behind = False  # it reads so little that its connection has to end

    def connected(self, connection: Connection) -> Connection | None:
        """A new connection takes over; the one before it, if any, is returned to be closed."""
        before, self._connection = self._connection, connection
        if before is not None:
            self._unsent.put_nowait(None)
            self.link.lost(time.monotonic())
        if self.link.state is LinkState.CLOSED:  # it said goodbye, and was started again
            self.link = BrokerLink(self.link.timers, time.monotonic())
        self._unsent, self.behind = asyncio.Queue(), False
        self.session_id = random_id(16)
        self.link.opened(time.monotonic())
        return before

    def disconnected(self, connection: Connection) -> bool:
        """That connection is over. False where a newer one has taken its place already."""
        if self._connection is not connection:
            return False
        self._connection = None
        self._unsent.put_nowait(None)
        self.link.lost(time.monotonic())
        return True

    def detach(self) -> Connection | None:
        """Let go of the connection, if there is one: it is no agent's any more. The caller closes
        it."""
        connection = self._connection
        if connection is not None:
            self.disconnected(connection)
        return connection

    def serves(self, connection: Connection) -> bool:
        """Whether to go on reading it: not where a newer one has taken over, where its agent has
        said goodbye, or where that reads too little of what it is told."""
        closed = self.link.state is LinkState.CLOSED
        return self._connection is connection and not closed and not self.behind

    def flush(self) -> None:
        """Hand the link's messages to the sender."""
        for data in self.link.outgoing():
            self.behind = self.behind or self._unsent.qsize() >= _MOST_UNSENT
            if not self.behind:  # the sender may hang in one message for as long as it likes
                self._unsent.put_nowait(data)

    async def close(self, reason: str) -> None:
        """Cut the connection, if there is one; what reads it then ends.

        Called on every tick while the agent is silent, also where the connection went meanwhile.
        """
        if self._connection is not None and self._cut is not self._connection:
            self._cut = self._connection
            # A peer that does not read must not hold up the keeper: closing waits for its turn
            # behind what was sent before. Its reader ends by itself after as long a silence.
            with suppress(RuntimeError, WebSocketDisconnect, TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._connection.close(1001, reason[:100])

    async def send(self, connection: Connection) -> None:
        """Send until this connection is replaced or closed."""
        unsent = self._unsent
        while (data := await unsent.get()) is not None:
            if self.behind:
                log.warning("agent %s does not read its link; cutting it", self.agent_id)
                await connection.close(1008, "you do not read")
                return
            await connection.send_bytes(data)


async def dismiss(
    connection: Connection,
    reason: str,
    *,
    final: bool = False,
    code: int = 1002,
    retry_after: float = 5.0,
) -> None:
    """Say why and close; without waiting for a peer that does not read. `retry_after`: seconds in
    which an agent that breaks the rules shall leave us alone; 0: it knows best."""
    # Suppressed: it has gone already, maybe without a word.
    with suppress(WebSocketDisconnect, RuntimeError, TimeoutError):
        async with asyncio.timeout(CLOSE_SECONDS):
            await connection.send_bytes(
                rejection(reason, final=final, retry_after=0.0 if final else retry_after)
            )
            await connection.close(code, reason[:100])
