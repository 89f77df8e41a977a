"""The rules, one per reason: what a moment says of each, and what follows where it is bad. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from foxden_agent.policy.memory import Moment
from foxden_agent.policy.thresholds import Level, Threshold
from foxden_agent.policy.timetable import clock_text
from foxden_agent.policy.values import Code, Facts, Mode
from foxden_agent.policy.wishes import Kind
from foxden_proto.v1 import pool_pb2

_DRAWING_FOR = 3.0  # seconds that others must draw until it is a game and no menu that opens
_OVER_FOR = 3.0  # seconds over the budget: an engine that is told to shrink gets to do so
_BACK_FOR = 5.0  # seconds that a card which had gone must answer; also after the budget was kept
_TAKEN_HOLD = 60.0  # in it the engine is idle, and whether the newcomer draws is plain to see
_CPU_ROOM = Threshold(0.05, 0.10, 60)  # of the machine's memory, in the place of `memory_room`
_BELOW_SLOWDOWN = 2.0  # degrees that the card is stopped before it slows itself down
_SANE_SLOWDOWN = 60.0  # degrees; a card that tells less tells nonsense
_WARM_GONE = 3.0  # degrees below `temperature_slow` at which the whole time is worked again
_WARM_HOLD = 10.0


@dataclass(frozen=True, slots=True)
class Sight:
    """What a moment says of one rule."""

    level: Level
    hold: float = 0.0  # seconds that it must be good
    after: float = 0.0  # seconds that it must be bad
    facts: Facts = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """One cause: the mode that it leads to, and whether running work is given back at once."""

    code: Code
    mode: Mode
    look: Callable[[Moment], Sight] = field(repr=False)
    gives_back: bool = True


def heat(m: Moment) -> tuple[Threshold, float]:
    """The threshold of temperature for this card, and from where it slows.

    Both are lower for a card that slows itself down sooner than the owner's figure.
    """
    hot, slow = m.policy.temperature, m.policy.temperature_slow
    own = m.seen.card.temperature_slowdown
    if own is not None and own >= _SANE_SLOWDOWN:
        by = min(0.0, own - _BELOW_SLOWDOWN - hot.stop)
        return hot.shifted(by), slow + by
    return hot, slow


def _flag(bad: bool | None) -> Level:
    if bad is None:
        return Level.UNKNOWN
    return Level.BAD if bad else Level.GOOD


def _gone(m: Moment) -> Sight:
    card = m.seen.card
    if card.present:
        return Sight(Level.GOOD, hold=_BACK_FOR)
    return Sight(Level.BAD, hold=_BACK_FOR, facts=(("problem", card.problem),))


def _engine(m: Moment) -> Sight:
    return Sight(_flag(bool(m.seen.engine.broken)), facts=(("problem", m.seen.engine.broken),))


def _wished(*kinds: Kind) -> Callable[[Moment], Sight]:
    """The owner's word holds and ends at once: it is no reading that could flap."""

    def look(m: Moment) -> Sight:
        followed = m.state.wish
        bad = m.wish is not None and m.wish.kind in kinds
        if not bad or followed is None or followed.over:
            return Sight(Level.GOOD)
        return Sight(Level.BAD, facts=(("until", followed.shown),) if followed.shown else ())

    return look


def _battery(m: Moment) -> Sight:
    if m.policy.on_battery:
        return Sight(Level.GOOD)
    return Sight(_flag(m.seen.machine.on_battery), m.policy.hold)


def _user_here(m: Moment) -> Sight:
    bad = m.policy.only_when_away and m.seen.machine.idle_seconds is not None and not m.away
    hold = m.policy.hold if m.policy.only_when_away else 0.0
    return Sight(_flag(bad), hold, facts=(("away", m.policy.away_after),))


def _user_unseen(m: Moment) -> Sight:
    # At once: between the last word of somebody who is here and the first silence nothing may run.
    bad = m.policy.only_when_away and m.seen.machine.idle_seconds is None
    return Sight(_flag(bad), m.policy.hold)


def _memory_needed(m: Moment) -> Sight:
    threshold = _CPU_ROOM if m.is_cpu else m.policy.memory_room
    total, foreign = m.seen.card.memory_total, m.foreign_memory
    if not total:
        return Sight(Level.UNKNOWN, threshold.hold)
    left = None if foreign is None else max(0.0, 1 - foreign / total)
    facts: Facts = (("room", threshold.resume * total),)
    return Sight(threshold.level(left), threshold.hold, facts=facts)


def _over_budget(m: Moment) -> Sight:
    held, most = m.seen.engine.memory, m.budget
    if held is None or most is None:
        return Sight(Level.UNKNOWN, _BACK_FOR, _OVER_FOR)
    if held > most:
        facts: Facts = (("memory", held), ("limit", most))
        return Sight(Level.BAD, _BACK_FOR, _OVER_FOR, facts)
    return Sight(Level.GOOD, _BACK_FOR, _OVER_FOR)


def _bare(name: str) -> str:
    return name.strip().casefold().removesuffix(".exe")


def _program(m: Moment) -> Sight:
    listed = {_bare(name) for name in m.policy.programs}
    running = set(m.seen.machine.programs)
    running.update(process.name for process in m.seen.card.processes or ())
    found = sorted(name for name in running if _bare(name) in listed)
    if not found:
        return Sight(Level.GOOD, m.policy.hold)
    return Sight(Level.BAD, m.policy.hold, facts=(("program", found[0]),))


def _full_screen(m: Moment) -> Sight:
    program = m.seen.machine.full_screen
    if not m.policy.full_screen:
        return Sight(Level.GOOD, m.policy.hold)
    if program is None:
        return Sight(Level.UNKNOWN, m.policy.hold)
    ignored = {_bare(name) for name in m.policy.full_screen_ignored}
    if not program or _bare(program) in ignored:
        return Sight(Level.GOOD, m.policy.hold)
    return Sight(Level.BAD, m.policy.hold, facts=(("program", program),))


def _foreign_use(m: Moment) -> Sight:
    threshold = m.policy.foreign_use
    use = m.seen.foreign_use
    if use is None and m.settled:
        use = m.seen.card.utilisation
    if m.is_cpu:  # programs always use it
        return Sight(Level.GOOD)
    facts: Facts = (("resume_share", threshold.resume),)
    if use is not None:
        facts = (("use", use), *facts)
    return Sight(threshold.level(use), threshold.hold, _DRAWING_FOR, facts)


def _memory_taken(m: Moment) -> Sight:
    total, samples = m.seen.card.memory_total, m.state.foreign
    if m.is_cpu or not m.policy.memory_taken:
        return Sight(Level.GOOD)
    if not total or not samples:
        return Sight(Level.UNKNOWN, _TAKEN_HOLD)
    grown = samples[-1][1] - min(memory for _, memory in samples)
    return Sight(_flag(grown > m.policy.memory_taken * total), _TAKEN_HOLD)


def _hot(m: Moment) -> Sight:
    threshold, _ = heat(m)
    return _temperature(m, threshold)


def _warm(m: Moment) -> Sight:
    threshold, slow = heat(m)
    gone = max(slow - _WARM_GONE, threshold.resume)
    return _temperature(m, Threshold(slow, gone, _WARM_HOLD))


def _temperature(m: Moment, threshold: Threshold) -> Sight:
    temperature = m.seen.card.temperature if m.seen.card.present else None
    facts: Facts = (("resume", threshold.resume),)
    if temperature is not None:
        facts = (("temperature", temperature), *facts)
    return Sight(threshold.level(temperature), threshold.hold, facts=facts)


def _quiet(m: Moment) -> Sight:
    hours = m.state.hours
    if hours is None or not hours.quiet:
        return Sight(Level.GOOD, m.policy.hold)
    until = clock_text(hours.ends, m.zone, seen_at=m.seen.machine.wall)
    return Sight(Level.BAD, m.policy.hold, facts=(("until", until),))


def _starting(m: Moment) -> Sight:
    delay = m.policy.start_delay * 60
    return Sight(_flag(m.state.lived < delay), facts=(("delay", delay),))


# The strongest mode first (values.SEVERITY): reasons are told in this order.
RULES: tuple[Rule, ...] = (
    Rule(Code.CARD_GONE, pool_pb2.MODE_BROKEN, _gone),
    Rule(Code.ENGINE_BROKEN, pool_pb2.MODE_BROKEN, _engine),
    Rule(Code.OWNER, pool_pb2.MODE_PAUSED, _wished(Kind.FOREVER)),
    Rule(Code.OWNER_RESTART, pool_pb2.MODE_PAUSED, _wished(Kind.RESTART)),
    Rule(Code.OWNER_UNTIL, pool_pb2.MODE_PAUSED, _wished(Kind.FOR, Kind.TOMORROW)),
    Rule(Code.BATTERY, pool_pb2.MODE_PAUSED, _battery),
    Rule(Code.USER_HERE, pool_pb2.MODE_PAUSED, _user_here),
    Rule(Code.USER_UNSEEN, pool_pb2.MODE_PAUSED, _user_unseen),
    Rule(Code.MEMORY_NEEDED, pool_pb2.MODE_PAUSED, _memory_needed),
    Rule(Code.OVER_BUDGET, pool_pb2.MODE_PAUSED, _over_budget),
    Rule(Code.PROGRAM, pool_pb2.MODE_GAMING, _program),
    Rule(Code.FULL_SCREEN, pool_pb2.MODE_GAMING, _full_screen),
    Rule(Code.FOREIGN_USE, pool_pb2.MODE_GAMING, _foreign_use),
    Rule(Code.MEMORY_TAKEN, pool_pb2.MODE_GAMING, _memory_taken),
    Rule(Code.HOT, pool_pb2.MODE_HOT, _hot),
    Rule(Code.QUIET_HOURS, pool_pb2.MODE_QUIET_HOURS, _quiet),
    Rule(Code.STARTING, pool_pb2.MODE_QUIET_HOURS, _starting),
    Rule(Code.FINISHING, pool_pb2.MODE_DRAINING, _wished(Kind.FINISH), gives_back=False),
    Rule(Code.WARM, pool_pb2.MODE_DUTY_CYCLED, _warm, gives_back=False),
)
