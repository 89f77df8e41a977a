"""plan(): one rule at a time."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from foxden_broker.scheduler.facts import BULK, INTERACTIVE, CardFacts, JobFacts, Outcome
from foxden_broker.scheduler.planning import plan

from .conftest import LOAD, RUN, Desk, kind

Make = Callable[..., Desk]


def test_nothing_waits_nothing_is_given_and_nobody_wakes(desk: Desk) -> None:
    desk.card("x")
    assert desk.plan() == []
    assert desk.wake_at == math.inf


def test_images_of_a_job_fan_out_over_idle_cards(desk: Desk) -> None:
    for name in "xyz":
        desk.card(name, "m")
    desk.job("j", 3)
    assert sorted(desk.plan()) == ["j0>x", "j1>y", "j2>z"]


def test_a_warm_card_goes_before_a_cold_one(desk: Desk) -> None:
    desk.card("cold", "n")
    desk.card("warm", "m")
    desk.job("j")
    assert desk.plan() == ["j0>warm"]


def test_a_busy_warm_card_that_ends_sooner_than_a_load_is_waited_for(desk: Desk) -> None:
    desk.card("warm", "m")
    desk.job("first")
    desk.plan()
    desk.card("cold", "n")
    desk.job("second")
    assert desk.plan() == []  # RUN more on the warm card is less than LOAD on the cold one
    assert desk.wake_at < RUN
    desk.now = RUN - 1.0
    assert desk.plan() == ["second0>warm~"]


def test_a_cold_card_is_used_where_the_queue_before_the_warm_one_is_longer(desk: Desk) -> None:
    desk.card("warm", "m")
    desk.card("cold", "n")
    desk.job("j", 6)
    assert "j3>cold" in desk.plan() or desk.gives[-1].card_id == "cold"


def test_a_faster_card_goes_before_a_slow_one_with_equal_set_up(desk: Desk) -> None:
    desk.card("slow", "m")
    desk.card("fast", "m", speed=3)
    desk.job("j")
    assert desk.plan() == ["j0>fast"]


def test_priority_classes_go_in_order_then_age(desk: Desk) -> None:
    desk.job("bulk", priority=BULK)
    desk.job("old")
    desk.now = 1.0
    desk.job("young")
    desk.job("urgent", priority=INTERACTIVE)
    desk.card("x", "m")
    order = []
    for _ in range(4):
        order += desk.plan()
        desk.now += RUN
        desk.end("x")
    assert [give.split(">")[0] for give in order] == ["urgent0", "old0", "young0", "bulk0"]


def test_one_running_and_one_staged_batch_and_no_more(desk: Desk) -> None:
    desk.card("x", "m")
    desk.job("j", 5)
    assert desk.plan() == ["j0>x"]
    desk.now = RUN - 0.5
    assert desk.plan() == ["j1>x~"]
    desk.now = RUN + 1
    assert desk.plan() == []


def test_the_next_batch_is_staged_only_shortly_before_the_end(desk: Desk) -> None:
    desk.card("x", "m")
    desk.job("j", 2)
    desk.plan()
    assert 0 < desk.wake_at < RUN
    desk.now = desk.wake_at - 0.01
    assert desk.plan() == []
    desk.now = desk.wake_at
    assert desk.plan() == ["j1>x~"]


def test_the_last_image_is_not_staged_where_an_idle_card_ends_it_sooner(desk: Desk) -> None:
    desk.card("x", "m")
    desk.job("j", 2)
    desk.plan()
    desk.now = RUN - 1.0
    desk.card("idle", "m", speed=2)
    assert desk.plan() == ["j1>idle"]


def test_a_card_that_does_not_accept_or_is_gone_gets_nothing(desk: Desk) -> None:
    desk.card("x", "m", accepting=False)
    desk.job("j")
    assert desk.plan() == []
    desk.state.card_accepts("x", True, desk.now)
    desk.state.card_gone("x", desk.now)
    assert desk.plan() == []
    desk.card("x", "m")
    assert desk.plan() == ["j0>x"]


def test_an_image_that_nobody_can_run_does_not_hold_up_others(make_desk: Make) -> None:
    desk = make_desk(lambda card_id, kind: kind.model != "n")
    desk.card("x", "m")
    desk.job("never", model="n")
    desk.job("j")
    assert desk.plan() == ["j0>x"]


def test_a_failed_image_avoids_its_card_while_another_can_run_it(desk: Desk) -> None:
    desk.card("bad", "m", speed=9)
    desk.card("good", "m")
    desk.job("j")
    assert desk.plan() == ["j0>bad"]
    desk.end("bad", Outcome.FAILED, waits=True)
    assert desk.plan() == ["j0>good"]


def test_a_failed_image_waits_ten_minutes_for_another_card_that_is_away(desk: Desk) -> None:
    desk.card("bad", "m")
    desk.card("good", "m")
    desk.state.card_gone("good", desk.now)
    desk.job("j")
    desk.plan()
    desk.end("bad", Outcome.FAILED, waits=True)
    desk.now = 599.0
    assert desk.plan() == []
    desk.now = 601.0
    assert desk.plan() == ["j0>bad"]


def test_a_failed_image_waits_ten_minutes_for_another_card_that_takes_no_work(desk: Desk) -> None:
    desk.card("failing", "m")
    desk.card("in a game", "m")
    desk.state.card_accepts("in a game", False, desk.now)
    desk.job("j")
    assert desk.plan() == ["j0>failing"]
    desk.state.image_ended("j", 0, desk.now, Outcome.FAILED, waits=True)
    assert desk.plan() == []
    assert plan(desk.state, desk.now).wake_at == pytest.approx(600.0)
    desk.now = 600.0
    assert desk.plan() == ["j0>failing"]


def test_a_failed_image_goes_back_to_the_only_card(desk: Desk) -> None:
    desk.card("only", "m")
    desk.job("j")
    desk.plan()
    desk.end("only", Outcome.FAILED, waits=True)
    assert desk.plan() == ["j0>only"]


# Fairness and age


def test_who_has_had_least_goes_first_whatever_the_age(desk: Desk) -> None:
    desk.card("x", "m")
    desk.job("big", 50, member="ann")
    desk.run(10 * RUN)
    desk.job("small", member="bob")
    desk.run(3 * RUN)
    assert ("small", 0) in desk.done


def test_two_members_share_alike_whatever_they_ask_for(desk: Desk) -> None:
    desk.card("x", "m")
    desk.job("big", 200, member="ann")
    desk.job("less", 40, member="bob")
    desk.run(60 * RUN)
    had = [sum(image[0] == job for image in desk.done) for job in ("big", "less")]
    assert abs(had[0] - had[1]) <= 8, had


def test_bulk_work_past_its_age_limit_starts_in_spite_of_endless_interactive_work(
    make_desk: Make,
) -> None:
    desk = make_desk(age_limits={1: math.inf, 2: math.inf, 3: 20 * RUN})
    desk.card("x", "m")
    desk.job("bulk", 3, priority=BULK, member="bob")
    for number in range(40):
        desk.job(f"now{number}-", 1, priority=INTERACTIVE)
        desk.run(RUN)
    assert [image for image in desk.done if image[0] == "bulk"], "starved"
    urgent = sum(image[0].startswith("now") for image in desk.done)
    assert urgent >= 0.7 * len(desk.done), "what is late takes its share, not everything"


def test_bulk_work_within_its_age_limit_waits_for_interactive_work(desk: Desk) -> None:
    desk.card("x", "m")
    desk.job("bulk", priority=BULK, member="bob")
    desk.job("now", 8, priority=INTERACTIVE)
    desk.run(7 * RUN)
    assert ("bulk", 0) not in desk.done


# Models


def test_a_deep_queue_of_two_models_switches_seldom(desk: Desk) -> None:
    for name in "wxyz":
        desk.card(name)
    for number in range(60):
        desk.job(f"m{number}-", model="m")
        desk.job(f"n{number}-", model="n")
    desk.run(2000.0)
    assert len(desk.done) == 120
    loads = 0
    last: dict[str, str] = {}
    for give in desk.gives:
        loads += last.get(give.card_id) != give.model
        last[give.card_id] = give.model
    assert loads <= 10


def test_a_card_keeps_a_model_that_is_wanted_for_two_load_times(desk: Desk) -> None:
    desk.card("x", "n")
    desk.job("a", 1)
    desk.plan()
    desk.now = LOAD + RUN
    desk.end("x")
    desk.job("b", 1, model="n")  # the older one
    desk.now += 0.1
    desk.job("c", 1)
    said = desk.plan()
    assert said[0] == "c0>x", said


# Batches


def test_compatible_images_of_several_jobs_ride_together_where_cards_are_few(desk: Desk) -> None:
    desk.card("x", "m", together=4)
    desk.job("a", 2)
    desk.job("b", 2, member="bob")
    assert len(desk.plan()) == 1
    assert {job for job, _ in desk.gives[0].images} == {"a", "b"}
    assert len(desk.gives[0].images) == 4


def test_images_are_not_bundled_while_a_card_would_stand_idle(desk: Desk) -> None:
    for name in "wxyz":
        desk.card(name, "m", together=4)
    desk.job("j", 4)
    assert sorted(desk.plan()) == ["j0>w", "j1>x", "j2>y", "j3>z"]


def test_images_of_another_size_do_not_ride_along(desk: Desk) -> None:
    desk.card("x", "m", together=4)
    desk.job("a", 1)
    desk.job("b", 1, kind=kind("m", side=768))
    desk.plan()
    assert len(desk.gives[0].images) == 1


def test_images_are_not_bundled_where_it_was_measured_not_to_pay(desk: Desk) -> None:
    desk.card("x", "m", together=4)
    facts = CardFacts("x", "class-1.0", most_together=4)
    for _ in range(9):
        desk.state.estimates.drew(facts, kind(), 4, 4.1 * RUN)
    desk.job("j", 4)
    desk.plan()
    assert len(desk.gives[0].images) == 1


def test_a_batch_lasts_no_longer_than_its_limit(desk: Desk) -> None:
    desk.card("x", "m", together=64)
    desk.job("j", 64)
    desk.plan()
    size = len(desk.gives[0].images)
    assert size > 1
    assert desk.state.table.cards["x"].held[0].run <= desk.state.settings.batch_seconds


# Deadlines


def test_what_cannot_be_done_in_time_expires_with_the_reason_and_never_starts(desk: Desk) -> None:
    desk.card("x", "m")
    desk.job("late", deadline=RUN - 1)
    desk.job("fine", deadline=3 * RUN)
    assert desk.plan() == ["fine0>x"]
    assert [e.job_id for e in desk.expired] == ["late"]
    assert "deadline" in desk.expired[0].reason


def test_a_deadline_passes_in_the_queue_the_image_expires_then(desk: Desk) -> None:
    desk.card("x", "m")
    desk.job("long", 3)
    desk.job("late", deadline=1.5 * RUN)
    desk.run(2 * RUN)
    assert [e.job_id for e in desk.expired] == ["late"]


def test_a_deadline_without_measurements_expires_only_when_it_is_over(desk: Desk) -> None:
    desk.state.card_here(CardFacts("new", "never seen"), 0.0)
    desk.state.card_accepts("new", False, 0.0)
    facts = JobFacts("j", "ann", kind("unknown"), 0.0, deadline=0.5)
    desk.state.add_job(facts, [0], 0.0)
    assert plan(desk.state, 0.4).actions == ()
    assert [a.job_id for a in plan(desk.state, 0.6).actions] == ["j"]  # type: ignore[union-attr]


# Cards that misbehave


def test_a_card_that_refuses_is_left_alone_for_a_while_not_asked_again_at_once(desk: Desk) -> None:
    desk.card("x", "m")
    desk.job("j")
    desk.plan()
    desk.end("x", Outcome.REFUSED, waits=True)
    assert desk.plan() == []
    assert desk.now < desk.wake_at < desk.now + 10
    desk.now = desk.wake_at
    assert desk.plan() == ["j0>x"]


def test_three_failures_of_two_jobs_pause_the_card_then_one_probe(desk: Desk) -> None:
    desk.card("x", "m")
    desk.job("a", 2)
    desk.job("b", 2)
    for _ in range(3):
        desk.plan()
        desk.end("x", Outcome.FAILED)
    assert desk.plan() == []
    desk.now = desk.wake_at
    assert len(desk.plan()) == 1  # the probe; nothing is staged behind it
    desk.now += RUN - 0.1
    desk.job("c", 1)
    assert desk.plan() == []
    desk.now += 0.1
    desk.end("x")
    assert desk.plan() == ["c0>x"]


def test_a_poisonous_job_alone_does_not_pause_the_card(desk: Desk) -> None:
    desk.card("x", "m")
    desk.job("poison", 4)
    for _ in range(4):
        assert desk.plan()
        desk.end("x", Outcome.FAILED)


def test_a_round_is_bounded_and_asks_to_be_called_again(make_desk: Make) -> None:
    desk = make_desk(most_gives=4)
    for number in range(9):
        desk.card(f"c{number}", "m")
    desk.job("j", 9)
    first = plan(desk.state, 0.0)
    assert len(first.actions) == 4
    assert first.wake_at == 0.0
    assert len(desk.plan()) == 9


def test_what_the_store_did_not_lease_goes_back_to_the_queue(desk: Desk) -> None:
    desk.card("x", "m")
    desk.job("j")
    desk.plan()
    desk.state.not_given("j", 0, desk.now, waits=True)
    assert desk.plan() == ["j0>x"]
    desk.state.not_given("j", 0, desk.now, waits=False)
    assert desk.plan() == []
    assert not desk.state.jobs
