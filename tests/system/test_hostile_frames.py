"""An agent that sends its broker anything, and a broker that does so to its agent.

What they are sent breaks the rules as often as not. It may end a link; it must never end a
program, make it forget what it is for, or be something that nobody foresaw (a traceback).
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from any_message import any_message, parts
from google.protobuf.message import DecodeError, Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from real_pool import Pool, Process
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.sync.server import ServerConnection, serve

import foxden
from foxden_proto.v1 import generation_pb2 as gen
from foxden_proto.v1 import link_pb2 as pb
from foxden_proto.v1 import pool_pb2

pytestmark = [pytest.mark.system, pytest.mark.engine]

PROMPT = "a red cube on a blue background"
EXAMPLES = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def frames(kind: type, good: list[Message]) -> st.SearchStrategy[list[Message | bytes]]:
    """What to say: most are frames with any values, some are no frames at all."""
    frame = any_message(kind, good)
    return st.lists(frame | frame | frame | st.binary(max_size=300), min_size=1, max_size=6)


def as_bytes(said: Message | bytes) -> bytes:
    return said if isinstance(said, bytes) else said.SerializeToString()


def assert_foreseen(log: Path) -> None:
    text = log.read_text()
    assert "Traceback" not in text, text[text.index("Traceback") :][:3000]


# To the broker


def card() -> pool_pb2.CardInfo:
    model = pool_pb2.Model(
        name="fuzz",
        sha256="f" * 64,
        default_width=64,
        default_height=64,
        default_steps=4,
        default_guidance_scale=5,
        default_sampler="Euler",
        default_schedule="automatic",
        multiple_of=8,
        min_size=64,
        max_size=512,
    )
    sampler = pool_pb2.Sampler(name="Euler", schedules=["automatic"])
    return pool_pb2.CardInfo(card_id="fuzz.cpu", name="fuzz", models=[model], samplers=[sampler])


HELLO = pb.Hello(protocol=1, agent_id="fuzz", agent_name="fuzz", cards=[card()])
MINE = pb.Lease(job_id="what I hold", index=0, lease_no=1)  # in its place comes a real lease


def test_broker_survives_whatever_an_agent_says(pool_on_each_store: Pool):
    pool = pool_on_each_store
    pool.start_broker()
    client = pool.client()
    uri = pool.http.replace("http", "ws") + "/v1/link"
    headers = {"Authorization": f"Bearer {pool.agent_token}"}
    with connect(uri, additional_headers=headers) as link:
        link.send(pb.AgentFrame(hello=HELLO).SerializeToString())
        link.recv(timeout=10)
    client.submit(PROMPT, count=1000)  # so that the liar always has something to lie about

    @EXAMPLES
    @given(said=frames(pb.AgentFrame, [MINE, HELLO, card()]), greets=st.integers(0, 5))
    def lie(said: list[Message | bytes], greets: int) -> None:
        talking = connect(uri, additional_headers=headers, close_timeout=1)
        with talking as link, suppress(ConnectionClosed):
            if greets:  # most of the time
                link.send(pb.AgentFrame(hello=HELLO).SerializeToString())
                held = _lease_in(link)
                for frame in said:
                    for lease in parts(frame, pb.Lease) if isinstance(frame, Message) else ():
                        lease.CopyFrom(held if lease == MINE else lease)
            for frame in said:
                link.send(as_bytes(frame))
            link.send(pb.AgentFrame(heartbeat=pb.Heartbeat(number=1)).SerializeToString())
            while not _answers(link.recv(timeout=10)):
                pass
        assert_foreseen(pool.folder / "broker.log")

    lie()
    assert client.submit(PROMPT).id
    assert pool.rows("SELECT * FROM picture") == []  # nobody can talk himself into a picture


def _lease_in(link: ClientConnection) -> pb.Lease:
    """The first lease that the broker gives to the liar's card."""
    while True:
        data = link.recv(timeout=10)
        assert isinstance(data, bytes)
        for task in pb.BrokerFrame.FromString(data).assignment.tasks:
            return task.lease


def _answers(data: str | bytes) -> bool:
    assert isinstance(data, bytes)
    return pb.BrokerFrame.FromString(data).WhichOneof("frame") in ("heartbeat_seen", "rejected")


def test_names_that_no_database_likes_are_not_found(pool_on_each_store: Pool):
    pool = pool_on_each_store
    pool.start_broker()
    client = pool.client()
    began = time.monotonic()
    for text in ("\x00", "a\x00b", "x" * 5000, "../x", "é", " "):
        for call in (client.get, client.cancel, client.revoke_token):
            with pytest.raises(foxden.NotFound):
                call(text)
    assert time.monotonic() - began < 10  # said at once, not tried again for a minute
    assert_foreseen(pool.folder / "broker.log")


def test_agent_with_nul_in_its_words_is_heard_and_hinders_nobody(pool_on_each_store: Pool):
    pool = pool_on_each_store
    pool.start_broker()
    uri = pool.http.replace("http", "ws") + "/v1/link"
    hello = pb.Hello()
    hello.CopyFrom(HELLO)
    hello.agent_name = hello.cards[0].name = "\x00"
    job = pool.client().submit(PROMPT)
    with connect(uri, additional_headers={"Authorization": f"Bearer {pool.agent_token}"}) as link:
        link.send(pb.AgentFrame(hello=hello).SerializeToString())
        failed = pb.TaskFailed(lease=_lease_in(link), reason="\x00", retryable=False)
        link.send(pb.AgentFrame(failed=failed).SerializeToString())
        with pytest.raises(foxden.JobFailed):
            job.result(timeout=10)


# To the agent


class Impostor:
    """A broker that says whatever a test wants to agents that dial it."""

    def __init__(self) -> None:
        self.links: queue.Queue[ServerConnection] = queue.Queue()
        self._over = threading.Event()
        self._server = serve(self._hold, "127.0.0.1", 0, max_size=None)
        self.port: int = self._server.socket.getsockname()[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def _hold(self, link: ServerConnection) -> None:
        self.links.put(link)
        while not self._over.wait(0.02) and link.protocol.state.name == "OPEN":
            pass

    def greeted(self) -> tuple[ServerConnection, pb.Hello]:
        """The next link, and the hello it opened with."""
        while True:
            link = self.links.get(timeout=30)
            with suppress(ConnectionClosed, TimeoutError):
                data = link.recv(timeout=10)
                assert isinstance(data, bytes)
                return link, pb.AgentFrame.FromString(data).hello

    def close(self) -> None:
        self._over.set()
        self._server.shutdown()


@pytest.fixture
def impostor() -> Iterator[Impostor]:
    made = Impostor()
    yield made
    made.close()


def broker_frames(good: list[Message]) -> st.SearchStrategy[list[Message | bytes]]:
    """All but the one that rightly ends an agent: that its broker will never want it."""

    def ends(said: Message | bytes) -> bool:
        with suppress(DecodeError):
            return pb.BrokerFrame.FromString(as_bytes(said)).rejected.final
        return False

    return frames(pb.BrokerFrame, good).filter(lambda said: not any(map(ends, said)))


WELCOME = pb.BrokerFrame(welcome=pb.Welcome(session_id="s", account_id="a"))


def test_agent_survives_whatever_a_broker_says(pool: Pool, impostor: Impostor):
    target = f"foxden://127.0.0.1:1?http={impostor.port}"
    pool.agent_token = "fxd_x"
    agent = pool.start_agent("one", broker=target, wait=False)
    link, hello = impostor.greeted()
    link.close()
    (own,) = hello.cards
    task = pb.AssignedTask(request=good_request(own), upload_path="/x", upload_token="x")
    task.lease.CopyFrom(MINE)
    good = [MINE, task, task.request, pb.Assignment(card_id=own.card_id, tasks=[task])]

    @EXAMPLES
    @given(said=broker_frames(good), welcomes=st.integers(0, 5))
    def lie(said: list[Message | bytes], welcomes: int) -> None:
        link, _ = impostor.greeted()
        with suppress(ConnectionClosed):
            if welcomes:
                link.send(WELCOME.SerializeToString())
            for frame in said:
                link.send(as_bytes(frame))
        link.close()
        assert_foreseen(agent.log)

    lie()
    assert_works(impostor, own, agent)


def good_request(card: pool_pb2.CardInfo) -> gen.ImageRequest:
    model = card.models[0]
    return gen.ImageRequest(
        prompt=PROMPT,
        model=model.name,
        model_sha256=model.sha256,
        sampler=model.default_sampler,
        schedule=model.default_schedule,
        steps=4,
        guidance_scale=5,
        width=64,
        height=64,
        seed=1,
    )


def assert_works(impostor: Impostor, card: pool_pb2.CardInfo, agent: Process) -> None:
    """It still draws what it is told."""
    link, _ = impostor.greeted()
    lease = pb.Lease(job_id="honest", index=0, lease_no=1)
    task = pb.AssignedTask(lease=lease, request=good_request(card), upload_path="/x", deadline=60)
    assignment = pb.Assignment(card_id=card.card_id, tasks=[task])
    link.send(WELCOME.SerializeToString())
    link.send(pb.BrokerFrame(assignment=assignment).SerializeToString())
    end = time.monotonic() + 60
    while time.monotonic() < end:
        data = link.recv(timeout=60)
        assert isinstance(data, bytes)
        frame = pb.AgentFrame.FromString(data)
        if frame.progress.lease == lease and frame.progress.step == 4:
            assert_foreseen(agent.log)
            return
        number = frame.heartbeat.number
        link.send(pb.BrokerFrame(heartbeat_seen={"number": number}).SerializeToString())
    raise AssertionError(f"it draws nothing any more\n{agent.log.read_text()}")
