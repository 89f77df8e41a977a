"""Moves the link's bytes: dials the broker, sends, receives, keeps time, dials again.

The rules are in foxden_proto.link; what to do with an event is the caller's business.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections.abc import Callable, Iterable

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, InvalidURI, WebSocketException

from foxden_agent import clock
from foxden_agent.backoff import delays
from foxden_proto import limits
from foxden_proto.address import CERTIFICATE_NAME, Address
from foxden_proto.link import AgentLink, Event, HeartbeatDue, Silent
from foxden_proto.link_checks import LinkError
from foxden_proto.trust import BrokerUnreachable
from foxden_proto.v1 import link_pb2 as pb
from foxden_proto.v1 import pool_pb2

log = logging.getLogger(__name__)

# What a broken or unreachable broker looks like. All of it is worth another try: a broker that
# really does not want this agent says so in a Rejected frame, and a wrong pin (WrongBroker) is
# absent here because dialling again cannot make it right.
_WORTH_ANOTHER_TRY = (OSError, WebSocketException, InvalidHandshake, BrokerUnreachable, LinkError)


class LinkRefused(Exception):
    """The broker does not want this agent, now or later; the text is its own."""


class LinkDriver:
    """One agent's connection to its broker, made again for as long as `run` runs."""

    def __init__(
        self,
        link: AgentLink,
        address: Address,
        token: str,
        on_event: Callable[[Event], None],
        readings: Callable[[], tuple[Iterable[pool_pb2.CardReadings], Iterable[pb.CardMode]]],
        tls: Callable[[], ssl.SSLContext | None],
        *,
        authorization: str = "",
        on_lost: Callable[[str], None] = lambda why: None,
    ) -> None:
        """`authorization`: the header of an agent that has a key instead of a token; `on_lost`
        hears why there is no link now, also after a dial that failed."""
        self.link = link
        self._address = address
        self._authorization = authorization or f"Bearer {token}"
        self._on_event = on_event
        self._readings = readings
        self._tls = tls
        self._on_lost = on_lost
        self._something_to_send = asyncio.Event()
        self._retry_after = 0.0
        self._connection: ClientConnection | None = None

    def flush(self) -> None:
        """Call after saying something on the link."""
        self._something_to_send.set()

    async def run(self) -> None:
        """Keep the link up until cancelled. Raises LinkRefused, or trust.WrongBroker."""
        timers = self.link.timers
        pauses = delays(timers.reconnect_first, timers.reconnect_most, random.Random())
        while True:
            try:
                async with await self._dial() as connection:
                    await self._converse(connection)
                why = "the broker closed the connection"
            except InvalidURI as error:
                raise LinkRefused(str(error)) from error
            except _WORTH_ANOTHER_TRY as error:
                why = str(error) or type(error).__name__
            if self.link.up:
                # It had let us in a moment ago: start from the short pauses again.
                pauses = delays(timers.reconnect_first, timers.reconnect_most, random.Random())
            self.link.lost(clock.now())
            pause = max(next(pauses), self._retry_after)
            self._retry_after = 0.0
            log.warning("no link to %s (%s); trying again in %.1f s", self._where, why, pause)
            self._on_lost(why)
            await asyncio.sleep(pause)

    @property
    def _where(self) -> str:
        return self._address.http_url

    async def _dial(self) -> connect:
        address = self._address
        tls = await asyncio.to_thread(self._tls)
        return connect(
            f"{address.http_url.replace('http', 'ws', 1)}/v1/link",
            additional_headers={"Authorization": self._authorization},
            ssl=tls,
            server_hostname=CERTIFICATE_NAME if address.pin else None,
            proxy=None if address.loopback else True,
            compression=None,
            max_size=limits.FRAME_BYTES,
            ping_interval=None,  # the link has heartbeats of its own
            open_timeout=self.link.timers.silent,
            close_timeout=1,
        )

    async def _converse(self, connection: ClientConnection) -> None:
        self._connection = connection
        self.link.opened(clock.now())
        self.flush()
        sender = asyncio.create_task(self._send(connection), name="link sender")
        try:
            async for data in connection:
                if isinstance(data, str):
                    raise LinkError("the broker sent text")
                for event in self.link.receive(data, clock.now()):
                    self._handle(event)
                self.flush()
        finally:
            self._connection = None
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)

    async def _send(self, connection: ClientConnection) -> None:
        while True:
            await self._something_to_send.wait()
            self._something_to_send.clear()
            for data in self.link.outgoing():
                await connection.send(data)

    async def keep_time(self) -> None:
        """Say heartbeats and notice silence, until cancelled: a loop of its own beside `run`, since
        time passes also while there is no connection, and leases end.

        A PC that wakes finds by the first tick how long it has heard nothing, and dials at once: on
        a connection that was cut in its sleep no word of that ever comes.
        """
        while True:
            now = clock.now()
            # Never longer than a quarter of a heartbeat: what is due changes with every frame.
            pause = min(self.link.wake_at(now) - now, self.link.timers.heartbeat / 4)
            await asyncio.sleep(max(0.01, pause))
            late = clock.now() - now - pause
            if late >= self.link.timers.silent:
                log.warning("this PC slept, or this program stood still, for %.0f s", late)
            for event in self.link.tick(clock.now()):
                self._handle(event)
            self.flush()

    def _handle(self, event: Event) -> None:
        match event:
            case HeartbeatDue():
                self.link.heartbeat(*self._readings())
            case Silent():
                log.warning("the broker is silent")
                self._hang_up()
            case pb.Rejected():
                if event.final:
                    raise LinkRefused(event.reason)
                # Infinity, a week or no number at all: then we know better.
                sane = 0 <= event.retry_after <= self.link.timers.reconnect_most
                self._retry_after = event.retry_after if sane else self.link.timers.reconnect_most
                log.warning("the broker says: %s", event.reason)
            case _:
                self._on_event(event)

    def _hang_up(self) -> None:
        """Cut a connection that is dead but does not know it; the reader then ends."""
        if self._connection is not None and self._connection.transport is not None:
            self._connection.transport.abort()
