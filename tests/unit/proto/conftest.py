"""An agent's and a broker's end of one link, joined by bytes that the test moves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from foxden_proto.limits import LINK_PROTOCOL
from foxden_proto.link import AgentLink, BrokerLink, Event, LeaseKey
from foxden_proto.timers import Timers
from foxden_proto.v1 import link_pb2 as pb


def assignment(*keys: LeaseKey) -> pb.Assignment:
    tasks = [pb.AssignedTask(lease=key.message()) for key in keys]
    return pb.Assignment(card_id="card", tasks=tasks)


@dataclass
class Wire:
    """Both ends and the messages between them; `now` is the only clock there is."""

    timers: Timers = field(default_factory=Timers)
    now: float = 1000.0
    to_broker: list[bytes] = field(default_factory=list)
    to_agent: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        hello = pb.Hello(protocol=LINK_PROTOCOL, agent_id="agent-1", agent_name="kitchen")
        self.agent = AgentLink(self.timers, hello, self.now)
        self.broker = BrokerLink(self.timers, self.now)

    # Moving bytes

    def send(self) -> None:
        """What both ends have to say is under way."""
        self.to_broker += self.agent.outgoing()
        self.to_agent += self.broker.outgoing()

    def deliver(self) -> tuple[list[Event], list[Event]]:
        """Move everything that either side says until both are quiet: (the agent's events, the
        broker's)."""
        at_agent: list[Event] = []
        at_broker: list[Event] = []
        self.send()
        while self.to_broker or self.to_agent:
            while self.to_broker:
                at_broker += self.broker.receive(self.to_broker.pop(0), self.now)
            self.send()
            while self.to_agent:
                at_agent += self.agent.receive(self.to_agent.pop(0), self.now)
            self.send()
        return at_agent, at_broker

    def open(self) -> pb.Hello:
        """A transport is there and the agent's hello has arrived; nobody has answered yet."""
        self.agent.opened(self.now)
        self.broker.opened(self.now)
        _, events = self.deliver()
        (hello,) = events
        assert isinstance(hello, pb.Hello)
        return hello

    def connect(self, keep: list[LeaseKey] | None = None) -> list[Event]:
        """Open, and welcome what the agent holds, or `keep` of it; the agent's events."""
        claimed = [LeaseKey.of(held.lease) for held in self.open().held]
        kept = claimed if keep is None else keep
        self.broker.welcome("session", "account", kept, [k for k in claimed if k not in kept])
        return self.deliver()[0]

    def cut(self) -> None:
        """The transport is gone, and with it what was under way."""
        self.send()
        self.to_broker.clear()
        self.to_agent.clear()
        self.agent.lost(self.now)
        self.broker.lost(self.now)

    def give(self, *keys: LeaseKey) -> list[Event]:
        """Assign these; the agent acknowledges what it takes. The agent's events."""
        self.broker.assign(assignment(*keys), self.now)
        at_agent, _ = self.deliver()
        for event in at_agent:
            if isinstance(event, pb.Assignment):
                self.agent.acknowledge(LeaseKey.of(task.lease) for task in event.tasks)
        self.deliver()
        return at_agent


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def up(wire: Wire) -> Wire:
    """A link that is ready."""
    wire.connect()
    return wire


@pytest.fixture
def assigning() -> Callable[..., pb.Assignment]:
    """Makes an assignment of leases."""
    return assignment


@pytest.fixture
def make_wire() -> Callable[[], Wire]:
    """For tests that need many, as those of hypothesis do."""
    return Wire
