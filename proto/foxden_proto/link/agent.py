"""The agent's end of the link."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from foxden_proto import limits
from foxden_proto.link.base import Link
from foxden_proto.link.events import (
    Dropped,
    Event,
    HeartbeatDue,
    LeaseKey,
    LeasesExpired,
    Silent,
)
from foxden_proto.link_checks import LinkError
from foxden_proto.proofs import NONCE_BYTES
from foxden_proto.states import LinkEvent, LinkState
from foxden_proto.timers import Timers
from foxden_proto.v1 import link_pb2 as pb
from foxden_proto.v1 import pool_pb2


@dataclass
class Holding:
    started: bool = False
    outcome: pb.AgentFrame | None = None


class AgentLink(Link):
    """The agent's end. `identity` is the Hello to open with; its leases are filled in here.

    `prove` signs the broker's nonce where the agent has a key of its own; without it the agent
    has shown a token. With a key it says nothing about itself before the broker has admitted it.
    """

    def __init__(
        self,
        timers: Timers,
        identity: pb.Hello,
        now: float,
        prove: Callable[[bytes], bytes] | None = None,
    ) -> None:
        super().__init__(timers, now, LinkState.CONNECTING)
        self.identity = identity
        self.prove = prove
        self._asked = self._said_hello = False
        self.held: dict[LeaseKey, Holding] = {}
        self._beat_due = now
        self._beats = 0
        self._draining = ""

    # What the driver reports

    def opened(self, now: float) -> None:
        super().opened(now)
        self._asked = self._said_hello = False
        if self.prove is None:
            self._say_hello()

    def _say_hello(self) -> None:
        self._said_hello = True
        hello = pb.Hello()
        hello.CopyFrom(self.identity)
        for key, held in self.held.items():
            hello.held.add(
                lease=key.message(), started=held.started, ended=held.outcome is not None
            )
        self._put(hello=hello)

    def receive(self, data: bytes, now: float) -> list[Event]:
        name, payload = self._decode(data, pb.BrokerFrame, now)
        if not name or self.state is LinkState.CLOSED:
            return []  # what was under way when we said goodbye
        if self.state is LinkState.HELLO and name not in self._before_welcome():
            raise LinkError(f"the broker sent {name} before it answered the hello")
        if self.state is not LinkState.HELLO and not self.up:
            raise LinkError(f"the broker sent {name} in state {self.state.value}")
        handler = getattr(self, f"_on_{name}", None)
        return [payload] if handler is None else handler(payload, now)

    def tick(self, now: float) -> list[Event]:
        if self.state is LinkState.HELLO or self.up:
            if self.silent_for(now) >= self.timers.silent:
                return [Silent()]
            if self.up and now >= self._beat_due:
                self._beat_due = now + self.timers.heartbeat
                return [HeartbeatDue()]
        elif self.held and now - self._lost_at >= self.timers.lease_lost:
            keys = tuple(self.held)
            self.held.clear()
            return [LeasesExpired(keys)]
        return []

    def wake_at(self, now: float) -> float:
        """The next moment at which `tick` may have something to say."""
        if self.up:
            return min(self._beat_due, self._heard + self.timers.silent)
        if self.state is LinkState.HELLO:
            return self._heard + self.timers.silent
        return max(now, self._lost_at + self.timers.lease_lost) if self.held else now + 3600

    # What the broker says

    def _before_welcome(self) -> tuple[str, ...]:
        if self.prove is None:
            return ("welcome", "rejected", "goodbye")
        if self._said_hello:  # once admitted, nothing is signed any more
            return ("welcome", "rejected", "goodbye", "admitted")
        said = ("pending", "admitted") if self._asked else ("challenge",)
        return (*said, "rejected", "goodbye")

    def _on_challenge(self, challenge: pb.Challenge, now: float) -> list[Event]:
        if self.state is not LinkState.HELLO or self.prove is None:
            raise LinkError("the broker asks for a proof in the middle of a link")
        if len(challenge.nonce) != NONCE_BYTES:
            raise LinkError(f"a nonce of {len(challenge.nonce)} bytes")
        self._asked = True
        self._out.append(
            pb.AgentFrame(proof=pb.Proof(signature=self.prove(challenge.nonce))).SerializeToString()
        )
        return []

    def _on_admitted(self, admitted: pb.Admitted, now: float) -> list[Event]:
        if self.state is LinkState.HELLO and not self._said_hello:
            self._say_hello()
        return []

    def _on_pending(self, pending: pb.Pending, now: float) -> list[Event]:
        return [pending] if self.state is LinkState.HELLO else []

    def _on_welcome(self, welcome: pb.Welcome, now: float) -> list[Event]:
        if self.up and welcome == self._greeting:
            return []  # the same one, delivered twice
        if self.state is not LinkState.HELLO:
            raise LinkError("the broker said welcome twice")
        self._greeting = welcome
        self._advance(LinkEvent.WELCOMED)
        self._beat_due = now
        keep = {LeaseKey.of(lease) for lease in welcome.keep}
        dropped = tuple(key for key in self.held if key not in keep)
        for key in dropped:
            del self.held[key]
        for held in self.held.values():
            if held.outcome is not None:
                self._out.append(held.outcome.SerializeToString())
        if self._draining:
            self.drain(self._draining)
        return [welcome, Dropped(dropped)] if dropped else [welcome]

    def _on_rejected(self, rejected: pb.Rejected, now: float) -> list[Event]:
        if rejected.final:
            self._advance(LinkEvent.REJECTED if self.state is LinkState.HELLO else LinkEvent.CLOSE)
        return [rejected]

    def _on_heartbeat_seen(self, seen: pb.HeartbeatSeen, now: float) -> list[Event]:
        return []

    def _on_assignment(self, assignment: pb.Assignment, now: float) -> list[Event]:
        if not assignment.tasks:
            raise LinkError("an assignment without tasks")
        images = {(task.lease.job_id, task.lease.index) for task in assignment.tasks}
        if len(images) != len(assignment.tasks):
            raise LinkError("an assignment names an image twice")
        known = [key for task in assignment.tasks if (key := LeaseKey.of(task.lease)) in self.held]
        if known:
            self.acknowledge(known)  # said twice: the answer may have been lost, the work is here
        newest = {(key.job_id, key.index): key.lease_no for key in self.held}
        tasks, overtaken = [], []
        for task in assignment.tasks:
            key = LeaseKey.of(task.lease)
            if key.lease_no < newest.get((key.job_id, key.index), 0):
                overtaken.append(key)  # said again, late: the newer lease is the one that counts
            elif key not in self.held:
                tasks.append(task)
        if overtaken:
            self.refuse(overtaken, "a newer lease of this image is here")
        keys = [LeaseKey.of(task.lease) for task in tasks]
        if not keys:
            return []
        if self.state is LinkState.DRAINING:
            self.refuse(keys, self._draining or "the link is draining")
            return []
        if len(self.held) + len(keys) > limits.HELD_LEASES:
            self.refuse(keys, f"the agent holds {len(self.held)} images already")
            return []
        # A newer lease of a task that is still held here means the older one was given up by
        # the broker: two tries of one image on one card would fight over it.
        images = {(key.job_id, key.index) for key in keys}
        stale = tuple(key for key in self.held if (key.job_id, key.index) in images)
        for key in stale:
            del self.held[key]
        for key in keys:
            self.held[key] = Holding()
        fresh = pb.Assignment(card_id=assignment.card_id, tasks=tasks)
        return [*([Dropped(stale)] if stale else []), fresh]

    def _on_settled(self, settled: pb.Settled, now: float) -> list[Event]:
        self.held.pop(LeaseKey.of(settled.lease), None)
        return [settled]

    def _on_drain(self, drain: pb.Drain, now: float) -> list[Event]:
        if self.up:
            self._advance(LinkEvent.DRAIN)
        return [drain]

    def _on_goodbye(self, goodbye: pb.Goodbye, now: float) -> list[Event]:
        return [goodbye]

    # What the agent says

    def heartbeat(
        self, cards: Iterable[pool_pb2.CardReadings], modes: Iterable[pb.CardMode]
    ) -> None:
        self._beats += 1
        self._put(heartbeat=pb.Heartbeat(number=self._beats, cards=cards, modes=modes))

    def mode_changed(self, mode: pb.CardMode) -> None:
        self._put(mode_changed=pb.ModeChanged(mode=mode))

    def cards_changed(self, cards: Sequence[pool_pb2.CardInfo]) -> None:
        """Also what the next Hello says."""
        del self.identity.cards[:]
        self.identity.cards.extend(cards)
        self._put(cards_changed=pb.CardsChanged(cards=cards))

    def acknowledge(self, keys: Iterable[LeaseKey]) -> None:
        self._put(acknowledged=pb.Acknowledged(leases=[key.message() for key in keys]))

    def refuse(self, keys: Sequence[LeaseKey], reason: str, *, not_ready: bool = False) -> None:
        """`not_ready`: the owner does not lend the card just now; nobody is to blame."""
        for key in keys:
            self.held.pop(key, None)
        leases = [key.message() for key in keys]
        self._put(refused=pb.Refused(leases=leases, reason=reason, not_ready=not_ready))

    def started(self, key: LeaseKey) -> None:
        if key in self.held:
            self.held[key].started = True
            self._put(started=pb.TaskStarted(lease=key.message()))

    def progress(self, key: LeaseKey, step: int, steps: int, preview: bytes = b"") -> None:
        if key in self.held:
            self._put(
                progress=pb.TaskProgress(
                    lease=key.message(), step=step, steps=steps, preview=preview
                )
            )

    def model_loaded(
        self, card_id: str, model_sha256: str, seconds: float, tier: pool_pb2.Tier.ValueType
    ) -> None:
        """A model came into the card's memory; `tier` is where it was before."""
        self._put(
            model_loaded=pb.ModelLoaded(
                card_id=card_id, model_sha256=model_sha256, seconds=seconds, tier=tier
            )
        )

    def checkpoint(self, key: LeaseKey, checkpoint: pb.Checkpoint, receipt: str) -> None:
        """One that is stored. Not said again: the next one says more."""
        if key in self.held and self.held[key].outcome is None:
            self._put(
                checkpoint=pb.TaskCheckpoint(
                    lease=key.message(), checkpoint=checkpoint, receipt=receipt
                )
            )

    def outcome(
        self,
        key: LeaseKey,
        result: pb.TaskFinished | pb.TaskFailed | pb.TaskReleased | pb.TaskStopped,
    ) -> None:
        """How a held lease ended; kept and said again after a reconnect until it is settled.

        A TaskReleased that is only `releasing` is replaced by the one with the last word.
        """
        if key not in self.held:
            return
        result.lease.CopyFrom(key.message())
        names = {
            pb.TaskFinished: "finished",
            pb.TaskFailed: "failed",
            pb.TaskReleased: "released",
            pb.TaskStopped: "stopped",
        }
        frame = pb.AgentFrame()
        getattr(frame, names[type(result)]).CopyFrom(result)
        self.held[key].outcome = frame
        if self.up:
            self._out.append(frame.SerializeToString())

    def drain(self, reason: str) -> None:
        """Finish what is held, take nothing new. Holds over reconnects."""
        self._draining = reason or "the agent is draining"
        if self.up:
            self._advance(LinkEvent.DRAIN)
            self._put(draining=pb.Draining(reason=self._draining))

    def goodbye(self, reason: str) -> None:
        self._put(goodbye=pb.Goodbye(reason=reason))
        if self.state is not LinkState.CLOSED:
            self._advance(LinkEvent.CLOSE)

    def _put(self, **frame: Any) -> None:
        if self.up or "hello" in frame:
            self._out.append(pb.AgentFrame(**frame).SerializeToString())
