"""The agent's and the broker's end of a link against each other, through real bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from foxden_proto import limits
from foxden_proto.link import (
    AgentLink,
    BrokerLink,
    Dropped,
    HeartbeatDue,
    LeaseKey,
    LeasesExpired,
    Silent,
    Unacknowledged,
    rejection,
)
from foxden_proto.link_checks import (
    LinkError,
    check_cards,
    check_hello,
    check_payload,
    read_hello,
)
from foxden_proto.states import LinkState
from foxden_proto.timers import Timers
from foxden_proto.v1 import link_pb2 as pb
from foxden_proto.v1 import pool_pb2

A = LeaseKey("job", 0, 1)
A2 = LeaseKey("job", 0, 2)  # a later lease of the same image
B = LeaseKey("job", 1, 1)
CHECKPOINT = {"sha256": "a" * 64, "size": 1000, "step": 7}
Wire = Any  # conftest.Wire
Assigning = Callable[..., pb.Assignment]


def said(frame: type[Any], data: list[bytes]) -> list[str]:
    return [frame.FromString(one).WhichOneof("frame") for one in data]


def agent_frame(**frame: Any) -> bytes:
    return pb.AgentFrame(**frame).SerializeToString()


def broker_frame(**frame: Any) -> bytes:
    return pb.BrokerFrame(**frame).SerializeToString()


# Opening


def test_connecting_opened_and_welcomed_is_ready_on_both_sides(wire: Wire) -> None:
    hello = wire.open()
    assert (hello.agent_id, hello.agent_name, list(hello.held)) == ("agent-1", "kitchen", [])
    assert wire.agent.state is wire.broker.state is LinkState.HELLO
    assert not wire.broker.accepts_work(wire.now)
    wire.broker.welcome("session-1", "account-1", [], [])
    (welcome,), _ = wire.deliver()
    assert (welcome.session_id, welcome.account_id) == ("session-1", "account-1")
    assert (welcome.heartbeat, welcome.silent, welcome.lease_lost) == (5, 12, 45)
    assert wire.agent.state is wire.broker.state is LinkState.READY
    assert wire.broker.accepts_work(wire.now)


def test_outgoing_is_handed_out_once(wire: Wire) -> None:
    wire.agent.opened(wire.now)
    assert len(wire.agent.outgoing()) == 1
    assert wire.agent.outgoing() == []


def test_hello_rejected_for_good_closes_the_agent(wire: Wire) -> None:
    wire.open()
    data = rejection("the token is not known", final=True)
    (event,) = wire.agent.receive(data, wire.now)
    assert (event.reason, event.final) == ("the token is not known", True)
    assert wire.agent.state is LinkState.CLOSED
    assert wire.agent.receive(data, wire.now) == []  # said twice
    wire.agent.lost(wire.now)
    assert wire.agent.state is LinkState.CLOSED


def test_hello_rejected_for_now_leaves_the_agent_free_to_dial_again(wire: Wire) -> None:
    wire.open()
    (event,) = wire.agent.receive(rejection("later", final=False, retry_after=7), wire.now)
    assert event.retry_after == 7
    wire.cut()
    wire.connect()
    assert wire.agent.state is LinkState.READY


def test_ready_rejected_for_good_closes_the_agent(up: Wire) -> None:
    up.agent.receive(rejection("another took your place", final=True), up.now)
    assert up.agent.state is LinkState.CLOSED


def test_hello_of_another_protocol_version_is_refused_with_what_to_do(wire: Wire) -> None:
    wire.agent.identity.protocol = limits.LINK_PROTOCOL + 1
    wire.agent.opened(wire.now)
    (data,) = wire.agent.outgoing()
    wire.broker.opened(wire.now)
    for read in (read_hello, lambda data: wire.broker.receive(data, wire.now)):
        with pytest.raises(LinkError, match="same version"):
            read(data)


def hello(**values: Any) -> pb.Hello:
    return pb.Hello(**{"protocol": limits.LINK_PROTOCOL, "agent_id": "agent-1"} | values)


def card(**values: Any) -> pool_pb2.CardInfo:
    return pool_pb2.CardInfo(**{"card_id": "card-1"} | values)


def model(**values: Any) -> pool_pb2.Model:
    good = {
        "name": "dream-8",
        "sha256": "0" * 64,
        "default_width": 512,
        "default_height": 512,
        "default_steps": 20,
        "default_guidance_scale": 7.0,
        "multiple_of": 8,
        "min_size": 64,
        "max_size": 1024,
    }
    return pool_pb2.Model(**good | values)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (hello(agent_id=""), "agent's id"),
        (hello(agent_id="a" * 65), "agent's id"),
        (hello(agent_id="two words"), "agent's id"),
        (hello(agent_id="a\n"), "agent's id"),
        (hello(agent_id="é"), "agent's id"),
        (hello(held=[pb.HeldLease()] * (limits.HELD_LEASES + 1)), "leases"),
        (hello(cards=[card(card_id="")]), "card's id"),
        (hello(cards=[card(), card()]), "same id"),
        (hello(cards=[card(card_id=f"c{i}") for i in range(17)]), "17 cards"),
        (hello(cards=[card(models=[model()] * 501)]), "500 models"),
        (hello(cards=[card(models=[model(name="")])]), "name"),
        (hello(cards=[card(models=[model(name="../x")])]), "name"),
        (hello(cards=[card(models=[model(sha256="")])]), "sha256"),
        (hello(cards=[card(models=[model(default_steps=0)])]), "cannot be"),
        (hello(cards=[card(models=[model(max_size=0)])]), "cannot be"),
        (hello(cards=[card(models=[model(multiple_of=0)])]), "cannot be"),
        (hello(cards=[card(models=[model(default_width=8192)])]), "cannot be"),
        (hello(cards=[card(models=[model(default_guidance_scale=float("nan"))])]), "cannot be"),
        (hello(cards=[card(models=[model(sha256="A" * 64)])]), "sha256"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_hello_out_of_range_is_refused_by_what_is_wrong(bad: pb.Hello, says: str) -> None:
    with pytest.raises(LinkError, match=says):
        check_hello(bad)
    with pytest.raises(LinkError, match=says):
        read_hello(agent_frame(hello=bad))


def test_hello_in_range_is_read() -> None:
    good = hello(cards=[card(models=[model()])], held=[pb.HeldLease(lease=A.message())])
    assert read_hello(agent_frame(hello=good)) == good
    check_cards(good.cards)


@pytest.mark.parametrize(
    "data", [b"", b"\xff" * 9, bytes(limits.FRAME_BYTES + 1), agent_frame(heartbeat=pb.Heartbeat())]
)
def test_first_frame_that_is_no_hello_is_refused(data: bytes) -> None:
    with pytest.raises(LinkError):
        read_hello(data)


# Time


def test_ready_after_a_heartbeats_time_asks_for_one_and_the_broker_confirms(up: Wire) -> None:
    assert up.agent.tick(up.now) == [HeartbeatDue()]  # the first at once
    assert up.agent.tick(up.now + 4.9) == []
    assert up.agent.wake_at(up.now + 4.9) == up.now + 5
    up.now += 5
    assert up.agent.tick(up.now) == [HeartbeatDue()]
    reading = pool_pb2.CardReadings(card_id="card-1", temperature=50)
    up.agent.heartbeat([reading], [pb.CardMode(card_id="card-1", mode=pool_pb2.MODE_READY)])
    at_agent, (beat,) = up.deliver()
    assert (beat.number, beat.cards[0].temperature) == (1, 50)
    assert at_agent == []  # seen: nothing for the driver to do
    assert up.agent.silent_for(up.now) == up.broker.silent_for(up.now) == 0


def test_ready_and_silent_tells_both_sides_and_stops_new_work(up: Wire) -> None:
    assert up.broker.accepts_work(up.now + 11.9)
    assert not up.broker.accepts_work(up.now + 12)
    assert Silent() not in up.agent.tick(up.now + 11.9)
    assert up.agent.tick(up.now + 12) == [Silent()]
    # The broker waits one heartbeat longer: it is the agent that dials again.
    assert up.broker.tick(up.now + 16.9) == []
    assert up.broker.tick(up.now + 17) == [Silent()]


def test_hello_unanswered_is_silence_on_both_sides(wire: Wire) -> None:
    wire.agent.opened(wire.now)
    wire.broker.opened(wire.now)
    assert wire.agent.wake_at(wire.now) == wire.now + 12
    assert wire.agent.tick(wire.now + 12) == [Silent()]
    assert wire.broker.tick(wire.now + 4.9) == []
    assert wire.broker.tick(wire.now + 5) == [Silent()]


def test_timers_scaled_are_the_ones_that_count(wire: Wire) -> None:
    timers = Timers().scaled(0.1)
    link = BrokerLink(timers, 0.0)
    assert link.tick(4.4) == []
    assert link.tick(4.5) == [LeasesExpired()]


# Leases


def test_assignment_acknowledged_in_time_is_held(up: Wire) -> None:
    (event,) = up.give(A, B)
    assert [LeaseKey.of(task.lease) for task in event.tasks] == [A, B]
    assert set(up.agent.held) == {A, B}
    assert up.broker.tick(up.now + 10) == []


def test_assignment_unanswered_is_unacknowledged_once_and_called_back(
    up: Wire, assigning: Assigning
) -> None:
    up.broker.assign(assigning(A, B), up.now)
    up.deliver()
    up.agent.acknowledge([B])
    up.deliver()
    assert up.broker.tick(up.now + 4.9) == []
    assert up.broker.tick(up.now + 5) == [Unacknowledged((A,))]
    assert up.broker.tick(up.now + 6) == []
    (stop,), _ = up.deliver()  # the agent may only have been slow
    assert LeaseKey.of(stop.lease) == A


@pytest.mark.parametrize("word", ["started", "progress", "outcome"])
def test_assignment_answered_by_any_word_about_it_is_acknowledged(
    word: str, up: Wire, assigning: Assigning
) -> None:
    up.broker.assign(assigning(A), up.now)
    up.deliver()
    if word == "started":
        up.agent.started(A)
    elif word == "progress":
        up.agent.progress(A, 1, 20)
    else:
        up.agent.outcome(A, pb.TaskFailed(reason="broken"))
    up.deliver()
    assert up.broker.tick(up.now + 5) == []


def test_assignment_refused_is_not_held(up: Wire, assigning: Assigning) -> None:
    up.broker.assign(assigning(A), up.now)
    up.deliver()
    up.agent.refuse([A], "no such model")
    _, (refused,) = up.deliver()
    assert (LeaseKey.of(refused.leases[0]), refused.reason) == (A, "no such model")
    assert up.agent.held == {}
    assert up.broker.tick(up.now + 5) == []


def test_assignment_said_twice_is_acknowledged_again_and_run_once(
    up: Wire, assigning: Assigning
) -> None:
    up.give(A)
    up.broker.assign(assigning(A), up.now)
    at_agent, (again,) = up.deliver()
    assert at_agent == []
    assert [LeaseKey.of(lease) for lease in again.leases] == [A]
    assert up.broker.tick(up.now + 5) == []


def test_assignment_with_known_and_new_images_runs_the_new_ones_alone(
    up: Wire, assigning: Assigning
) -> None:
    up.give(A)
    up.broker.assign(assigning(A, B), up.now)
    (event,), (again,) = up.deliver()
    assert [LeaseKey.of(task.lease) for task in event.tasks] == [B]
    assert [LeaseKey.of(lease) for lease in again.leases] == [A]
    assert set(up.agent.held) == {A, B}


def test_assignment_with_a_newer_lease_of_a_held_image_drops_the_older(up: Wire) -> None:
    up.give(A, B)
    dropped, event = up.give(A2)
    assert dropped == Dropped((A,))
    assert [LeaseKey.of(task.lease) for task in event.tasks] == [A2]
    assert set(up.agent.held) == {A2, B}


def test_assignment_of_an_older_lease_said_late_leaves_the_newer_alone(up: Wire) -> None:
    up.give(A2)
    up.broker.assign(pb.Assignment(tasks=[pb.AssignedTask(lease=A.message())]), up.now)
    at_agent, (refused,) = up.deliver()
    assert at_agent == []
    assert [LeaseKey.of(lease) for lease in refused.leases] == [A]
    assert set(up.agent.held) == {A2}


@pytest.mark.parametrize(
    "frame",
    [
        {"heartbeat": pb.Heartbeat(modes=[pb.CardMode(card_id="card")] * 17)},
        {"heartbeat": pb.Heartbeat(cards=[pool_pb2.CardReadings(card_id="card")] * 17)},
        {"refused": pb.Refused(leases=[A.message()] * 257)},
        {"acknowledged": pb.Acknowledged(leases=[A.message()] * 257)},
    ],
)
def test_frame_with_more_in_it_than_an_agent_has_breaks_the_rules(
    frame: dict[str, Any], up: Wire
) -> None:
    with pytest.raises(LinkError):
        up.broker.receive(agent_frame(**frame), up.now)


def test_assignment_without_images_breaks_the_rules(up: Wire, assigning: Assigning) -> None:
    with pytest.raises(LinkError, match="without tasks"):
        up.agent.receive(broker_frame(assignment=assigning()), up.now)


def test_assignment_with_an_image_twice_breaks_the_rules(up: Wire, assigning: Assigning) -> None:
    with pytest.raises(LinkError, match="twice"):
        up.agent.receive(broker_frame(assignment=assigning(A, A2)), up.now)
    assert up.agent.held == {}


def test_assignment_beyond_what_an_agent_holds_is_refused(up: Wire) -> None:
    for number in range(limits.HELD_LEASES):
        up.give(LeaseKey("full", number, 1))
    assert up.give(A) == []
    assert A not in up.agent.held
    assert up.broker.tick(up.now + 5) == []  # refused is an answer


def test_words_about_a_lease_that_is_not_held_are_not_said(up: Wire) -> None:
    up.agent.started(A)
    up.agent.progress(A, 1, 20)
    up.agent.outcome(A, pb.TaskStopped())
    assert up.agent.outgoing() == []


def test_stop_reaches_the_agent_which_holds_on_until_settled(up: Wire) -> None:
    up.give(A)
    up.broker.stop(A)
    (stop,), _ = up.deliver()
    assert LeaseKey.of(stop.lease) == A
    up.agent.outcome(A, pb.TaskStopped())
    _, (stopped,) = up.deliver()
    assert A in up.agent.held
    up.broker.settle(stopped.lease, True)
    up.deliver()
    assert up.agent.held == {}


@pytest.mark.parametrize(
    ("result", "name"),
    [
        (pb.TaskFinished(receipt="r"), "finished"),
        (pb.TaskFailed(reason="out of memory"), "failed"),
        (pb.TaskReleased(releasing=True), "released"),
        (pb.TaskStopped(), "stopped"),
    ],
)
def test_outcome_of_each_kind_names_its_lease(result: Any, name: str, up: Wire) -> None:
    up.give(A)
    up.agent.outcome(A, result)
    data = up.agent.outgoing()
    assert said(pb.AgentFrame, data) == [name]
    (event,) = up.broker.receive(data[0], up.now)
    assert LeaseKey.of(event.lease) == A


# Lost and found


def test_ready_lost_keeps_what_runs_and_offers_it_in_the_next_hello(up: Wire) -> None:
    up.give(A, B)
    up.agent.started(A)
    up.deliver()
    up.cut()
    assert up.agent.state is up.broker.state is LinkState.DISCONNECTED
    up.now += 44
    assert up.agent.tick(up.now) == up.broker.tick(up.now) == []
    held = {LeaseKey.of(h.lease): (h.started, h.ended) for h in up.open().held}
    assert held == {A: (True, False), B: (False, False)}
    up.broker.welcome("session", "account", [A, B], [])
    events, _ = up.deliver()
    assert [type(event) for event in events] == [pb.Welcome]
    assert set(up.agent.held) == {A, B}


def test_lost_and_welcomed_without_a_lease_drops_it(up: Wire) -> None:
    up.give(A, B)
    up.cut()
    _, dropped = up.connect(keep=[B])
    assert dropped == Dropped((A,))
    assert set(up.agent.held) == {B}


def test_outcome_unsettled_when_lost_is_sent_once_after_the_welcome(up: Wire) -> None:
    up.give(A)
    up.agent.outcome(A, pb.TaskFinished(receipt="r"))
    up.cut()  # nobody knows whether it arrived
    (held,) = up.open().held
    assert held.ended
    up.broker.welcome("session", "account", [A], [])
    _, events = up.deliver()
    (finished,) = events
    assert (LeaseKey.of(finished.lease), finished.receipt) == (A, "r")
    up.broker.settle(finished.lease, True)
    up.deliver()
    assert up.agent.held == {}
    up.cut()
    assert list(up.open().held) == []


def test_outcome_found_while_lost_is_sent_after_the_welcome(up: Wire) -> None:
    up.give(A)
    up.cut()
    up.agent.started(A)
    up.agent.outcome(A, pb.TaskFailed(reason="broken"))
    assert up.agent.outgoing() == []
    (held,) = up.open().held
    assert (held.started, held.ended) == (True, True)
    up.broker.welcome("session", "account", [A], [])
    _, (failed,) = up.deliver()
    assert failed.reason == "broken"


def test_outcome_that_followed_another_is_the_one_sent_again(up: Wire) -> None:
    up.give(A)
    up.agent.outcome(A, pb.TaskReleased(releasing=True))
    up.cut()
    up.agent.outcome(A, pb.TaskReleased(checkpoint=CHECKPOINT, receipt="signed"))
    up.open()
    up.broker.welcome("session", "account", [A], [])
    _, (released,) = up.deliver()
    assert not released.releasing


def test_what_was_said_before_the_link_broke_is_not_said_on_the_next(up: Wire) -> None:
    up.agent.heartbeat([], [])
    up.broker.stop(A)
    up.agent.lost(up.now)
    up.broker.lost(up.now)
    assert up.agent.outgoing() == up.broker.outgoing() == []


def test_disconnected_for_too_long_expires_the_leases_on_both_sides_once(up: Wire) -> None:
    up.give(A, B)
    up.cut()
    assert up.agent.wake_at(up.now) == up.now + 45
    assert up.agent.tick(up.now + 44.9) == up.broker.tick(up.now + 44.9) == []
    up.now += 45
    assert up.agent.tick(up.now) == [LeasesExpired((A, B))]
    assert up.broker.tick(up.now) == [LeasesExpired()]
    assert up.agent.tick(up.now) == up.broker.tick(up.now) == []
    assert list(up.open().held) == []


def test_dials_that_fail_at_the_hello_do_not_lengthen_the_grace(up: Wire) -> None:
    up.give(A)
    up.cut()
    for _ in range(4):
        up.now += 11
        up.open()
        up.cut()
    up.now += 1
    assert up.agent.tick(up.now) == [LeasesExpired((A,))]
    assert up.broker.tick(up.now) == [LeasesExpired()]


def test_lost_after_a_silence_is_lost_since_the_silence_was_too_long(up: Wire) -> None:
    """An agent in a black hole: its images are elsewhere within 60 s of its last word."""
    up.give(A)
    timers = up.timers
    heard = up.now
    up.now += timers.silent + timers.heartbeat
    assert up.broker.tick(up.now) == [Silent()]
    up.cut()
    up.now = heard + timers.silent + timers.lease_lost
    assert up.broker.tick(up.now) == [LeasesExpired()]
    assert up.agent.tick(up.now) == [LeasesExpired((A,))]
    assert up.now + timers.heartbeat / 5 - heard <= 60  # the keeper looks that often


def test_hello_and_welcome_delivered_twice_are_said_once(wire: Wire) -> None:
    wire.agent.opened(wire.now)
    wire.broker.opened(wire.now)
    (hello,) = wire.agent.outgoing()
    assert len(wire.broker.receive(hello, wire.now)) == 1
    wire.broker.welcome("session", "account", [], [])
    assert wire.broker.receive(hello, wire.now) == []
    (welcome,) = wire.broker.outgoing()
    assert len(wire.agent.receive(welcome, wire.now)) == 1
    assert wire.agent.receive(welcome, wire.now) == []
    assert wire.agent.up
    assert wire.broker.up


def test_hello_of_somebody_else_on_a_link_that_is_up_breaks_the_rules(up: Wire) -> None:
    other = pb.Hello(protocol=1, agent_id="agent-2")
    with pytest.raises(LinkError, match="hello in state ready"):
        up.broker.receive(pb.AgentFrame(hello=other).SerializeToString(), up.now)


def test_lost_twice_is_lost_once(up: Wire) -> None:
    up.give(A)
    up.cut()
    up.now += 40
    up.cut()
    up.now += 5
    assert up.agent.tick(up.now) == [LeasesExpired((A,))]


def test_assignment_unanswered_when_lost_is_left_to_the_grace(
    up: Wire, assigning: Assigning
) -> None:
    up.broker.assign(assigning(A), up.now)
    up.cut()
    up.now += 6
    up.connect()
    assert up.broker.tick(up.now) == []


def test_cards_changed_is_said_now_and_in_the_next_hello(up: Wire) -> None:
    up.agent.cards_changed([pool_pb2.CardInfo(card_id="card-2")])
    _, (changed,) = up.deliver()
    assert [one.card_id for one in changed.cards] == ["card-2"]
    up.cut()
    assert [one.card_id for one in up.open().cards] == ["card-2"]


def test_mode_changed_is_a_frame_of_its_own(up: Wire) -> None:
    up.agent.mode_changed(pb.CardMode(card_id="card-1", mode=pool_pb2.MODE_GAMING))
    _, (changed,) = up.deliver()
    assert changed.mode.mode == pool_pb2.MODE_GAMING


# Draining and leaving


@pytest.mark.parametrize("reason", ["its owner plays", ""])
def test_drain_by_the_agent_ends_new_work_keeps_the_old_and_holds_over_reconnects(
    reason: str, up: Wire
) -> None:
    up.give(A)
    up.agent.drain(reason)
    _, (draining,) = up.deliver()
    assert draining.reason
    assert not up.broker.accepts_work(up.now)
    assert up.give(B) == []
    assert set(up.agent.held) == {A}
    up.cut()
    up.connect()
    assert up.agent.state is up.broker.state is LinkState.DRAINING
    assert not up.broker.accepts_work(up.now)
    up.agent.outcome(A, pb.TaskFinished())
    assert len(up.deliver()[1]) == 1


def test_drain_while_disconnected_is_said_after_the_welcome(up: Wire) -> None:
    up.cut()
    up.agent.drain("its owner plays")
    up.connect()
    assert up.broker.state is LinkState.DRAINING


def test_draining_told_of_a_held_image_again_still_holds_it(up: Wire, assigning: Assigning) -> None:
    up.give(A)
    up.agent.drain("its owner plays")
    up.deliver()
    up.broker.assign(assigning(A, B), up.now)
    at_agent, answers = up.deliver()
    assert at_agent == []
    assert [type(answer) for answer in answers] == [pb.Acknowledged, pb.Refused]
    assert set(up.agent.held) == {A}


def test_drain_by_the_broker_ends_new_work_until_the_next_connection(up: Wire) -> None:
    up.broker.drain("the broker is replaced")
    (drain,), _ = up.deliver()
    assert drain.reason == "the broker is replaced"
    assert up.agent.state is up.broker.state is LinkState.DRAINING
    assert up.give(A) == []
    up.cut()
    up.connect()
    assert up.broker.accepts_work(up.now)


def test_goodbye_closes_both_sides_and_nothing_is_heard_after_it(
    up: Wire, assigning: Assigning
) -> None:
    up.broker.assign(assigning(A), up.now)
    up.send()  # under way when the agent says goodbye
    up.agent.goodbye("its owner stopped it")
    at_agent, (goodbye,) = up.deliver()
    assert goodbye.reason == "its owner stopped it"
    assert at_agent == []
    assert up.agent.held == {}
    assert up.agent.state is up.broker.state is LinkState.CLOSED
    up.agent.goodbye("again")
    up.agent.drain("again")
    assert up.agent.outgoing() == []


def test_goodbye_before_any_connection_is_not_said(wire: Wire) -> None:
    wire.agent.goodbye("stopped at once")
    assert wire.agent.state is LinkState.CLOSED
    assert wire.agent.outgoing() == []


# Frames that break the rules


def both(wire: Wire) -> list[AgentLink | BrokerLink]:
    return [wire.agent, wire.broker]


def test_frame_too_big_breaks_the_rules(up: Wire) -> None:
    for link in both(up):
        with pytest.raises(LinkError, match="exceeds"):
            link.receive(bytes(limits.FRAME_BYTES + 1), up.now)


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"\x0a\xff", b"hello"])
def test_frame_of_garbage_breaks_the_rules(data: bytes, up: Wire) -> None:
    for link in both(up):
        with pytest.raises(LinkError, match="not a message"):
            link.receive(data, up.now)


def test_frame_of_a_newer_peer_is_ignored_but_heard(up: Wire) -> None:
    unknown = bytes([0xFA, 0x3F, 0x02, 0x08, 0x01])  # field 1023, which nobody knows
    up.now += 4
    for link in both(up):
        assert link.receive(unknown, up.now) == []
        assert link.silent_for(up.now) == 0


AGENT_FRAMES = {
    "hello": hello(),
    "heartbeat": pb.Heartbeat(),
    "mode_changed": pb.ModeChanged(),
    "acknowledged": pb.Acknowledged(),
    "refused": pb.Refused(),
    "started": pb.TaskStarted(),
    "progress": pb.TaskProgress(),
    "finished": pb.TaskFinished(),
    "failed": pb.TaskFailed(),
    "released": pb.TaskReleased(),
    "stopped": pb.TaskStopped(),
    "cards_changed": pb.CardsChanged(),
    "draining": pb.Draining(),
    "goodbye": pb.Goodbye(),
    "checkpoint": pb.TaskCheckpoint(checkpoint=CHECKPOINT, receipt="signed"),
    "model_loaded": pb.ModelLoaded(
        card_id="card", model_sha256="b" * 64, seconds=3.5, tier=pool_pb2.TIER_DISK
    ),
}
BROKER_FRAMES = {
    "welcome": pb.Welcome(),
    "rejected": pb.Rejected(),
    "heartbeat_seen": pb.HeartbeatSeen(),
    "assignment": pb.Assignment(tasks=[pb.AssignedTask(lease=A.message())]),
    "stop_task": pb.StopTask(lease=A.message()),
    "settled": pb.Settled(lease=A.message()),
    "drain": pb.Drain(),
    "goodbye": pb.Goodbye(),
    "preempt": pb.Preempt(lease=A.message()),
    "prefetch": pb.Prefetch(),
}


def in_state(wire: Wire, state: str) -> None:
    """Bring both ends to this state."""
    if state in ("ready", "draining", "disconnected", "closed"):
        wire.connect()
    if state == "hello":
        wire.open()
    elif state == "draining":
        wire.agent.drain("")
    elif state == "disconnected":
        wire.cut()
    elif state == "closed":
        wire.agent.goodbye("")
    elif state == "connecting":
        wire.broker.tick(wire.now + 45)
    wire.deliver()
    assert wire.agent.state is wire.broker.state is LinkState(state)


def test_frames_listed_here_are_all_there_are() -> None:
    # How an agent proves itself, before the link begins: test_link_proof.py.
    agents_proof, brokers_proof = {"proof"}, {"challenge", "pending", "admitted"}
    agents = {field.name for field in pb.AgentFrame.DESCRIPTOR.fields}
    brokers = {field.name for field in pb.BrokerFrame.DESCRIPTOR.fields}
    assert set(AGENT_FRAMES) | agents_proof == agents
    assert set(BROKER_FRAMES) | brokers_proof == brokers


@pytest.mark.parametrize("name", AGENT_FRAMES)
@pytest.mark.parametrize("state", [state.value for state in LinkState])
def test_broker_in_each_state_on_each_frame(state: str, name: str, wire: Wire) -> None:
    in_state(wire, state)
    data = agent_frame(**{name: AGENT_FRAMES[name]})
    expected = name == "hello" if state == "hello" else state in ("ready", "draining")
    if expected and (name == "hello") == (state == "hello"):
        assert wire.broker.receive(data, wire.now) == [AGENT_FRAMES[name]]
        return
    with pytest.raises(LinkError, match=f"{name} in state {state}"):
        wire.broker.receive(data, wire.now)


@pytest.mark.parametrize("name", BROKER_FRAMES)
@pytest.mark.parametrize("state", [state.value for state in LinkState])
def test_agent_in_each_state_on_each_frame(state: str, name: str, wire: Wire) -> None:
    in_state(wire, state)
    data = broker_frame(**{name: BROKER_FRAMES[name]})
    before_welcome = ("welcome", "rejected", "goodbye")
    if state == "closed":
        assert wire.agent.receive(data, wire.now) == []
    elif (
        state in ("connecting", "disconnected")
        or (state == "hello" and name not in before_welcome)
        or (state != "hello" and name == "welcome")
    ):
        with pytest.raises(LinkError):
            wire.agent.receive(data, wire.now)
    else:
        quiet = name == "heartbeat_seen" or (name == "assignment" and state == "draining")
        assert wire.agent.receive(data, wire.now) == ([] if quiet else [BROKER_FRAMES[name]])


# Checkpoints, and cards that are given back


@pytest.mark.parametrize(
    "wrong",
    [
        {"sha256": ""},
        {"sha256": "A" * 64},
        {"sha256": "../" + "a" * 61},
        {"size": 0},
        {"size": -1},
        {"size": limits.CHECKPOINT_BYTES + 1},
        {"step": 0},
        {"step": -(2**31)},
        {"step": 2**31 - 1},
        {"path": "/v1/somewhere"},
    ],
    ids=str,
)
@pytest.mark.parametrize("frame", ["checkpoint", "released"])
def test_checkpoint_that_cannot_be_x_breaks_the_link(frame: str, wrong: dict) -> None:
    made = pb.Checkpoint(**CHECKPOINT | wrong)
    kind = {"checkpoint": pb.TaskCheckpoint, "released": pb.TaskReleased}[frame]
    with pytest.raises(LinkError):
        check_payload(kind(checkpoint=made, receipt="signed"))
    check_payload(kind(checkpoint=pb.Checkpoint(**CHECKPOINT), receipt="signed"))


@pytest.mark.parametrize("receipt", ["", "x" * 201])
def test_checkpoint_without_a_receipt_x_breaks_the_link(receipt: str) -> None:
    with pytest.raises(LinkError, match="receipt"):
        check_payload(pb.TaskCheckpoint(checkpoint=pb.Checkpoint(**CHECKPOINT), receipt=receipt))


def test_release_that_has_only_begun_x_comes_without_a_checkpoint() -> None:
    check_payload(pb.TaskReleased(releasing=True))
    check_payload(pb.TaskReleased())
    with pytest.raises(LinkError, match="begun"):
        check_payload(
            pb.TaskReleased(
                releasing=True, checkpoint=pb.Checkpoint(**CHECKPOINT), receipt="signed"
            )
        )


def test_checkpoint_told_x_reaches_the_broker_until_an_outcome_is_known(up: Wire) -> None:
    up.give(A)
    up.agent.checkpoint(A, pb.Checkpoint(**CHECKPOINT), "signed")
    _, (told,) = up.deliver()
    assert (LeaseKey.of(told.lease), told.checkpoint.step, told.receipt) == (A, 7, "signed")
    up.agent.outcome(A, pb.TaskReleased(releasing=True))
    up.deliver()
    up.agent.checkpoint(A, pb.Checkpoint(**CHECKPOINT), "signed")
    up.agent.checkpoint(B, pb.Checkpoint(**CHECKPOINT), "signed")  # nothing that it holds
    assert up.deliver() == ([], [])


def test_release_with_its_checkpoint_x_lost_is_said_again_whole(up: Wire) -> None:
    up.give(A)
    up.agent.outcome(A, pb.TaskReleased(releasing=True, reason="a game"))
    up.deliver()
    up.cut()
    last = pb.TaskReleased(checkpoint=pb.Checkpoint(**CHECKPOINT), receipt="signed")
    up.agent.outcome(A, last)
    up.open()
    up.broker.welcome("session-2", "account-1", [A], [])
    _, frames = up.deliver()
    (again,) = [frame for frame in frames if isinstance(frame, pb.TaskReleased)]
    assert again == last


def test_preempt_x_reaches_the_agent_which_holds_on(up: Wire) -> None:
    up.give(A)
    up.broker.preempt(A, "more urgent work needs the card")
    (told,), _ = up.deliver()
    assert (LeaseKey.of(told.lease), told.reason) == (A, "more urgent work needs the card")
    assert A in up.agent.held


def test_refused_as_not_ready_x_says_so(up: Wire) -> None:
    up.give(A)
    up.agent.refuse([A], "not ready: gaming", not_ready=True)
    _, (refused,) = up.deliver()
    assert (refused.not_ready, refused.reason) == (True, "not ready: gaming")
    assert A not in up.agent.held
