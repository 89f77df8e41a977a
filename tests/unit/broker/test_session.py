"""A session outlives the connections of its agent."""

from __future__ import annotations

import asyncio

import pytest

from foxden_broker.session import Session
from foxden_proto.states import LinkState
from foxden_proto.timers import Timers
from foxden_proto.v1 import link_pb2 as pb


class Line:
    """A connection that remembers what went over it."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.closed: list[int] = []

    async def send_bytes(self, data: bytes) -> None:
        self.sent.append(data)

    async def close(self, code: int = 1000, reason: str | None = None) -> None:
        self.closed.append(code)


@pytest.fixture
def session() -> Session:
    return Session("agent-1", Timers(), 0.0)


def say(session: Session, **frame: object) -> None:
    session.link.receive(pb.AgentFrame(**frame).SerializeToString(), 0.0)  # type: ignore[arg-type]


HELLO = pb.Hello(protocol=1, agent_id="agent-1")


def test_newer_connection_takes_over_and_the_older_one_changes_nothing(session: Session) -> None:
    old, new = Line(), Line()
    assert session.connected(old) is None
    say(session, hello=HELLO)
    assert session.connected(new) is old
    assert not session.disconnected(old)
    assert session.link.state is LinkState.HELLO
    assert session.disconnected(new)
    assert session.link.state is LinkState.DISCONNECTED


def test_agent_that_said_goodbye_and_started_again_is_welcome(session: Session) -> None:
    line = Line()
    session.connected(line)
    session.link.welcome("s", "a", [], [])
    say(session, goodbye=pb.Goodbye())
    session.disconnected(line)
    session.connected(Line())
    say(session, hello=HELLO)
    session.link.welcome("s", "a", [], [])
    assert session.link.state is LinkState.READY


async def test_sender_sends_in_order_until_the_connection_is_over(session: Session) -> None:
    line = Line()
    session.connected(line)
    session.link.welcome("s", "a", [], [])
    session.link.drain("soon")
    session.flush()
    session.disconnected(line)
    await session.send(Line())  # of nothing: what was unsent went with the connection
    assert line.closed == []


async def test_agent_that_does_not_read_is_cut_off(session: Session) -> None:
    line = Line()
    session.connected(line)
    session.link.welcome("s", "a", [], [])
    for _ in range(2500):
        session.link.settle(pb.Lease(), True)
    session.flush()
    await session.send(line)
    assert line.closed == [1008]


async def test_silent_agent_is_cut_off_once_also_where_it_has_gone(session: Session) -> None:
    class Gone(Line):
        async def close(self, code: int = 1000, reason: str | None = None) -> None:
            await super().close(code, reason)
            raise RuntimeError('Cannot call "send" once a close message has been sent.')

    await session.close("nobody is there")
    line = Gone()
    session.connected(line)
    await session.close("silent")
    await session.close("silent")
    assert line.closed == [1001]
    session.disconnected(line)
    again = Line()
    session.connected(again)
    await session.close("silent again")
    assert again.closed == [1001]


class Stuck(Line):
    """A connection whose other end does not read: what is said waits for its turn."""

    async def send_bytes(self, data: bytes) -> None:
        await asyncio.Event().wait()

    async def close(self, code: int = 1000, reason: str | None = None) -> None:
        await asyncio.Event().wait()


async def test_closing_what_nobody_reads_holds_nobody_up(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foxden_broker.session.CLOSE_SECONDS", 0.01)
    session.connected(Stuck())
    async with asyncio.timeout(5):
        await session.close("silent for too long")


async def test_agent_that_asks_and_never_reads_fills_no_memory_and_is_read_no_more(
    session: Session,
) -> None:
    line = Stuck()
    session.connected(line)
    session.link.welcome("s", "a", [], [])
    sender = asyncio.create_task(session.send(line))
    for number in range(5000):
        say(session, heartbeat=pb.Heartbeat(number=number))
        session.flush()
    assert session._unsent.qsize() <= 2000
    assert not session.serves(line)
    sender.cancel()
    again = Line()
    session.connected(again)
    assert session.serves(again)


def test_connection_that_was_replaced_or_said_goodbye_is_read_no_more(session: Session) -> None:
    old, new = Line(), Line()
    session.connected(old)
    session.connected(new)
    assert not session.serves(old)
    assert session.serves(new)
    session.link.welcome("s", "a", [], [])
    say(session, goodbye=pb.Goodbye())
    assert not session.serves(new)
