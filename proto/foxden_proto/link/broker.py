"""The broker's end of the link."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from foxden_proto.link.base import Link
from foxden_proto.link.events import Event, LeaseKey, LeasesExpired, Silent, Unacknowledged
from foxden_proto.link_checks import LinkError, check_payload
from foxden_proto.states import LinkEvent, LinkState
from foxden_proto.timers import Timers
from foxden_proto.v1 import link_pb2 as pb


class BrokerLink(Link):
    """The broker's end for one agent. It outlives the agent's connections, not the broker."""

    def __init__(self, timers: Timers, now: float) -> None:
        # A broker that starts again does not know when the link broke: from now.
        super().__init__(timers, now, LinkState.DISCONNECTED)
        self._unacknowledged: dict[LeaseKey, float] = {}

    def accepts_work(self, now: float) -> bool:
        return self.state is LinkState.READY and self.silent_for(now) < self.timers.silent

    def receive(self, data: bytes, now: float) -> list[Event]:
        name, payload = self._decode(data, pb.AgentFrame, now)
        if not name or name == "proof":  # checked before the link began; said twice
            return []
        if name == "hello" and self.up and payload == self._greeting:
            return []  # the same one, delivered twice
        fits = self.state is LinkState.HELLO if name == "hello" else self.up
        if not fits:
            raise LinkError(f"the agent sent {name} in state {self.state.value}")
        check_payload(payload)
        if name == "hello":
            self._greeting = payload
        elif name == "heartbeat":
            self._put(heartbeat_seen=pb.HeartbeatSeen(number=payload.number))
        elif name in ("acknowledged", "refused"):
            for lease in payload.leases:
                self._unacknowledged.pop(LeaseKey.of(lease), None)
        elif name == "draining":
            self._advance(LinkEvent.DRAIN)
        elif name == "goodbye":
            self._advance(LinkEvent.CLOSE)
        elif hasattr(payload, "lease"):
            self._unacknowledged.pop(LeaseKey.of(payload.lease), None)
        return [payload]

    def tick(self, now: float) -> list[Event]:
        if self.state is LinkState.DISCONNECTED:
            if now - self._lost_at >= self.timers.lease_lost:
                self._advance(LinkEvent.EXPIRED)
                return [LeasesExpired()]
            return []
        if self.state is LinkState.HELLO and self.silent_for(now) >= self.timers.hello:
            return [Silent()]
        if self.up and self.silent_for(now) >= self.timers.silent + self.timers.heartbeat:
            return [Silent()]
        late = tuple(key for key, until in self._unacknowledged.items() if now >= until)
        for key in late:
            del self._unacknowledged[key]
            self.stop(key)  # in case the agent is only slow: nobody waits for these any more
        return [Unacknowledged(late)] if late else []

    def lost(self, now: float) -> None:
        super().lost(now)
        self._unacknowledged.clear()  # the lease's own grace decides from here

    def welcome(
        self, session_id: str, account_id: str, keep: Iterable[LeaseKey], drop: Iterable[LeaseKey]
    ) -> None:
        self._advance(LinkEvent.WELCOMED)
        self._put(
            welcome=pb.Welcome(
                session_id=session_id,
                account_id=account_id,
                keep=[key.message() for key in keep],
                drop=[key.message() for key in drop],
                heartbeat=self.timers.heartbeat,
                silent=self.timers.silent,
                lease_lost=self.timers.lease_lost,
            )
        )

    def assign(self, assignment: pb.Assignment, now: float) -> None:
        for task in assignment.tasks:
            self._unacknowledged[LeaseKey.of(task.lease)] = now + self.timers.acknowledge
        self._put(assignment=assignment)

    def prefetch(self, card_id: str, model_sha256: str) -> None:
        """A hint: this model comes next on this card."""
        self._put(prefetch=pb.Prefetch(card_id=card_id, model_sha256=model_sha256))

    def stop(self, key: LeaseKey) -> None:
        self._put(stop_task=pb.StopTask(lease=key.message()))

    def preempt(self, key: LeaseKey, reason: str) -> None:
        """More urgent work needs the card. An agent that does not know the word goes on."""
        self._put(preempt=pb.Preempt(lease=key.message(), reason=reason))

    def settle(self, lease: pb.Lease, accepted: bool) -> None:
        self._put(settled=pb.Settled(lease=lease, accepted=accepted))

    def drain(self, reason: str) -> None:
        if self.up:
            self._advance(LinkEvent.DRAIN)
            self._put(drain=pb.Drain(reason=reason))

    def _put(self, **frame: Any) -> None:
        if self.up:
            self._out.append(pb.BrokerFrame(**frame).SerializeToString())
