"""The rules of the link between agent and broker, without a socket and without a clock.

A driver on each side owns the transport and a loop of four calls:

    link.opened(now)              the transport is there
    events = link.receive(data, now)   one binary message arrived
    events = link.tick(now)            time passed (call it at `link.wake_at(now)`)
    link.lost(now)                the transport is gone

and sends, in order, whatever `link.outgoing()` returns after any call. Events are the payload
messages of foxden_proto.v1.link_pb2 themselves, checked, plus the few that only time can cause.
A message that breaks the rules raises `LinkError`; the driver then closes the transport with its
text and calls `lost`.

What survives a lost transport lives here too: the agent keeps its leases and the outcomes nobody
has confirmed for `timers.lease_lost` seconds, offers them in its next Hello and sends the
outcomes again after the Welcome. A lease is over for the agent only when `Settled` arrives.
"""

from foxden_proto.link.agent import AgentLink
from foxden_proto.link.before import admitted, challenge, pending, read_proof, rejection
from foxden_proto.link.broker import BrokerLink
from foxden_proto.link.events import (
    Dropped,
    Event,
    HeartbeatDue,
    LeaseKey,
    LeasesExpired,
    Silent,
    Unacknowledged,
)

__all__ = [
    "AgentLink",
    "BrokerLink",
    "Dropped",
    "Event",
    "HeartbeatDue",
    "LeaseKey",
    "LeasesExpired",
    "Silent",
    "Unacknowledged",
    "admitted",
    "challenge",
    "pending",
    "read_proof",
    "rejection",
]
