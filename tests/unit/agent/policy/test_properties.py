"""What holds of the policy whatever is read, in whatever order, under clocks that jump."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from evening import BERLIN, CARD, GIB, NOON, PC, Evening, codes
from hypothesis import given, settings
from hypothesis import strategies as st

from foxden_agent.policy.deciding import decide
from foxden_agent.policy.memory import State
from foxden_agent.policy.rules import RULES
from foxden_agent.policy.sentences import CHARACTERS, sentence
from foxden_agent.policy.settings import Policy
from foxden_agent.policy.timetable import Window
from foxden_agent.policy.values import SEVERITY, Code, Decision, EngineUse, Seen
from foxden_agent.policy.wishes import Kind, Wish
from foxden_agent.readings import CardProcess
from foxden_proto.v1.pool_pb2 import MODE_DUTY_CYCLED, MODE_READY

POLICIES = [
    Policy(),
    Policy(only_when_away=True, hold=5),
    Policy(quiet_hours=(Window.parse("daily 11:59-12:01"), Window.parse("wed 13:00-15:00"))),
    Policy(full_screen=False, memory_taken=0, on_battery=True, start_delay=1),
]

temperatures = st.none() | st.floats(20, 110)
memories = st.integers(0, 8 * GIB)


@dataclass(frozen=True)
class Look:
    """One reading after `passed` seconds, by a wall clock that jumps by `jump`."""

    passed: float
    jump: float
    card: dict[str, Any]
    pc: dict[str, Any]
    engine: EngineUse
    foreign_use: float | None


cards = st.fixed_dictionaries(
    {},
    optional={
        "present": st.booleans(),
        "temperature": temperatures,
        "temperature_slowdown": st.none() | st.floats(0, 120),
        "utilisation": st.none() | st.floats(0, 1),
        "memory_free": st.none() | memories,
        "memory_used": st.none() | memories,
        "memory_total": st.sampled_from([None, 0, 2 * GIB, 8 * GIB]),
        "processes": st.none()
        | st.lists(
            st.builds(CardProcess, st.integers(1, 9), st.sampled_from(["", "obs64.exe", "x"]),
                      st.none() | memories),
            max_size=2,
        ).map(tuple),
    },
)  # fmt: skip
pcs = st.fixed_dictionaries(
    {},
    optional={
        "full_screen": st.sampled_from([None, "", "witcher3.exe", "NVIDIA Overlay.exe", "\n"]),
        "programs": st.sampled_from([frozenset(), frozenset({"obs64.exe"})]),
        "on_battery": st.sampled_from([None, False, True]),
        "idle_seconds": st.none() | st.floats(0, 1000),
    },
)
engines = st.builds(
    EngineUse, st.booleans(), st.none() | memories, st.sampled_from(["", "", "it died"])
)
looks = st.builds(
    Look,
    passed=st.sampled_from([0.0, 1.0, 1.0, 1.0, 3.0, 10.0, 30.0, 120.0, 3600.0, -3600.0]),
    jump=st.sampled_from([0.0, 0.0, 0.0, 0.0, 3600.0, -3600.0, 86_400.0]),
    card=cards,
    pc=pcs,
    engine=engines,
    foreign_use=st.none() | st.floats(0, 1),
)
wishes = st.none() | st.builds(
    Wish,
    st.just("w"),
    st.sampled_from(Kind),
    st.floats(NOON - 7200, NOON + 7200),
    st.floats(1, 7200),
)
policies = st.sampled_from(POLICIES)


@dataclass
class Run:
    """A policy fed with looks; keeps (monotonic seconds lived, decision) of each."""

    policy: Policy
    wish: Wish | None = None
    now: float = 1e6
    wall: float = NOON
    state: State = field(default_factory=State)
    told: list[tuple[float, Decision]] = field(default_factory=list)

    def feed(self, looks: Iterable[Look]) -> None:
        for look in looks:
            self.now += look.passed
            self.wall += look.passed + look.jump
            seen = self.seen(look)
            decision, self.state = decide(
                seen, self.policy, self.now, self.state, wish=self.wish, zone=BERLIN
            )
            self.told.append((self.state.lived, decision))

    def seen(self, look: Look) -> Seen:
        return Seen(
            replace(CARD, at=self.now, **look.card),
            replace(PC, at=self.now, wall=self.wall, **look.pc),
            look.engine,
            look.foreign_use,
        )


def holds(policy: Policy) -> dict[Code, float]:
    """The least seconds that a reason lasts once it is there, by what the owner set."""
    return {
        Code.HOT: policy.temperature.hold,
        Code.MEMORY_NEEDED: policy.memory_room.hold,
        Code.MEMORY_TAKEN: 60 if policy.memory_taken else 0,
        Code.FOREIGN_USE: policy.foreign_use.hold,
        Code.PROGRAM: policy.hold,
        Code.FULL_SCREEN: policy.hold,
        Code.BATTERY: policy.hold,
        Code.QUIET_HOURS: policy.hold,
        Code.USER_HERE: policy.hold,
        Code.USER_UNSEEN: policy.hold,
        Code.CARD_GONE: 5,
    }


@given(policy=policies, sequence=st.lists(looks, max_size=60))
@settings(max_examples=100, deadline=None)
def test_no_reason_ends_before_its_hold_is_over(policy: Policy, sequence: list[Look]) -> None:
    run = Run(policy)
    run.feed(sequence)
    since: dict[Code, float] = {}
    least = holds(policy)
    for lived, decision in run.told:
        now = codes(decision)
        for code in set(since) - now:
            assert lived - since.pop(code) >= least.get(code, 0), code
        for code in now - set(since):
            since[code] = lived


@given(policy=policies, wish=wishes, sequence=st.lists(looks, max_size=40))
@settings(max_examples=100, deadline=None)
def test_a_mode_is_always_explained_and_what_it_allows_follows(
    policy: Policy, wish: Wish | None, sequence: list[Look]
) -> None:
    run = Run(policy, wish)
    run.feed(sequence)
    for _, decision in run.told:
        assert (decision.mode == MODE_READY) is (not decision.reasons)
        for reason in decision.reasons:
            said = sentence(reason)
            assert len(said.partition(": ")[2]) > 0
            assert len(said) <= CHARACTERS
            assert said.isprintable()
        assert len(codes(decision)) == len(decision.reasons)
        assert decision.take_work is (decision.mode in (MODE_READY, MODE_DUTY_CYCLED))
        assert decision.share == 0 if decision.give_back else 0 < decision.share <= 1
        assert not (decision.take_work and decision.give_back)


GOOD = Look(1.0, 0.0, {}, {"idle_seconds": 1e5}, EngineUse(), None)


@given(policy=policies, wish=wishes, sequence=st.lists(looks, max_size=40))
@settings(max_examples=60, deadline=None)
def test_good_readings_make_it_ready_again_by_themselves(
    policy: Policy, wish: Wish | None, sequence: list[Look]
) -> None:
    run = Run(policy, wish)
    run.feed(sequence)
    run.wish = None  # the owner's own word ends by the owner, or by its time: shown elsewhere
    run.wall = NOON + 10 * 3600  # past the quiet hours
    run.feed([GOOD] * 135)  # the longest hold, and the ten seconds that memory needs to settle
    assert run.told[-1][1].mode == MODE_READY, run.told[-1][1]
    assert run.told[-1][1].share == 1.0
    run.feed([GOOD] * 30)
    assert all(decision.mode == MODE_READY for _, decision in run.told[-30:])


worse = st.sampled_from(
    [
        ({"temperature": 110.0}, {}),
        ({"present": False}, {}),
        ({}, {"programs": frozenset({"obs64.exe"})}),
        ({}, {"full_screen": "witcher3.exe"}),
        ({}, {"on_battery": True}),
    ]
)


@given(policy=policies, wish=wishes, sequence=st.lists(looks, min_size=1, max_size=30), more=worse)
@settings(max_examples=100, deadline=None)
def test_one_cause_more_never_makes_the_mode_weaker(
    policy: Policy, wish: Wish | None, sequence: list[Look], more: tuple[dict[str, Any], ...]
) -> None:
    *before, last = sequence
    run = Run(policy, wish)
    run.feed(before)
    also = replace(run, told=[])
    run.feed([last])
    # A card that is gone tells nothing more of itself; what was told before stays as it was.
    also.feed([replace(last, card=last.card | more[0], pc=last.pc | more[1])])
    one, other = run.told[-1][1], also.told[-1][1]
    assert SEVERITY.index(other.mode) >= SEVERITY.index(one.mode)
    assert other.take_work <= one.take_work
    assert other.give_back >= one.give_back
    assert other.share <= one.share


@given(hotter=st.floats(0, 40), cooler=st.floats(40, 110))
@settings(max_examples=50, deadline=None)
def test_a_hotter_card_works_no_more_than_a_cooler_one(hotter: float, cooler: float) -> None:
    one, other = (Evening().set(temperature=t) for t in (cooler, min(cooler + hotter, 130)))
    for _ in range(25):
        assert other.wait(1).share <= one.wait(1).share
        assert SEVERITY.index(other.decision.mode) >= SEVERITY.index(one.decision.mode)


@given(policy=policies, wish=wishes, sequence=st.lists(looks, max_size=20))
@settings(max_examples=60, deadline=None)
def test_same_in_same_out_and_nothing_that_went_in_is_changed(
    policy: Policy, wish: Wish | None, sequence: list[Look]
) -> None:
    run, again = Run(policy, wish), Run(policy, wish)
    for look in sequence:
        before, kept = run.state, replace(run.state, latches=dict(run.state.latches))
        run.feed([look])
        assert before == kept
        again.feed([look])
        assert run.state == again.state
    assert run.told == again.told


def test_every_code_has_one_rule_the_strongest_first() -> None:
    assert [rule.code for rule in RULES] == list(Code)
    assert {rule.mode for rule in RULES} == set(SEVERITY) - {MODE_READY}
    ranks = [SEVERITY.index(rule.mode) for rule in RULES]
    assert ranks == sorted(ranks, reverse=True)
