"""The owner-first decision: readings, policy, wish and memory in; mode, reasons and memory out.

Pure: the same values in give the same values out, and nothing here reads a clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import tzinfo

from foxden_agent.policy.memory import Moment, State, moment
from foxden_agent.policy.rules import RULES, Rule, heat
from foxden_agent.policy.settings import Policy
from foxden_agent.policy.thresholds import Latch
from foxden_agent.policy.values import Code, Decision, Facts, Reason, Seen
from foxden_agent.policy.wishes import Wish
from foxden_proto.v1 import pool_pb2

_GLIDE = 0.05  # of the share, per second: the card's heat follows slowly, and so does its work
_STEPS = 20  # of the share that is told
_MEMORY_STEP = 2**26  # bytes in which the limit is told
_LONGEST = 60.0  # seconds until the next look

_NOT_YET = Latch()


def decide(
    seen: Seen,
    policy: Policy,
    now: float,
    state: State,
    *,
    wish: Wish | None = None,
    zone: tzinfo | None = None,
) -> tuple[Decision, State]:
    """What one card may do now, and what to remember for the next decision about it.

    `now` is in seconds of the monotonic clock. `wish` is one that holds in this run of the agent.
    `zone` is where the owner's quiet hours are; None: where the machine is.
    """
    m = moment(seen, policy, wish, now, state, zone)
    clock = m.state.clock
    latches: dict[Code, Latch] = {}
    facts: dict[Code, Facts] = {}
    reasons: list[tuple[Rule, Reason]] = []
    nexts = [_LONGEST, *_nexts(m)]
    for rule in RULES:
        sight = rule.look(m)
        latch = state.latches.get(rule.code, _NOT_YET).next(
            sight.level, clock, sight.hold, sight.after
        )
        latches[rule.code] = latch
        if latch.on:
            told = {**dict(state.facts.get(rule.code, ())), **dict(sight.facts)}
            told.pop("left", None)
            left = latch.left(clock, sight.hold)
            if left is not None:
                told["left"] = left
                nexts.append(left)
            facts[rule.code] = tuple(told.items())
            reasons.append((rule, Reason(rule.code, facts[rule.code])))
        elif latch.bad_since is not None:
            nexts.append(latch.bad_since + sight.after - clock)
    share = _glided(m, latches[Code.WARM], clock - state.clock)
    state = replace(m.state, latches=latches, facts=facts, share=share)
    return _decision(m, reasons, share, now + max(0.0, min(nexts))), state


def _decision(
    m: Moment, found: list[tuple[Rule, Reason]], share: float, next_look: float
) -> Decision:
    codes = {reason.code for _, reason in found}
    if Code.HOT in codes:  # one heat, one reason
        found = [(rule, reason) for rule, reason in found if rule.code is not Code.WARM]
    mode = found[0][0].mode if found else pool_pb2.MODE_READY
    give_back = any(rule.gives_back for rule, _ in found)
    told = 0.0 if give_back else round(share * _STEPS) / _STEPS
    reasons = tuple(
        replace(reason, facts=(*reason.facts, ("share", told)))
        if reason.code is Code.WARM
        else reason
        for _, reason in found
    )
    return Decision(
        mode=mode,
        reasons=reasons,
        share=told,
        take_work=mode in (pool_pb2.MODE_READY, pool_pb2.MODE_DUTY_CYCLED),
        give_back=give_back,
        memory_limit=_memory_limit(m),
        next_look=next_look,
    )


def _glided(m: Moment, warm: Latch, passed: float) -> float:
    """The share of the time, a little nearer to what the temperature asks for.

    It falls in a line from 1 where the card begins to be warm to `share_least` where it is hot.
    """
    temperature = m.seen.card.temperature if m.seen.card.present else None
    goal = 1.0
    if warm.on:
        if temperature is None:
            return m.state.share
        hot, slow = heat(m)
        warmth = min(max(0.0, (temperature - slow) / (hot.stop - slow)), 1.0)
        goal = 1 - warmth * (1 - m.policy.share_least)
    reach = _GLIDE * passed
    return min(max(goal, m.state.share - reach), m.state.share + reach)


def _memory_limit(m: Moment) -> int | None:
    total, most = m.seen.card.memory_total, m.budget
    if total is None or most is None:
        return None
    if m.foreign_memory is not None:
        most = max(0, min(most, total - m.foreign_memory))
    return most // _MEMORY_STEP * _MEMORY_STEP


def _nexts(m: Moment) -> Iterator[float]:
    """In how many seconds clocks alone change something."""
    hours, followed = m.state.hours, m.state.wish
    if hours is not None:
        yield hours.until - m.seen.machine.wall
    if followed is not None and not followed.over:
        yield followed.until - m.state.lived
    delay = m.policy.start_delay * 60 - m.state.lived
    if delay > 0:
        yield delay
