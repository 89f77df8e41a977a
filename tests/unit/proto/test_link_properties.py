"""The link under everything a network, a clock and a broken peer can do to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foxden_proto.link import AgentLink, Dropped, LeaseKey, LeasesExpired, Silent
from foxden_proto.link_checks import LinkError
from foxden_proto.states import LinkState
from foxden_proto.v1 import link_pb2 as pb

MakeWire = Callable[[], Any]
modest = settings(
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

short = st.text(max_size=5)
names = st.sampled_from(["agent-1", "agent-1", ""])
leases = st.builds(
    pb.Lease,
    job_id=st.sampled_from(["", "a", "b"]),
    index=st.integers(-1, 2),
    lease_no=st.integers(-1, 3),
)
many = st.lists(leases, max_size=4)
assignments = st.builds(
    pb.Assignment, tasks=st.lists(st.builds(pb.AssignedTask, lease=leases), max_size=4)
)
agent_frames = st.one_of(
    st.builds(pb.Hello, protocol=st.sampled_from([1, 1, 1, 2]), agent_id=names).map(
        lambda m: {"hello": m}
    ),
    st.builds(pb.Heartbeat, number=st.integers(-1, 9)).map(lambda m: {"heartbeat": m}),
    st.builds(pb.Acknowledged, leases=many).map(lambda m: {"acknowledged": m}),
    st.builds(pb.Refused, leases=many, reason=short).map(lambda m: {"refused": m}),
    st.builds(pb.TaskStarted, lease=leases).map(lambda m: {"started": m}),
    st.builds(pb.TaskFinished, lease=leases).map(lambda m: {"finished": m}),
    st.builds(pb.Draining).map(lambda m: {"draining": m}),
    st.builds(pb.Goodbye).map(lambda m: {"goodbye": m}),
).map(lambda frame: pb.AgentFrame(**frame).SerializeToString())
broker_frames = st.one_of(
    st.builds(pb.Welcome, keep=many, drop=many).map(lambda m: {"welcome": m}),
    st.builds(pb.Rejected, final=st.booleans()).map(lambda m: {"rejected": m}),
    assignments.map(lambda m: {"assignment": m}),
    st.builds(pb.StopTask, lease=leases).map(lambda m: {"stop_task": m}),
    st.builds(pb.Settled, lease=leases).map(lambda m: {"settled": m}),
    st.builds(pb.Drain).map(lambda m: {"drain": m}),
    st.builds(pb.Goodbye).map(lambda m: {"goodbye": m}),
).map(lambda frame: pb.BrokerFrame(**frame).SerializeToString())

OPENED, LOST, BYTES = "opened", "lost", "bytes"


def steps(frames: st.SearchStrategy[bytes]) -> st.SearchStrategy[list[tuple[str, Any]]]:
    step = st.one_of(
        st.tuples(st.just(BYTES), frames),
        st.tuples(st.just(BYTES), frames),
        st.tuples(st.just(BYTES), st.binary(max_size=40)),
        st.tuples(st.sampled_from([OPENED, LOST]), st.none()),
        st.tuples(st.just("time"), st.sampled_from([0.1, 5.0, 12.0, 50.0])),
    )
    # Most begin with a link that is open, so that something can happen on it.
    opened = st.sampled_from([[], [(OPENED, None)]])
    return st.tuples(opened, st.lists(step, min_size=3, max_size=15)).map(lambda t: t[0] + t[1])


def held_once(agent: AgentLink) -> bool:
    return len({(key.job_id, key.index) for key in agent.held}) == len(agent.held)


@given(steps(broker_frames))
@modest
def test_agent_told_anything_raises_link_errors_alone(
    make_wire: MakeWire, told: list[tuple[str, Any]]
) -> None:
    wire = make_wire()
    drive(wire.agent, told, wire.now, answer=None)
    assert held_once(wire.agent)


@given(steps(agent_frames))
@modest
def test_broker_told_anything_raises_link_errors_alone(
    make_wire: MakeWire, told: list[tuple[str, Any]]
) -> None:
    wire = make_wire()
    drive(wire.broker, told, wire.now, answer=lambda: wire.broker.welcome("s", "a", [], []))


def drive(
    link: Any, told: list[tuple[str, Any]], now: float, answer: Callable[[], None] | None
) -> None:
    """Do to one end what a driver does, with what `told` says arrives."""
    for what, value in told:
        if what == OPENED:
            # A driver opens only what is down, and never what is closed.
            if link.state in (LinkState.CONNECTING, LinkState.DISCONNECTED):
                link.opened(now)
        elif what == LOST:
            link.lost(now)
        elif what == "time":
            now += value
            link.tick(now)
        else:
            try:
                events = link.receive(value, now)
            except LinkError:
                link.lost(now)
                continue
            if answer is not None and any(isinstance(event, pb.Hello) for event in events):
                answer()
        link.outgoing()


OFTEN = ["connect", "assign", "assign", "deliver", "deliver", "finish", "settle"]
ACTIONS = [*OFTEN, *OFTEN, "again", "cut", "cut", "time", "time", "long"]


class Play:
    """A broker and an agent as their callers play them, over a wire that breaks at will."""

    def __init__(self, wire: Any) -> None:
        self.wire = wire
        self.running: list[LeaseKey] = []  # at the agent, without an outcome
        self.ended: set[LeaseKey] = set()  # outcomes handed to the agent's link
        self.arrived: set[LeaseKey] = set()  # and seen by the broker
        self.excused: set[LeaseKey] = set()  # dropped or expired: nobody waits for these
        self.unsettled: list[pb.Lease] = []
        self.given: list[LeaseKey] = []

    def do(self, action: str) -> None:
        wire = self.wire
        up = wire.broker.up and wire.agent.up
        if action == "connect" and not up:
            self.connect()
        elif action == "cut":
            wire.cut()
        elif action == "assign" and up:
            number = len(self.given)
            self.give(LeaseKey("job", number % 3, number))
        elif action == "again" and up and self.given:
            self.give(self.given[-1])
        elif action == "finish" and self.running:
            key = self.running.pop(0)
            wire.agent.outcome(key, pb.TaskFinished())
            if key in wire.agent.held:
                self.ended.add(key)
        elif action == "deliver":
            self.deliver()
        elif action == "settle" and self.unsettled and wire.broker.up:
            wire.broker.settle(self.unsettled.pop(0), True)
        elif action in ("time", "long"):
            wire.now += 4.0 if action == "time" else 46.0
            for event in wire.agent.tick(wire.now):
                if isinstance(event, LeasesExpired):
                    self.excused.update(event.leases)
            if Silent() in wire.broker.tick(wire.now):
                wire.cut()
        assert held_once(wire.agent)

    def give(self, key: LeaseKey) -> None:
        self.given.append(key)
        assignment = pb.Assignment(tasks=[pb.AssignedTask(lease=key.message())])
        self.wire.broker.assign(assignment, self.wire.now)

    def connect(self) -> None:
        wire = self.wire
        wire.cut()
        hello = wire.open()
        kept = [LeaseKey.of(held.lease) for held in hello.held]
        wire.broker.welcome("s", "a", kept, [])
        self.deliver()

    def deliver(self) -> None:
        at_agent, at_broker = self.wire.deliver()
        for event in at_agent:
            match event:
                case pb.Assignment():
                    keys = [LeaseKey.of(task.lease) for task in event.tasks]
                    assert not set(keys) & (set(self.running) | self.arrived)
                    self.running += keys
                    self.wire.agent.acknowledge(keys)
                case Dropped():
                    self.excused.update(event.leases)
        for event in at_broker:
            if isinstance(event, pb.TaskFinished):
                self.arrived.add(LeaseKey.of(event.lease))
                self.unsettled.append(event.lease)


@given(st.lists(st.sampled_from(ACTIONS), min_size=10, max_size=40))
@modest
def test_outcomes_arrive_and_leases_end_once_the_link_stays_up(
    make_wire: MakeWire, actions: list[str]
) -> None:
    play = Play(make_wire())
    for action in actions:
        play.do(action)
    if not (play.wire.agent.up and play.wire.broker.up):
        play.do("connect")
    play.do("deliver")
    assert play.ended - play.excused <= play.arrived
    while play.unsettled:
        play.do("settle")
        play.do("deliver")
    assert not play.arrived & set(play.wire.agent.held)
    assert set(play.wire.agent.held) <= set(play.running)
