"""The scheduler's parts one by one: sums, accounts, estimates, breakers, forecasts, allotments."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foxden_broker.scheduler import backlog
from foxden_broker.scheduler.ahead import Ahead
from foxden_broker.scheduler.estimates import Errors, Estimates
from foxden_broker.scheduler.facts import CardFacts, Outcome
from foxden_broker.scheduler.fairness import Fairness
from foxden_broker.scheduler.outlook import Outlook
from foxden_broker.scheduler.quarantine import FAILURES, LONGEST, PAUSE, Quarantine

from .conftest import LOAD, RUN, Desk, kind

Make = Callable[..., Desk]


@given(st.lists(st.tuples(st.integers(0, 120), st.integers(-3, 5)), max_size=300))
def test_sums_before_a_job_are_those_of_a_plain_count(changes: list[tuple[int, int]]) -> None:
    ahead, plain = Ahead(), dict[str, int]()
    for number, images in changes:
        name = f"j{number}"
        if images == -3:
            ahead.remove(name)
            plain.pop(name, None)
        else:
            ahead.add(name, images, 2.0 * images)
            plain[name] = plain.get(name, 0) + images
    before = 0
    for name, images in plain.items():
        assert ahead.before(name)[0] == before
        before += images
    assert ahead.images == before
    assert len(ahead) == len(plain)


def test_time_away_is_not_saved_up_beyond_the_credit() -> None:
    fairness = Fairness()
    fairness.waits((2, "ann"), 60)
    fairness.waits((2, "bob"), 60)
    fairness.rests((2, "bob"))
    fairness.charge((2, "ann"), 5000)
    fairness.waits((2, "bob"), 60)
    spent = {member: had for had, member in fairness.members(2)}
    assert spent["ann"] - spent["bob"] == 60


def test_what_was_used_alone_is_not_held_against_a_member_beyond_the_credit() -> None:
    fairness = Fairness()
    fairness.waits((2, "ann"), 60)
    fairness.charge((2, "ann"), 5000)
    fairness.rests((2, "ann"))
    fairness.spent[2, "bob"] = 0.0
    fairness._floor[2] = 0.0
    fairness.waits((2, "bob"), 60)
    fairness.waits((2, "ann"), 60)
    spent = {member: had for had, member in fairness.members(2)}
    assert spent["ann"] - spent["bob"] <= 60


# Estimates


def test_an_unknown_card_of_a_known_class_starts_from_its_class() -> None:
    estimates = Estimates()
    for _ in range(5):
        estimates.drew(CardFacts("a", "RTX 4070"), kind(), 1, 4.0)
    assert estimates.seconds(CardFacts("b", "RTX 4070"), kind()) == pytest.approx(4.0)


def test_an_unknown_model_starts_from_the_class_and_its_cost_elsewhere() -> None:
    estimates = Estimates()
    fast, slow = CardFacts("a", "RTX 4090"), CardFacts("b", "RTX 3060")
    for _ in range(8):
        for card, seconds in ((fast, 1.0), (slow, 5.0)):
            estimates.drew(card, kind("m"), 1, seconds)
    estimates.drew(fast, kind("big"), 1, 4.0)
    assert 8 < estimates.seconds(slow, kind("big")) < 40


def test_work_counts_steps_and_pixels() -> None:
    estimates = Estimates()
    card = CardFacts("a", "RTX 4070")
    estimates.drew(card, kind(steps=20), 1, 4.0)
    assert estimates.seconds(card, kind(steps=40)) == pytest.approx(8.0)
    assert estimates.seconds(card, kind(side=1024)) == pytest.approx(16.0)


def test_averages_follow_a_card_that_got_slower() -> None:
    estimates = Estimates()
    card = CardFacts("a", "RTX 4070")
    for _ in range(10):
        estimates.drew(card, kind(), 1, 4.0)
    for _ in range(10):
        estimates.drew(card, kind(), 1, 8.0)
    assert estimates.seconds(card, kind()) == pytest.approx(8.0, rel=0.1)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf"), 1e9])
def test_a_senseless_measurement_is_ignored(seconds: float) -> None:
    estimates = Estimates()
    card = CardFacts("a", "RTX 4070")
    before = estimates.seconds(card, kind())
    estimates.drew(card, kind(), 1, seconds)
    assert estimates.seconds(card, kind()) == before


def test_loading_starts_from_the_size_and_is_learnt() -> None:
    estimates = Estimates()
    card = CardFacts("a", "RTX 4070")
    assert estimates.load(card, "m", 10**10) > estimates.load(card, "m", 10**9) > 0
    estimates.loaded(card, "m", 33.0)
    assert estimates.load(card, "m") == pytest.approx(33.0)


def test_error_quantiles_cover_what_they_say() -> None:
    errors, random_ = Errors(), random.Random(1)
    for _ in range(400):
        errors.take("k", 10.0, 10.0 * random_.lognormvariate(0, 0.3))
    most = errors.quantile("k", 0.9)
    assert most is not None
    covered = sum(random_.lognormvariate(0, 0.3) <= most for _ in range(1000))
    assert 840 <= covered <= 950
    assert errors.quantile("other", 0.9) is None


# Quarantine


def fail(quarantine: Quarantine, now: float, *jobs: str) -> None:
    for job in jobs:
        quarantine.failed("x", "m", job, now)


def test_failures_of_two_jobs_open_the_breaker_and_a_success_closes_it() -> None:
    quarantine = Quarantine()
    fail(quarantine, 0.0, *"ab" * FAILURES)
    assert quarantine.until("x") == PAUSE
    assert quarantine.probing("x")
    quarantine.done("x", "m")
    assert quarantine.until("x") < 0
    assert not quarantine.probing("x")


def test_each_failed_probe_doubles_the_pause_up_to_the_longest() -> None:
    quarantine = Quarantine()
    fail(quarantine, 0.0, "a", "b", "c")
    pauses = []
    for _ in range(12):
        now = quarantine.until("x")
        fail(quarantine, now, "d")
        pauses.append(quarantine.until("x") - now)
    assert pauses[:3] == [2 * PAUSE, 4 * PAUSE, 8 * PAUSE]
    assert pauses[-1] == LONGEST


def test_another_model_closes_the_card_but_not_the_pair() -> None:
    quarantine = Quarantine()
    fail(quarantine, 0.0, "a", "b", "c")
    quarantine.done("x", "other")
    assert quarantine.until("x") < 0
    assert quarantine.until("x", "m") == PAUSE
    assert list(quarantine.cards_kept_from("m")) == ["x"]
    quarantine.forget("x")
    assert not quarantine.cards_kept_from("m")


# Outlook


def test_position_counts_what_goes_before_and_falls_as_it_goes(desk: Desk) -> None:
    desk.card("x", "m")
    desk.job("a", 3)
    desk.job("b", 2)
    outlook = Outlook(desk.state)
    assert outlook.place("a", 0.0).position == 0
    assert outlook.place("b", 0.0).position == 3
    desk.plan()
    assert outlook.place("b", 0.0).position == 2
    assert outlook.place("nobody", 0.0).position == 0


def test_position_counts_no_more_of_another_member_than_its_fair_share(desk: Desk) -> None:
    desk.card("x", "m")
    desk.job("big", 100, member="ann")
    desk.job("mine", 5, member="bob")
    desk.job("mine too", 1, member="bob")
    assert Outlook(desk.state).place("mine too", 0.0).position <= 11


def test_a_short_queue_is_told_what_the_plan_expects(desk: Desk) -> None:
    desk.card("x", "m")
    desk.job("a", 2)
    desk.job("b", 1)
    place = Outlook(desk.state).place("b", 0.0)
    assert place.p50 == pytest.approx(3 * RUN, rel=0.05)
    assert place.p90 is not None
    assert place.p90 > place.p50


def test_a_cold_pool_is_told_with_the_loading(desk: Desk) -> None:
    desk.card("x", "n")
    desk.job("a", 1)
    assert Outlook(desk.state).place("a", 0.0).p50 == pytest.approx(LOAD + RUN, rel=0.05)


def test_far_behind_the_head_the_sum_is_told(desk: Desk) -> None:
    desk.card("x", "m")
    for number in range(400):
        desk.job(f"j{number}")
    place = Outlook(desk.state).place("j399", 0.0)
    assert place.position == 399
    assert place.p50 == pytest.approx(400 * RUN, rel=0.1)


def test_nobody_can_tell_where_there_is_no_card_at_all(desk: Desk) -> None:
    desk.job("a", 1)
    assert Outlook(desk.state).place("a", 0.0).p50 is None


def test_nobody_can_tell_where_no_card_can_run_it(make_desk: Make) -> None:
    desk = make_desk(lambda card_id, kind: False)
    desk.card("x", "m")
    desk.job("a")
    assert Outlook(desk.state).place("a", 0.0).p50 is None


def test_the_outlook_learns_from_how_long_jobs_really_took(desk: Desk) -> None:
    desk.card("x", "m")
    outlook = Outlook(desk.state)
    for number in range(30):
        desk.job(f"j{number}")
        outlook.place(f"j{number}", desk.now)
        desk.plan()
        desk.now += 2 * RUN  # twice as long, each time; the estimates must not follow
        desk.state.image_ended(f"j{number}", 0, desk.now, Outcome.DONE, run_seconds=RUN)
    desk.job("next")
    assert outlook.place("next", desk.now).p50 == pytest.approx(2 * RUN, rel=0.1)


# The linear programme


def test_allotments_cover_every_image_and_nothing_that_a_card_cannot(make_desk: Make) -> None:
    pytest.importorskip("scipy")
    desk = make_desk(lambda card_id, kind: not (card_id == "c0" and kind.model == "n"))
    for number in range(5):
        desk.card(f"c{number}", speed=1.0 + number)
    desk.job("a", 90)
    desk.job("b", 40, model="n")
    question = backlog.ask(desk.state, desk.now)
    assert question is not None
    answer = backlog.solve(question)
    assert sum(models.get("m", 0) for models in answer.values()) == 90
    assert sum(models.get("n", 0) for models in answer.values()) == 40
    assert "n" not in answer["c0"]
    assert sum(answer["c4"].values()) > sum(answer["c0"].values())


def test_many_cards_are_planned_in_groups_and_every_image_is_covered(desk: Desk) -> None:
    pytest.importorskip("scipy")
    for number in range(120):
        desk.card(f"c{number}", "m" if number % 2 else "", speed=1.0 + number % 3)
    desk.job("a", 700)
    desk.job("b", 300, model="n")
    question = backlog.ask(desk.state, desk.now)
    assert question is not None
    answer = backlog.solve(question)
    assert sum(sum(models.values()) for models in answer.values()) == 1000


def test_a_deep_queue_asks_for_allotments_and_a_shallow_one_does_not(desk: Desk) -> None:
    desk.card("x", "m")
    desk.job("a", 5)
    assert not desk.state.wants_allotments(0.0, 5 * RUN)
    assert desk.state.wants_allotments(0.0, 500.0)
    desk.state.use_allotments({"x": {"m": 5}}, 0.0)
    assert not desk.state.wants_allotments(100.0, 500.0), "what it said covers the queue"


def test_forecast_outlives_models_that_came_to_a_card_after_it(desk: Desk) -> None:
    desk.card("x", "m")
    desk.job("c", model="m")
    outlook = Outlook(desk.state)
    assert outlook.place("c", desk.now).p50
    for model in ("n", "o", "p"):
        desk.state.card_loaded("x", [model], desk.now)
    desk.job("d", model="p")
    assert outlook.place("d", desk.now + 0.5).p50


def test_forecast_lacks_a_new_job_where_many_wait_it_is_told_from_the_plan(desk: Desk) -> None:
    desk.card("x", "m")
    for number in range(80):
        desk.job(f"j{number}")
    outlook = Outlook(desk.state)
    before = outlook.place("j79", 0.0).p50
    desk.job("new")
    after = outlook.place("new", 0.1).p50
    said = desk.state.jobs["new"].said
    assert said is not None
    assert isinstance(said[2], tuple)
    assert said[2][0] == "near"
    assert before is not None
    assert after == pytest.approx(before + RUN, rel=0.02)


def test_far_behind_cheap_work_a_dear_model_is_told_what_the_cheap_work_costs(desk: Desk) -> None:
    desk.card("x", "m")
    facts = desk.state.table.cards["x"].facts
    dear = kind("dear")
    desk.state.estimates.prime(facts.card_class, dear, 10 * RUN)
    desk.job("many", 400)
    desk.job("last", kind=dear)
    p50 = Outlook(desk.state).place("last", 0.0).p50
    assert p50 is not None
    assert 400 * RUN < p50 < 500 * RUN
