"""The owner's policy carried out: readings come in, workers, engines and the broker hear of it.

What is decided is policy/'s business, and pure. Here each decision is told the broker first, so
that nothing new is sent, and then done: the card is lent, finishes, rests between steps, or is
given back at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from foxden_agent.card_engine import CardEngine
from foxden_agent.policy.governor import Governor
from foxden_agent.policy.owner_files import OwnersWill
from foxden_agent.policy.sentences import sentences
from foxden_agent.policy.values import Code, Decision, EngineUse
from foxden_agent.readings import CardReadings, Readings
from foxden_agent.reports import Reports
from foxden_agent.worker import CardWorker
from foxden_proto.v1 import link_pb2 as pb
from foxden_proto.v1 import pool_pb2

log = logging.getLogger(__name__)

_REASON_CHARACTERS = 300
_HERE_SECONDS = 60.0
_MIB = 1024**2
_BUDGET_STEP = 64 * _MIB  # a budget that moves by less is the same: each one is told to the pool
_JOULES_PER_WATT_HOUR = 3600.0


@dataclass
class Lent:
    """One card of this agent: who draws on it, and what was last read of it."""

    card_id: str
    worker: CardWorker
    engine: CardEngine
    readings: CardReadings | None = None
    energy_at_start: float | None = None  # joules
    headline: tuple[object, ...] = field(default_factory=tuple)  # what was told last


class OwnerFirst:
    """All cards of an agent under their owner's policy.

    `deliver` is what the watcher calls; `first` is set after its first call, before which no card
    may be offered: nobody knows then whether its owner plays. All of it runs on the event loop.
    """

    def __init__(
        self,
        cards: Mapping[str, Lent],
        link: Reports,
        flush: Callable[[], None],
        will: Callable[[], OwnersWill],
        *,
        offers_changed: Callable[[], None] = lambda: None,
        also: Iterable[Callable[[Readings], None]] = (),
    ) -> None:
        """`cards` by device. `offers_changed` is called where what fits on a card is another now;
        `also`: who else wants the readings, a recorder for example."""
        self.first = asyncio.Event()
        self._cards = cards
        self._link = link
        self._flush = flush
        self._offers_changed = offers_changed
        self._also = tuple(also)
        self._latest: Readings | None = None
        self._governor = Governor(will, self._decided)
        self._beside: set[asyncio.Task[None]] = set()

    @property
    def programs(self) -> frozenset[str]:
        """The owner's exclusive programs; may be asked on any thread."""
        return frozenset(self._governor.policy.programs)

    @property
    def decisions(self) -> Mapping[str, Decision]:
        """The newest decision by device; a card that was not read yet has none."""
        return self._governor.decisions

    @property
    def problems(self) -> tuple[str, ...]:
        """What of the owner's files is not followed, in sentences."""
        return self._governor.problems

    @property
    def latest(self) -> Readings | None:
        """What was read last."""
        return self._latest

    @property
    def user_here(self) -> bool:
        """Whether somebody touched the PC within the last minute, as far as the system tells."""
        idle = self._latest.machine.idle_seconds if self._latest is not None else None
        return idle is not None and idle < _HERE_SECONDS

    def deliver(self, readings: Readings) -> None:
        """Decide for every card, and do what follows."""
        self._latest = readings
        self._decide(readings)
        for want in self._also:
            want(readings)
        self.first.set()

    def again(self) -> None:
        """Something about an engine is another now: decide without waiting for new readings."""
        if self._latest is not None:
            self._decide(self._latest)

    def modes(self) -> list[pb.CardMode]:
        """Every card's mode, for a hello or a heartbeat."""
        decisions = self._governor.decisions
        return [
            _mode(lent.card_id, decisions[device]) if device in decisions else _unread(lent.card_id)
            for device, lent in self._cards.items()
        ]

    def told(self) -> list[pool_pb2.CardReadings]:
        """What a heartbeat tells of each card."""
        return [told(lent) for lent in self._cards.values()]

    def _decide(self, readings: Readings) -> None:
        for one in readings.cards:
            lent = self._cards.get(one.device)
            if lent is None:
                continue
            lent.readings = one
            if lent.energy_at_start is None:
                lent.energy_at_start = one.energy
            decision = self._governor.read(one, readings.machine, _use(lent))
            self._budget(lent, decision.memory_limit)

    def _decided(self, device: str, decision: Decision) -> None:
        lent = self._cards[device]
        said = sentences(decision)
        if decision.headline != lent.headline:
            lent.headline = decision.headline
            mode = _mode(lent.card_id, decision)
            name = pool_pb2.Mode.Name(decision.mode).removeprefix("MODE_").lower()
            log.info("%s is %s%s", device, name, f" ({'; '.join(said)})" if said else "")
            self._link.mode_changed(mode)
            del self._link.identity.modes[:]
            self._link.identity.modes.extend(self.modes())
        if all(reason.code is Code.ENGINE_BROKEN for reason in decision.reasons):
            # Ready, or broken by itself: then its worker gives back what it holds, and has to go on
            # looking whether an engine works again.
            lent.worker.allow()
        elif decision.give_back:
            self._keep(lent.worker.give_back(said))
        elif not decision.take_work:
            lent.worker.finish_current(said)
        else:
            lent.worker.allow()
        if decision.share > 0:
            self._keep(asyncio.ensure_future(lent.engine.set_share(decision.share)))
        self._flush()

    def _budget(self, lent: Lent, limit: int | None) -> None:
        """Placement goes by what the owner leaves us, and the pool hears what fits then."""
        placer = lent.worker.placer
        if placer is None or limit is None:
            return
        before = placer.card.budget
        if before and abs(before - limit) < _BUDGET_STEP:
            return
        placer.card = replace(placer.card, budget=limit)
        self._offers_changed()

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)


def available(readings: CardReadings | None, *, engine_runs: bool) -> int | None:
    """Bytes of the card that nobody but our engine holds; None where that cannot be told. Pure.

    Without an engine it is what is free. With one it is what others' programs leave, which only
    drivers that tell each program's memory know.
    """
    if readings is None or not readings.present:
        return None
    if not engine_runs:
        return readings.memory_free
    foreign = readings.foreign_memory
    if foreign is None or readings.memory_total is None:
        return None
    return max(0, readings.memory_total - foreign)


def told(lent: Lent) -> pool_pb2.CardReadings:
    """Readings as the pool sees them; what is not known stays absent."""
    cache = lent.worker.cache
    made = pool_pb2.CardReadings(
        card_id=lent.card_id, loaded_models=cache.in_vram, models_in_ram=cache.in_ram
    )
    read = lent.readings
    if read is None or not read.present:
        return made
    values = {
        "memory_used": read.memory_used,
        "memory_free": read.memory_free,
        "temperature": read.temperature,
        "temperature_slowdown": read.temperature_slowdown,
        "utilisation": read.utilisation,
        "power": read.power,
        "power_limit": read.power_limit,
        "fan": read.fan,
        "foreign_memory": read.foreign_memory,
    }
    if read.energy is not None and lent.energy_at_start is not None:
        spent = max(0.0, read.energy - lent.energy_at_start)  # a driver that was restarted: from 0
        values["energy"] = spent / _JOULES_PER_WATT_HOUR
    for name, value in values.items():
        if value is not None:
            setattr(made, name, value)
    made.throttled.extend(sorted(read.throttled))
    return made


def _use(lent: Lent) -> EngineUse:
    runs = lent.engine.running
    return EngineUse(lent.worker.busy, None if runs else 0, lent.worker.broken)


def _mode(card_id: str, decision: Decision) -> pb.CardMode:
    said = [sentence[:_REASON_CHARACTERS] for sentence in sentences(decision)]
    return pb.CardMode(card_id=card_id, mode=decision.mode, reasons=said)


def _unread(card_id: str) -> pb.CardMode:
    why = "broken: the card was not read yet"
    return pb.CardMode(card_id=card_id, mode=pool_pb2.MODE_BROKEN, reasons=[why])
