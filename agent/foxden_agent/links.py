"""Several links as one: workers and owner say things once, and those whom they concern hear them.

What is about an image goes to the broker that gave it; what is about a card goes to all, each with
the mode that it has for that broker (arbiter.py). Bytes go to the broker whose token they carry.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from foxden_agent import clock as agent_clock
from foxden_agent.arbiter import OWNER_FIRST, CardArbiter
from foxden_agent.pictures import PictureSender, Stored, Unreachable
from foxden_agent.worker import CardWorker
from foxden_proto import logs
from foxden_proto.link import AgentLink, Dropped, Event, LeaseKey, LeasesExpired
from foxden_proto.timers import Timers
from foxden_proto.v1 import link_pb2 as pb
from foxden_proto.v1 import pool_pb2

log = logging.getLogger(__name__)

_LENT = frozenset({pool_pb2.MODE_READY, pool_pb2.MODE_DUTY_CYCLED})
Outcome = pb.TaskFinished | pb.TaskFailed | pb.TaskReleased | pb.TaskStopped


class Driver(Protocol):
    def flush(self) -> None: ...


@dataclass(eq=False)
class Served:
    """One broker that this agent serves. `changed` hears what its link is: online, waits."""

    name: str  # of the pool, for people; unique in this agent
    own: bool  # the owner's own broker
    link: AgentLink
    sender: PictureSender
    changed: Callable[[str, str], None] = lambda state, reason: None
    driver: Driver | None = None
    told: dict[str, pb.CardMode] = field(default_factory=dict)  # by card: the last mode it heard
    shut_out: set[str] = field(default_factory=set)  # cards that others have, as it was told


@dataclass
class _Route:
    served: Served
    card_id: str
    token: str
    ended: bool = False


class Links:
    """All links of an agent. Its workers have it in the place of one (`CardWorker.link`)."""

    def __init__(
        self,
        timers: Timers,
        hello: pb.Hello,
        workers: dict[str, CardWorker],
        modes: Callable[[], Iterable[pb.CardMode]],
        clock: Callable[[], float] = lambda: agent_clock.now(),
    ) -> None:
        """`hello` is what every link opens with, but for the agent's id; `modes`: of all cards,
        as the owner's side has them now."""
        self.timers = timers
        self.identity = hello
        self._workers = workers
        self._modes = modes
        self._clock = clock
        self._served: list[Served] = []
        self._routes: dict[LeaseKey, _Route] = {}
        self._arbiters: dict[str, CardArbiter] = {}

    @property
    def up(self) -> bool:
        """Whether any broker hears this agent now."""
        return any(served.link.up for served in self._served)

    def hello(self, agent_id: str) -> pb.Hello:
        """What a new link opens with."""
        made = pb.Hello()
        made.CopyFrom(self.identity)
        made.agent_id = agent_id
        return made

    def add(self, served: Served) -> None:
        """Give this broker's work to the cards from now on."""
        self._served.append(served)
        for card in self.identity.cards:
            arbiter = self._arbiters.setdefault(card.card_id, CardArbiter())
            arbiter.add(served.name, own=served.own)
        del served.link.identity.modes[:]
        served.link.identity.modes.extend(self.modes_for(served))
        served.told = {mode.card_id: mode for mode in served.link.identity.modes}

    def remove(self, served: Served) -> None:
        """Its link is over for good: what it gave is drawn no more."""
        if served not in self._served:
            return
        self._served.remove(served)
        for key in [key for key, route in self._routes.items() if route.served is served]:
            self._drop(key)
        for arbiter in self._arbiters.values():
            arbiter.remove(served.name, self._clock())
        self.tell_standings()

    # What brokers say

    def handle(self, served: Served, event: Event) -> None:
        """Act on what happened on one link."""
        match event:
            case pb.Welcome():
                log.info(
                    *("online at %s as session %s", served.name, event.session_id),
                    extra=logs.fields(account=event.account_id),
                )
                served.changed("online", "")
            case pb.Pending():
                served.changed("waits", event.reason)
            case pb.Assignment():
                self._assigned(served, event)
            case pb.StopTask():
                self._worker_of(served, event.lease, lambda worker, key: worker.stop(key))
            case pb.Preempt():
                self._worker_of(
                    *(served, event.lease, lambda worker, key: worker.preempt(key, event.reason))
                )
            case Dropped() | LeasesExpired():
                for key in event.leases:
                    self._drop(key)
                self.tell_standings()
            case pb.Settled():
                if self._gave(served, LeaseKey.of(event.lease)) is not None:
                    self._forget(LeaseKey.of(event.lease))
            case pb.Prefetch():
                worker = self._workers.get(event.card_id)
                if worker is not None and not self._closed(served, event.card_id):
                    worker.prefetch(event.model_sha256)
            case pb.Drain():
                log.info("%s gives no more work: %s", served.name, event.reason)
            case _:
                pass  # heartbeat seen: the link itself keeps it

    def _assigned(self, served: Served, event: pb.Assignment) -> None:
        keys = [LeaseKey.of(task.lease) for task in event.tasks]
        worker = self._workers.get(event.card_id)
        if worker is None:  # left alone, the link would hold these leases until its next connection
            served.link.refuse(keys, "this card is not here any more")
            return
        if why := self._closed(served, event.card_id):  # given before the broker heard of it
            served.link.refuse(keys, f"not ready: {why}", not_ready=True)
            return
        if any(key in self._routes and self._gave(served, key) is None for key in keys):
            served.link.refuse(keys, "another broker gave an image by this name")
            return
        for key, task in zip(keys, event.tasks, strict=True):
            self._routes[key] = _Route(served, event.card_id, task.upload_token)
        arbiter = self._arbiters[event.card_id]
        arbiter.took(served.name, len(keys), self._clock())
        self.tell_standings()  # first, so that nobody is blamed for what is given back
        leaving = arbiter.to_give_back(self._clock())
        for key, route in list(self._routes.items()):
            if route.card_id == event.card_id and route.served.name in leaving and not route.ended:
                worker.preempt(key, OWNER_FIRST)
        worker.assign(event)

    def _gave(self, served: Served, key: LeaseKey) -> _Route | None:
        """The image, if this broker gave it: nobody decides over another's."""
        route = self._routes.get(key)
        return route if route is not None and route.served is served else None

    def _worker_of(
        self, served: Served, lease: pb.Lease, do: Callable[[CardWorker, LeaseKey], None]
    ) -> None:
        key = LeaseKey.of(lease)
        route = self._gave(served, key)
        if route is not None:
            do(self._workers[route.card_id], key)

    def _drop(self, key: LeaseKey) -> None:
        route = self._routes.get(key)
        if route is not None:
            self._workers[route.card_id].drop(key)
            self._forget(key)

    def _forget(self, key: LeaseKey) -> None:
        self._ended(key)
        self._routes.pop(key, None)

    def _ended(self, key: LeaseKey) -> None:
        route = self._routes.get(key)
        if route is not None and not route.ended:
            route.ended = True
            self._arbiters[route.card_id].ended(route.served.name, 1, self._clock())

    # What workers say of images

    def acknowledge(self, keys: Iterable[LeaseKey]) -> None:
        for served, mine in self._by_served(keys):
            served.link.acknowledge(mine)

    def refuse(self, keys: Sequence[LeaseKey], reason: str, *, not_ready: bool = False) -> None:
        for served, mine in self._by_served(keys):
            served.link.refuse(mine, reason, not_ready=not_ready)
            for key in mine:
                self._forget(key)
        self.tell_standings()

    def started(self, key: LeaseKey) -> None:
        if (route := self._routes.get(key)) is not None:
            route.served.link.started(key)

    def progress(self, key: LeaseKey, step: int, steps: int, preview: bytes = b"") -> None:
        if (route := self._routes.get(key)) is not None:
            route.served.link.progress(key, step, steps, preview)

    def checkpoint(self, key: LeaseKey, checkpoint: pb.Checkpoint, receipt: str) -> None:
        if (route := self._routes.get(key)) is not None:
            route.served.link.checkpoint(key, checkpoint, receipt)

    def outcome(self, key: LeaseKey, result: Outcome) -> None:
        route = self._routes.get(key)
        if route is None:
            return
        route.served.link.outcome(key, result)
        if not (isinstance(result, pb.TaskReleased) and result.releasing):
            self._ended(key)
            self.tell_standings()

    def _by_served(self, keys: Iterable[LeaseKey]) -> list[tuple[Served, list[LeaseKey]]]:
        found: dict[str, tuple[Served, list[LeaseKey]]] = {}
        for key in keys:
            if (route := self._routes.get(key)) is not None:
                found.setdefault(route.served.name, (route.served, []))[1].append(key)
        return list(found.values())

    # What is said of cards

    def mode_changed(self, mode: pb.CardMode) -> None:
        for served in self._served:
            self._tell(served, self._seen_by(served, mode))

    def cards_changed(self, cards: Sequence[pool_pb2.CardInfo]) -> None:
        del self.identity.cards[:]
        self.identity.cards.extend(cards)
        for served in self._served:
            served.link.cards_changed(cards)

    def model_loaded(
        self, card_id: str, model_sha256: str, seconds: float, tier: pool_pb2.Tier.ValueType
    ) -> None:
        for served in self._served:
            served.link.model_loaded(card_id, model_sha256, seconds, tier)

    def drain(self, reason: str) -> None:
        for served in self._served:
            served.link.drain(reason)

    def goodbye(self, reason: str) -> None:
        for served in self._served:
            served.link.goodbye(reason)

    def flush(self) -> None:
        for served in self._served:
            if served.driver is not None:
                served.driver.flush()

    def modes_for(self, served: Served) -> list[pb.CardMode]:
        """Every card's mode as this broker shall see it."""
        return [self._seen_by(served, mode) for mode in self._modes()]

    def tell_standings(self) -> None:
        """Tell each broker for which a card is open, or closed, since a moment ago."""
        if len(self._served) < 2 and not any(one.shut_out for one in self._served):
            return  # nothing but its owner stands between a card and its only broker
        modes = list(self._modes())
        for served in self._served:
            for mode in modes:
                shut_out = bool(self._closed(served, mode.card_id))
                if shut_out or mode.card_id in served.shut_out:
                    seen = self._seen_by(served, mode)
                    if seen != served.told.get(mode.card_id):
                        self._tell(served, seen)
                (served.shut_out.add if shut_out else served.shut_out.discard)(mode.card_id)
        self.flush()

    async def keep_time(self) -> None:
        """Open cards again when time alone does, until cancelled."""
        while True:
            now = self._clock()
            await asyncio.sleep(min(max(0.02, self.wake_at(now) - now), 1.0))
            self.tell_standings()

    def wake_at(self, now: float) -> float:
        """When `tell_standings` may have something to say, though nothing happens."""
        return min((one.wake_at(now) for one in self._arbiters.values()), default=now + 3600)

    def _tell(self, served: Served, mode: pb.CardMode) -> None:
        served.told[mode.card_id] = mode
        served.link.mode_changed(mode)
        kept = [one for one in served.link.identity.modes if one.card_id != mode.card_id]
        del served.link.identity.modes[:]
        served.link.identity.modes.extend([*kept, mode])

    def _seen_by(self, served: Served, mode: pb.CardMode) -> pb.CardMode:
        why = self._closed(served, mode.card_id)
        if not why or mode.mode not in _LENT:
            return mode
        reasons = [f"paused: {why}"]
        return pb.CardMode(card_id=mode.card_id, mode=pool_pb2.MODE_PAUSED, reasons=reasons)

    def _closed(self, served: Served, card_id: str) -> str:
        arbiter = self._arbiters.get(card_id)
        return arbiter.closed(served.name, self._clock()) if arbiter is not None else ""

    # Bytes

    async def put(
        self,
        path: str,
        token: str,
        png: bytes,
        wanted: Callable[[], bool],
        what: str = "a picture",
    ) -> Stored | None:
        """As PictureSender.put, to the broker that gave the token."""
        sender = self._sender(token)
        return None if sender is None else await sender.put(path, token, png, wanted, what)

    async def get(
        self,
        path: str,
        token: str,
        sha256: str,
        size: int,
        *,
        wanted: Callable[[], bool],
        within: float,
    ) -> bytes:
        """As PictureSender.get, from the broker that gave the token."""
        sender = self._sender(token)
        if sender is None:
            raise Unreachable("the broker that has the checkpoint is served no more")
        return await sender.get(path, token, sha256, size, wanted=wanted, within=within)

    def _sender(self, token: str) -> PictureSender | None:
        for route in self._routes.values():  # a few hundred at most
            if route.token == token:
                return route.served.sender
        return None
