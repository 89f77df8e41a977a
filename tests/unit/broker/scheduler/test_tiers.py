"""Where a model lies decides what setting it up costs, and what a card is told to fetch ahead."""

from __future__ import annotations

import math
from typing import Any

import pytest

from foxden_broker.scheduler.estimates import Estimates
from foxden_broker.scheduler.facts import CardFacts, Outcome
from foxden_broker.scheduler.prefetch import next_model

FACTS = CardFacts("a", "RTX 4070")


def test_from_ram_is_never_slower_than_from_disk() -> None:
    estimates = Estimates()
    for size in (0, 10**6, 10**10):
        disk = estimates.load(FACTS, "m", size)
        assert 0 < estimates.load(FACTS, "m", size, in_ram=True) < disk
    estimates.loaded(FACTS, "m", 9.0, from_ram=True)
    estimates.loaded(FACTS, "m", 4.0)
    assert estimates.load(FACTS, "m") == pytest.approx(4.0)
    assert estimates.load(FACTS, "m", in_ram=True) == pytest.approx(4.0)


def test_what_ram_and_disk_take_is_learnt_apart_and_by_class() -> None:
    estimates = Estimates()
    estimates.loaded(FACTS, "m", 20.0)
    estimates.loaded(FACTS, "m", 2.0, from_ram=True)
    sister = CardFacts("b", "RTX 4070")
    assert estimates.load(sister, "m") == pytest.approx(20.0)
    assert estimates.load(sister, "m", in_ram=True) == pytest.approx(2.0)


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf, 1e9])
def test_a_senseless_load_time_teaches_nothing(desk: Any, seconds: float) -> None:
    desk.card("c")
    card = desk.state.table.cards["c"]
    before = desk.state.table.load(card, "m", 10**9)
    desk.state.model_loaded("c", "m", seconds, desk.now, from_ram=False)
    assert desk.state.table.load(card, "m", 10**9) == before
    desk.state.model_loaded("unknown card", "m", 1.0, desk.now, from_ram=False)


def test_image_goes_to_the_card_that_has_its_model_in_ram(desk: Any) -> None:
    desk.card("cold")
    desk.card("warm", in_ram=["m"])
    desk.job("j")
    assert desk.plan() == ["j0>warm"]
    batch = desk.state.table.cards["warm"].held[0]
    assert 0 < batch.setup < 10.0


def test_heartbeat_that_moves_a_model_to_ram_changes_what_it_costs(desk: Any) -> None:
    desk.card("c", loaded="m")
    card = desk.state.table.cards["c"]
    of = desk.state.table.setups
    desk.job("j")
    kind = desk.state.jobs["j"].facts.kind
    assert of(kind)[0][card.row] == 0
    desk.state.card_loaded("c", ["n"], desk.now, in_ram=["m"])
    assert 0 < of(kind)[0][card.row] < 10.0
    desk.state.card_loaded("c", ["n"], desk.now)
    assert of(kind)[0][card.row] == pytest.approx(10.0)


def test_load_that_the_card_measured_is_not_guessed_again_from_its_batch(desk: Any) -> None:
    desk.card("c")
    desk.job("j")
    desk.plan()
    state = desk.state
    state.image_started("j", 0, desk.now)
    state.model_loaded("c", "m", 3.0, desk.now, from_ram=False)
    card = state.table.cards["c"]
    told = state.table.load(card, "m", 0)
    desk.now += 60.0
    state.image_ended("j", 0, desk.now, Outcome.DONE, load_seconds=55.0, run_seconds=5.0)
    assert state.table.load(card, "m", 0) == told
    assert "m" in card.loaded


def test_staged_batch_of_another_model_is_hinted_at_once(desk: Any) -> None:
    desk.card("c", loaded="m")
    desk.job("first")
    desk.plan()
    assert next_model(desk.state, "c", desk.now) is None
    desk.job("second", model="n")
    desk.state.image_started("first", 0, desk.now)
    desk.now += 4.0
    assert desk.plan() == ["second0>c~"]
    assert next_model(desk.state, "c", desk.now) == "n"
    assert next_model(desk.state, "c", desk.now) is None, "it was said"


def test_staged_batch_of_a_model_in_memory_is_no_reason_for_a_hint(desk: Any) -> None:
    desk.card("c", loaded="m", in_ram=["n"])
    desk.job("first")
    desk.plan()
    desk.job("second", model="n")
    desk.now += 4.0
    assert desk.plan() == ["second0>c~"]
    assert next_model(desk.state, "c", desk.now) is None


def test_allotted_model_is_hinted_when_no_more_of_the_running_one_is_to_come(desk: Any) -> None:
    desk.card("c", loaded="m")
    desk.job("first", images=2)
    desk.job("other", model="n", images=2)
    desk.state.use_allotments({"c": {"m": 2, "n": 2}}, desk.now)
    desk.plan()
    assert next_model(desk.state, "c", desk.now) is None, "one more of m comes first"
    desk.now += 5.0
    desk.end("c")
    desk.plan()
    assert desk.state.planned.of("c") == {"n": 2}
    assert next_model(desk.state, "c", desk.now) == "n"
    desk.state.card_gone("c", desk.now)
    assert next_model(desk.state, "c", desk.now) is None
    assert next_model(desk.state, "unknown", desk.now) is None
