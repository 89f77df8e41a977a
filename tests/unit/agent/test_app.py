"""What the agent does with what its link says."""

from __future__ import annotations

import asyncio

from foxden_agent.app import _handle
from foxden_proto import limits
from foxden_proto.link import AgentLink, LeaseKey
from foxden_proto.timers import Timers
from foxden_proto.v1 import link_pb2 as pb


def test_assignment_for_a_card_that_is_gone_is_refused_and_held_no_longer() -> None:
    hello = pb.Hello(protocol=limits.LINK_PROTOCOL, agent_id="agent-1")
    link = AgentLink(Timers(), hello, 0.0)
    link.opened(0.0)
    key = LeaseKey("job", 0, 1)
    task = pb.AssignedTask(lease=key.message())
    assignment = pb.BrokerFrame(assignment=pb.Assignment(card_id="gone", tasks=[task]))
    link.receive(pb.BrokerFrame(welcome=pb.Welcome()).SerializeToString(), 0.0)
    link.outgoing()
    for event in link.receive(assignment.SerializeToString(), 0.0):
        _handle(event, {}, asyncio.Event(), link)
    (said,) = (pb.AgentFrame.FromString(data) for data in link.outgoing())
    assert [LeaseKey.of(lease) for lease in said.refused.leases] == [key]
    assert not link.held
