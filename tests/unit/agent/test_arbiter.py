"""Whose turn a card is: examples, and what holds whatever happens."""

from __future__ import annotations

import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from foxden_agent.arbiter import ANOTHER_POOL, ANOTHERS_TURN, OWNER_FIRST, CardArbiter

HOLD, TURN, WINDOW = 2.0, 60.0, 5.0


@pytest.fixture
def card() -> CardArbiter:
    made = CardArbiter(hold=HOLD, turn=TURN, window=WINDOW)
    made.add("own", own=True)
    made.add("a", own=False)
    made.add("b", own=False)
    return made


def closed(card: CardArbiter, now: float) -> dict[str, str]:
    return {name: why for name in ("own", "a", "b") if (why := card.closed(name, now))}


def test_idle_card_is_open_to_all(card: CardArbiter) -> None:
    assert closed(card, 0.0) == {}
    assert card.wake_at(0.0) == math.inf


def test_owner_who_comes_has_the_card_alone_and_what_others_began_leaves(
    card: CardArbiter,
) -> None:
    card.took("a", 2, 0.0)
    assert closed(card, 0.0) == {"b": ANOTHER_POOL}
    assert card.to_give_back(0.0) == frozenset()
    card.took("own", 1, 1.0)
    assert closed(card, 1.0) == {"a": OWNER_FIRST, "b": OWNER_FIRST}
    assert card.to_give_back(1.0) == {"a"}
    card.ended("a", 2, 2.0)
    assert card.to_give_back(2.0) == frozenset()


def test_owner_keeps_the_card_a_moment_after_his_last_image(card: CardArbiter) -> None:
    card.took("own", 1, 0.0)
    card.ended("own", 1, 10.0)
    assert closed(card, 11.9) == {"a": OWNER_FIRST, "b": OWNER_FIRST}
    assert card.wake_at(11.0) == 12.0
    assert closed(card, 12.0) == {}


def test_pool_whose_turn_is_over_finishes_and_the_other_has_a_moment_to_take_it(
    card: CardArbiter,
) -> None:
    card.took("a", 2, 0.0)
    assert closed(card, TURN) == {"a": ANOTHERS_TURN, "b": ANOTHER_POOL}
    card.ended("a", 2, TURN + 1)
    assert closed(card, TURN + 1) == {"a": ANOTHERS_TURN}
    card.took("b", 1, TURN + 2)
    assert closed(card, TURN + 2) == {"a": ANOTHER_POOL}


def test_pool_goes_on_where_nobody_else_took_the_card(card: CardArbiter) -> None:
    card.took("a", 1, 0.0)
    card.ended("a", 1, TURN + 1)
    assert closed(card, TURN + 1 + WINDOW) == {}
    card.took("a", 1, TURN + 20)
    assert closed(card, TURN + 21) == {"b": ANOTHER_POOL}  # a new turn


def test_only_pool_is_never_told_to_wait_for_another(card: CardArbiter) -> None:
    card.remove("b", 0.0)
    card.took("a", 1, 0.0)
    assert card.closed("a", 10 * TURN) == ""


def test_link_that_is_gone_holds_nothing(card: CardArbiter) -> None:
    card.took("own", 3, 0.0)
    card.remove("own", 1.0)
    assert card.closed("a", 1.0 + HOLD) == ""


class Anything(RuleBasedStateMachine):
    """Links that take and end images as they may, at any times."""

    def __init__(self) -> None:
        super().__init__()
        self.card = CardArbiter(hold=HOLD, turn=TURN, window=WINDOW)
        self.held = {"own": 0, "a": 0, "b": 0, "c": 0}
        for name in self.held:
            self.card.add(name, own=name == "own")
        self.now = 0.0
        self.own_ended = -math.inf

    @rule(seconds=st.floats(0, 2 * TURN))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(name=st.sampled_from(["own", "a", "b", "c"]), images=st.integers(1, 5))
    def take(self, name: str, images: int) -> None:
        if not self.card.closed(name, self.now):
            self.card.took(name, images, self.now)
            self.held[name] += images

    @precondition(lambda self: any(self.held.values()))
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from([name for name, held in self.held.items() if held]))
        images = data.draw(st.integers(1, self.held[name]))
        self.card.ended(name, images, self.now)
        self.held[name] -= images
        if name == "own" and not self.held["own"]:
            self.own_ended = self.now

    @invariant()
    def owner_is_never_shut_out(self) -> None:
        assert self.card.closed("own", self.now) == ""

    @invariant()
    def nobody_gets_the_card_while_the_owner_has_it(self) -> None:
        if self.held["own"] or self.now < self.own_ended + HOLD:
            assert all(self.card.closed(name, self.now) for name in "abc")
            assert self.card.to_give_back(self.now) == {n for n in "abc" if self.held[n]}
        else:
            assert self.card.to_give_back(self.now) == frozenset()

    @invariant()
    def two_pools_never_have_images_at_once_unless_the_owner_came_between(self) -> None:
        assert sum(bool(self.held[name]) for name in "abc") <= 1

    @invariant()
    def card_that_nobody_holds_is_open_to_some_pool_soon(self) -> None:
        if not any(self.held.values()):
            later = self.now + max(HOLD, WINDOW) + 0.001
            assert not all(self.card.closed(name, later) for name in "abc")

    @invariant()
    def no_pool_keeps_the_card_longer_than_its_turn_and_what_it_holds(self) -> None:
        for name in "abc":
            if self.held[name]:
                assert self.card.closed(name, self.now + TURN)

    @invariant()
    def what_time_changes_is_announced(self) -> None:
        before = [self.card.closed(name, self.now) for name in "abc"]
        wake = self.card.wake_at(self.now)
        assert wake > self.now
        if wake < math.inf:
            just_before = self.now + (wake - self.now) * 0.999
            assert [self.card.closed(name, just_before) for name in "abc"] == before


TestAnything = Anything.TestCase
TestAnything.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
