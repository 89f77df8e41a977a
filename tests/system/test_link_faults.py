"""The link between agent and broker is cut, swallowed, slowed, fed garbage."""

from __future__ import annotations

from contextlib import suppress

import httpx
import pytest
from chaos.den import Den
from drawn import after_step, outcomes
from real_pool import BRIEF, LONG
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State
from websockets.sync.client import connect

from foxden import events
from foxden_proto.v1 import link_pb2 as pb

pytestmark = [pytest.mark.system, pytest.mark.engine]

PROMPT = "a red cube on a blue background"


def test_link_cut_while_an_image_runs_the_agent_resumes_it(sqlite_den: Den):
    job = sqlite_den.pool.client().submit(PROMPT, seed=1, **LONG)
    relay = sqlite_den.relays[after_step(job)]

    relay.cut()

    assert len(job.result(timeout=90)) == 1
    assert outcomes(job) == ["finish"]


def test_link_cut_again_and_again_every_image_arrives_once(sqlite_den: Den):
    job = sqlite_den.pool.client().submit(PROMPT, seed=1, count=4, **BRIEF)
    seen = []
    uncut = {0, 1, 2, 3}
    for event in job.watch():
        if isinstance(event, events.Progress) and event.index in uncut and event.step >= 5:
            uncut.remove(event.index)
            for relay in sqlite_den.relays.values():
                relay.cut()
        if isinstance(event, events.PictureReady):
            seen.append(event.index)
    assert sorted(seen) == [0, 1, 2, 3]
    assert len(uncut) <= 2  # an image may be drawn while nobody can tell of it


def test_slow_link_delays_only_itself(sqlite_den: Den):
    for relay in sqlite_den.relays.values():
        relay.delay = 0.05  # until the den is mended for the next test
    assert len(sqlite_den.pool.client().generate(PROMPT, seed=1, count=2, progress=False)) == 2


@pytest.mark.parametrize(
    "frames",
    [
        [b"\xff" * 100],
        [b""],
        [b"\x00" * 300_000],
        [pb.AgentFrame(heartbeat=pb.Heartbeat(number=1)).SerializeToString()],
        [pb.AgentFrame(hello=pb.Hello(protocol=99, agent_id="x")).SerializeToString()],
        [pb.AgentFrame(hello=pb.Hello(protocol=1, agent_id="../../x")).SerializeToString()],
        [
            pb.AgentFrame(hello=pb.Hello(protocol=1, agent_id=name)).SerializeToString()
            for name in ("ok", "other")
        ],
    ],
    ids=["garbage", "empty", "huge", "no hello", "version", "bad id", "another hello"],
)
def test_garbage_on_the_link_ends_that_link_and_nothing_else(calm_pool, frames):
    uri = calm_pool.http.replace("http", "ws") + "/v1/link"
    headers = {"Authorization": f"Bearer {calm_pool.agent_token}"}
    with connect(uri, additional_headers=headers, close_timeout=1, max_size=None) as link:
        with suppress(ConnectionClosed):
            for frame in frames:
                link.send(frame)
        with suppress(ConnectionClosed):
            while True:
                link.recv(timeout=10)
        assert link.protocol.state is State.CLOSED
    assert len(calm_pool.client().generate(PROMPT, seed=1, progress=False)) == 1


def test_link_without_an_agents_token_is_refused_with_words(calm_pool):
    uri = calm_pool.http.replace("http", "ws") + "/v1/link"
    for token in ("", "Bearer nonsense", f"Bearer {calm_pool.token}"):
        with connect(uri, additional_headers={"Authorization": token}) as link:
            frame = pb.BrokerFrame.FromString(link.recv(timeout=10))
        assert frame.rejected.final
        assert "token" in frame.rejected.reason


def test_a_picture_is_taken_only_from_the_lease_it_belongs_to(calm_pool):
    account = calm_pool.token.split("_")[1]
    url = f"{calm_pool.http}/v1/pictures/{account}/job/0/1"
    for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": "Bearer \xff"}):
        raw = {name: value.encode("latin-1") for name, value in headers.items()}
        assert httpx.put(url, content=b"x", headers=raw).status_code == 401


def test_two_agents_with_one_id_the_older_is_told(calm_pool):
    uri = calm_pool.http.replace("http", "ws") + "/v1/link"
    headers = {"Authorization": f"Bearer {calm_pool.agent_token}"}
    hello = pb.AgentFrame(hello=pb.Hello(protocol=1, agent_id="twin")).SerializeToString()
    with connect(uri, additional_headers=headers) as first:
        first.send(hello)
        assert pb.BrokerFrame.FromString(first.recv(timeout=10)).WhichOneof("frame") == "welcome"
        with connect(uri, additional_headers=headers) as second:
            second.send(hello)
            frame = pb.BrokerFrame.FromString(second.recv(timeout=10))
            assert frame.WhichOneof("frame") == "welcome"
            frame = pb.BrokerFrame.FromString(first.recv(timeout=10))
            assert frame.rejected.final


def test_agent_that_said_goodbye_is_welcome_again(calm_pool):
    uri = calm_pool.http.replace("http", "ws") + "/v1/link"
    headers = {"Authorization": f"Bearer {calm_pool.agent_token}"}
    hello = pb.AgentFrame(hello=pb.Hello(protocol=1, agent_id="comes-back")).SerializeToString()
    goodbye = pb.AgentFrame(goodbye=pb.Goodbye(reason="bye")).SerializeToString()
    for _ in range(3):
        with connect(uri, additional_headers=headers) as link:
            link.send(hello)
            frame = pb.BrokerFrame.FromString(link.recv(timeout=10))
            assert frame.WhichOneof("frame") == "welcome"
            link.send(goodbye)
