"""What the link tells beside the messages themselves: what time, or a lost link, causes."""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.message import Message

from foxden_proto.v1 import link_pb2 as pb


@dataclass(frozen=True)
class LeaseKey:
    """One lease of one image; `lease_no` grows with every lease of the task and never repeats."""

    job_id: str
    index: int
    lease_no: int

    @classmethod
    def of(cls, lease: pb.Lease) -> LeaseKey:
        return cls(lease.job_id, lease.index, lease.lease_no)

    def message(self) -> pb.Lease:
        return pb.Lease(job_id=self.job_id, index=self.index, lease_no=self.lease_no)


@dataclass(frozen=True)
class HeartbeatDue:
    """Agent: call `heartbeat` with the cards' readings."""


@dataclass(frozen=True)
class Silent:
    """The other side has said nothing for `timers.silent`: close the transport."""


@dataclass(frozen=True)
class LeasesExpired:
    """The link was gone for `timers.lease_lost`. Agent: stop these, they run elsewhere now.
    Broker: everything this agent held is lost (`leases` is empty)."""

    leases: tuple[LeaseKey, ...] = ()


@dataclass(frozen=True)
class Unacknowledged:
    """Broker: the agent neither took nor refused these in time; give them to another card."""

    leases: tuple[LeaseKey, ...]


@dataclass(frozen=True)
class Dropped:
    """Agent: the broker does not count on these any more; stop them."""

    leases: tuple[LeaseKey, ...]


Event = Message | HeartbeatDue | Silent | LeasesExpired | Unacknowledged | Dropped
