"""The first words of a link whose agent has a key: challenge, proof, a wait, hello."""

from __future__ import annotations

from typing import Any

import pytest

from foxden_proto import link
from foxden_proto.limits import LINK_PROTOCOL
from foxden_proto.link import AgentLink, LeaseKey, Silent
from foxden_proto.link_checks import LinkError
from foxden_proto.states import LinkState
from foxden_proto.timers import Timers
from foxden_proto.v1 import link_pb2 as pb

NONCE = b"n" * 32
SIGNATURE = b"s" * 64


@pytest.fixture
def signed() -> list[bytes]:
    return []


@pytest.fixture
def agent(signed: list[bytes]) -> AgentLink:
    def prove(nonce: bytes) -> bytes:
        signed.append(nonce)
        return SIGNATURE

    hello = pb.Hello(protocol=LINK_PROTOCOL, agent_id="agent-1")
    made = AgentLink(Timers(), hello, 0.0, prove)
    made.opened(0.0)
    return made


def said(agent: AgentLink) -> list[str]:
    frames = [pb.AgentFrame.FromString(data) for data in agent.outgoing()]
    return [frame.WhichOneof("frame") for frame in frames]


def test_agent_with_a_key_says_nothing_of_itself_until_it_is_admitted(
    agent: AgentLink, signed: list[bytes]
) -> None:
    assert said(agent) == []
    agent.receive(link.challenge(NONCE), 1.0)
    assert (said(agent), signed) == (["proof"], [NONCE])
    agent.receive(link.admitted(), 2.0)
    assert said(agent) == ["hello"]
    welcome = pb.BrokerFrame(welcome=pb.Welcome()).SerializeToString()
    agent.receive(welcome, 3.0)
    assert agent.state is LinkState.READY


def test_agent_that_waits_hears_so_and_is_not_silent_meanwhile(agent: AgentLink) -> None:
    agent.receive(link.challenge(NONCE), 0.0)
    for now in range(5, 500, 5):
        (event,) = agent.receive(link.pending("say yes"), float(now))
        assert isinstance(event, pb.Pending)
        assert agent.tick(float(now)) == []
    assert agent.tick(495.0 + Timers().silent) == [Silent()]


def test_new_connection_is_a_new_proof(agent: AgentLink, signed: list[bytes]) -> None:
    agent.receive(link.challenge(NONCE), 0.0)
    agent.lost(1.0)
    agent.opened(2.0)
    assert said(agent) == []
    with pytest.raises(LinkError):  # the old proof is worth nothing now
        agent.receive(link.admitted(), 2.0)
    agent.receive(link.challenge(b"m" * 32), 3.0)
    assert signed == [NONCE, b"m" * 32]


def test_held_leases_are_told_to_nobody_who_has_not_admitted_it(agent: AgentLink) -> None:
    agent.held[LeaseKey("job", 0, 1)] = link.agent.Holding()
    agent.receive(link.challenge(NONCE), 0.0)
    (proof,) = agent.outgoing()
    assert b"job" not in proof
    agent.receive(link.admitted(), 0.0)
    (hello,) = agent.outgoing()
    assert pb.AgentFrame.FromString(hello).hello.held


@pytest.mark.parametrize(
    "frames",
    [
        [{"challenge": pb.Challenge(nonce=b"short")}],
        [{"challenge": pb.Challenge(nonce=NONCE)}] * 2,  # nothing is signed twice
        [{"welcome": pb.Welcome()}],
        [{"admitted": pb.Admitted()}],
        [{"pending": pb.Pending()}],
        [{"challenge": pb.Challenge(nonce=NONCE)}, {"welcome": pb.Welcome()}],
    ],
)
def test_broker_out_of_turn_is_an_error(agent: AgentLink, frames: list[dict[str, Any]]) -> None:
    *before, last = [pb.BrokerFrame(**frame).SerializeToString() for frame in frames]
    for data in before:
        agent.receive(data, 0.0)
    with pytest.raises(LinkError):
        agent.receive(last, 0.0)


def test_challenge_in_the_middle_of_a_link_signs_nothing(
    agent: AgentLink, signed: list[bytes]
) -> None:
    agent.receive(link.challenge(NONCE), 0.0)
    agent.receive(link.admitted(), 0.0)
    agent.receive(pb.BrokerFrame(welcome=pb.Welcome()).SerializeToString(), 0.0)
    with pytest.raises(LinkError, match="in the middle"):
        agent.receive(link.challenge(b"x" * 32), 1.0)
    assert signed == [NONCE]


def test_agent_with_a_token_is_asked_for_no_proof() -> None:
    agent = AgentLink(Timers(), pb.Hello(agent_id="a"), 0.0)
    agent.opened(0.0)
    assert said(agent) == ["hello"]
    with pytest.raises(LinkError):
        agent.receive(link.challenge(NONCE), 0.0)


def test_proof_is_read_and_anything_else_refused() -> None:
    frame = pb.AgentFrame(proof=pb.Proof(signature=SIGNATURE))
    assert link.read_proof(frame.SerializeToString()) == SIGNATURE
    short = pb.AgentFrame(proof=pb.Proof(signature=b"s"))
    for other in (short, pb.AgentFrame(hello=pb.Hello()), pb.AgentFrame()):
        with pytest.raises(LinkError):
            link.read_proof(other.SerializeToString())
    with pytest.raises(LinkError):
        link.read_proof(b"\xff\xff")
