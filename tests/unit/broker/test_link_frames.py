"""The broker's door for agents, fed with anything: nothing escapes, nobody else is disturbed."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Iterable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.websockets import WebSocketDisconnect

from foxden_broker.account import Account
from foxden_broker.link_door import serve_link
from foxden_broker.uploads import Signer
from foxden_proto import limits
from foxden_proto.problems import Problem, Reason
from foxden_proto.timers import Timers
from foxden_proto.v1 import generation_pb2 as gen
from foxden_proto.v1 import link_pb2 as pb
from foxden_proto.v1 import pool_pb2

MIB = 1024 * 1024


class Socket:
    """A WebSocket that says what it was given and hangs up."""

    def __init__(self, said: Iterable[bytes]) -> None:
        self._said = iter(said)
        self.heard: list[bytes] = []
        self.closed = 0
        self.hold: asyncio.Event | None = None  # until when it stays without a word

    async def receive_bytes(self) -> bytes:
        await asyncio.sleep(0)
        for data in self._said:
            return data
        if self.hold is not None:
            await self.hold.wait()
        raise WebSocketDisconnect(1006)

    async def send_bytes(self, data: bytes) -> None:
        self.heard.append(data)

    async def close(self, code: int = 1000, reason: str | None = None) -> None:
        self.closed = code


class Rows:
    """A store in which everything is refused: what is fuzzed is what comes before it."""

    def __init__(self) -> None:
        self.finished: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        async def call(*args: Any, **_: Any) -> Any:
            if name == "finish":
                self.finished.append(args)
                return None, False
            lists = ("agents", "assign", "end_queued", "cards", "open_tasks")
            return () if name in lists else None

        return call


async def welcome() -> None: ...


def account() -> Account:
    rows: Any = Rows()
    blobs: Any = None
    return Account("main", rows, blobs, Signer(bytes(32)), Timers())


def frame(**said: Any) -> bytes:
    return pb.AgentFrame(**said).SerializeToString()


def hello(agent: str, card: pool_pb2.CardInfo) -> bytes:
    return frame(hello=pb.Hello(protocol=1, agent_id=agent, agent_name="a", cards=[card]))


ids = st.sampled_from(["", "agent-1", "agent-2", "card", "job", "x" * 65, "ä\n"])
numbers = st.sampled_from([0, 1, -1, 2**31 - 1, -(2**31)])
leases = st.builds(pb.Lease, job_id=ids, index=numbers, lease_no=numbers)
floats = st.sampled_from([0.0, -1.0, float("nan"), float("inf"), 1e308])
pictures = st.builds(gen.Picture, sha256=ids, size=numbers, seconds=floats, width=numbers)
readings = st.builds(pool_pb2.CardReadings, card_id=ids, temperature=floats)
modes = st.builds(pb.CardMode, card_id=ids, mode=st.integers(-1, 99), reasons=st.lists(ids))
cards = st.builds(pool_pb2.CardInfo, card_id=ids, name=ids)
said = st.one_of(
    st.builds(pb.Hello, protocol=numbers, agent_id=ids, cards=st.lists(cards, max_size=3)).map(
        lambda m: frame(hello=m)
    ),
    st.builds(pb.Heartbeat, cards=st.lists(readings), modes=st.lists(modes)).map(
        lambda m: frame(heartbeat=m)
    ),
    st.builds(pb.ModeChanged, mode=modes).map(lambda m: frame(mode_changed=m)),
    st.builds(pb.CardsChanged, cards=st.lists(cards)).map(lambda m: frame(cards_changed=m)),
    st.builds(pb.Refused, leases=st.lists(leases)).map(lambda m: frame(refused=m)),
    st.builds(pb.TaskStarted, lease=leases).map(lambda m: frame(started=m)),
    st.builds(pb.TaskProgress, lease=leases, step=numbers, steps=numbers).map(
        lambda m: frame(progress=m)
    ),
    st.builds(pb.TaskFinished, lease=leases, picture=pictures, receipt=ids).map(
        lambda m: frame(finished=m)
    ),
    st.builds(pb.TaskFailed, lease=leases, reason=ids).map(lambda m: frame(failed=m)),
    st.builds(pb.TaskReleased, lease=leases, releasing=st.booleans()).map(
        lambda m: frame(released=m)
    ),
    st.builds(pb.TaskStopped, lease=leases).map(lambda m: frame(stopped=m)),
    st.builds(
        pb.ModelLoaded, card_id=ids, model_sha256=ids, seconds=floats, tier=st.integers(-1, 9)
    ).map(lambda m: frame(model_loaded=m)),
    st.just(frame(draining=pb.Draining())),
    st.just(frame(goodbye=pb.Goodbye())),
    st.binary(max_size=60),
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A frame with some of its bytes changed, cut, doubled or mixed with another's."""
    data = bytearray(draw(said))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["flip", "cut", "double", "mix"])):
            case "flip" if at < len(data):
                data[at] ^= draw(st.integers(1, 255))
            case "cut":
                del data[at:]
            case "double":
                data[at:at] = data[at : at + 20]
            case "mix":
                data[at:at] = draw(said)[:40]
    return bytes(data)


@given(st.lists(mutated(), max_size=12), st.booleans())
@settings(
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_link_told_anything_ends_quietly_and_leaves_another_agent_alone(
    make_card: Any, frames: list[bytes], opened: bool
) -> None:
    pool = account()
    over = asyncio.Event()
    good = Socket([hello("good", make_card("good"))])
    good.hold = over
    serving = asyncio.create_task(serve_link(pool, good, welcome))  # type: ignore[arg-type]
    while not good.heard:  # noqa: ASYNC110  its welcome
        await asyncio.sleep(0)
    opening = [hello("agent-1", make_card())] if opened else []
    bad: Any = Socket(opening + frames)
    await serve_link(pool, bad, welcome)
    assert pool.pool.cards["good"].works
    assert pool.sessions["good"].link.up
    over.set()
    await serving


async def test_frame_as_big_as_allowed_full_of_tiny_parts_takes_little_memory(
    make_card: Any,
) -> None:
    small = pb.Lease(index=1)
    most = limits.FRAME_BYTES // (small.ByteSize() + 2) - 10
    big = frame(refused=pb.Refused(leases=[small] * most))
    assert limits.FRAME_BYTES * 0.9 < len(big) <= limits.FRAME_BYTES
    bad: Any = Socket([hello("agent-1", make_card()), big])
    pool = account()
    tracemalloc.start()
    await serve_link(pool, bad, welcome)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert bad.closed == 1002
    assert peak < 4 * MIB


async def test_picture_of_an_agent_whose_token_was_revoked_is_not_accepted(make_card: Any) -> None:
    """It says no heartbeats, with which it would be asked."""

    async def gone() -> None:
        raise Problem(Reason.UNAUTHORIZED, "the token was revoked")

    pool = account()
    rows: Any = pool.store
    finished = pb.TaskFinished(lease=pb.Lease(job_id="job", lease_no=1))
    bad: Any = Socket([hello("agent-1", make_card()), frame(finished=finished)])
    await serve_link(pool, bad, gone)
    assert bad.closed == 4401
    last = pb.BrokerFrame.FromString(bad.heard[-1])
    assert last.rejected.final
    assert rows.finished == []
