"""Whole numbers of a plan, bettered; and the last stretch of a batch of work, which follows it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from foxden_broker.scheduler import backlog
from foxden_broker.scheduler.facts import Outcome
from foxden_broker.scheduler.polish import Shares, fit, polish

from .conftest import RUN, Desk

Make = Callable[..., Desk]


def shares(taken: list[list[int]], run: list[list[float]], setup: float = 10.0) -> Shares:
    cards = len(taken[0])
    return Shares(
        np.zeros(cards), np.array(run, dtype=float), np.full((len(taken), cards), setup),
        np.array(taken),
    )  # fmt: skip


def test_the_last_card_gives_images_to_one_that_ends_sooner() -> None:
    plan = shares([[8, 2]], [[5, 5]])
    polish(plan, 10)
    assert plan.taken.tolist() == [[5, 5]]


def test_two_models_on_two_cards_change_places_and_spare_their_loads() -> None:
    plan = shares([[4, 4], [4, 4]], [[5, 5], [5, 5]])
    polish(plan, 20)
    assert sorted(plan.taken.sum(axis=0).tolist()) == [8, 8]
    assert np.count_nonzero(plan.taken) == 2, "each card has one model"


def test_two_images_change_places_where_neither_could_be_given() -> None:
    plan = shares([[1, 0], [0, 1]], [[20, 12], [10, 9]], setup=0.0)
    polish(plan, 20)
    assert plan.taken.tolist() == [[0, 1], [1, 0]]


def test_a_slight_gain_is_not_worth_a_load() -> None:
    plan = shares([[5, 0]], [[5, 5]])
    plan.setup[0] = 0.0, 19.0
    polish(plan, 10)  # 25 -> 24 s at best: a fifth of 19 s is more
    assert plan.taken.tolist() == [[5, 0]]
    plan.setup[0] = 0.0, 10.0
    polish(plan, 10)
    assert plan.taken.tolist() == [[3, 2]] or plan.taken.tolist() == [[4, 1]]


def test_missing_images_are_placed_and_surplus_and_impossible_ones_taken_away() -> None:
    plan = shares([[9, 3, 4], [0, 2, 0]], [[5, 5, np.inf], [5, 5, 5]])
    fit(plan, np.array([8, 6]))
    assert plan.taken.sum(axis=1).tolist() == [8, 6]
    assert plan.taken[0, 2] == 0


@pytest.mark.parametrize("seed", range(20))
def test_any_plan_polished_has_the_same_images_and_ends_no_later(seed: int) -> None:
    numbers = np.random.default_rng(seed)
    models, cards = random.Random(seed).randint(1, 6), random.Random(seed + 1).randint(1, 12)
    run = numbers.uniform(1, 30, (models, cards))
    run[:, 1:][numbers.random((models, cards - 1)) < 0.2] = np.inf
    taken = np.where(np.isfinite(run), numbers.integers(0, 9, (models, cards)), 0)
    plan = Shares(numbers.uniform(0, 20, cards), run, numbers.uniform(0, 25, run.shape), taken)
    images, before = taken.sum(axis=1), plan.end()
    polish(plan, 200)
    assert plan.taken.sum(axis=1).tolist() == images.tolist()
    assert (plan.taken >= 0).all()
    assert not plan.taken[~np.isfinite(run)].any()
    assert plan.end() <= before + 1e-6


# The last stretch


def planned(desk: Desk, allotments: dict[str, dict[str, int]]) -> None:
    desk.state.use_allotments(allotments, desk.now)


def test_a_card_without_an_allotment_takes_nothing_from_others_at_the_end(desk: Desk) -> None:
    desk.card("fast", "m")
    desk.card("slow", "m", speed=0.25)
    desk.job("a", 8)
    planned(desk, {"fast": {"m": 8}})
    assert desk.plan() == ["a0>fast"]
    assert desk.now < desk.wake_at <= desk.now + desk.state.settings.end_every


def test_the_last_image_of_a_card_is_not_staged(desk: Desk) -> None:
    desk.card("x", "m")
    desk.job("a", 2)
    planned(desk, {"x": {"m": 2}})
    desk.plan()
    desk.now = RUN - 0.1
    assert desk.plan() == []
    desk.now = RUN
    desk.end("x")
    assert desk.plan() == ["a1>x"]


def test_an_image_that_may_not_run_where_it_was_planned_goes_elsewhere(desk: Desk) -> None:
    desk.card("x", "m", speed=4.0)
    desk.card("y", "m")
    desk.job("a", 1)
    planned(desk, {"x": {"m": 1}})
    assert desk.plan() == ["a0>x"]
    desk.end("x", Outcome.FAILED, waits=True)
    planned(desk, {"x": {"m": 1}})
    assert desk.plan() == ["a0>y"]


def test_urgent_work_is_not_held_to_the_plan(desk: Desk) -> None:
    desk.card("x", "m")
    desk.card("y", "m")
    desk.job("a", 10)
    planned(desk, {"x": {"m": 10}})
    desk.job("now", 1, priority=1)
    assert {"now0>x", "now0>y"} & set(desk.plan())


def test_a_plan_that_is_asked_for_in_vain_is_no_longer_followed(desk: Desk) -> None:
    desk.card("fast", "m", speed=2.0)
    desk.card("slow", "m")
    desk.job("a", 8)
    planned(desk, {"fast": {"m": 8}})
    desk.plan()
    for _ in range(4):
        backlog.ask(desk.state, desk.now)
    assert desk.plan() == ["a1>slow"]


def test_new_jobs_end_the_last_stretch(desk: Desk) -> None:
    desk.card("fast", "m", speed=2.0)
    desk.card("slow", "m")
    desk.job("a", 5)
    planned(desk, {"fast": {"m": 5}})
    desk.plan()
    desk.job("b", 4)
    assert desk.plan() == ["a1>slow"]


def test_the_end_of_a_planned_batch_asks_again_and_is_bettered(make_desk: Make) -> None:
    pytest.importorskip("scipy")
    desk: Any = make_desk()
    desk.card("x", "m")
    desk.card("y", "m")
    desk.job("a", 9)
    planned(desk, {"x": {"m": 9}})
    desk.plan()
    desk.now = 3.0
    assert desk.state.wants_allotments(desk.now, 20.0)
    question = backlog.ask(desk.state, desk.now)
    assert question is not None
    assert question.taken is not None
    answer = backlog.solve(question)
    assert answer["x"]["m"] + answer["y"]["m"] == 8
    assert answer["y"]["m"] >= 4
    assert not desk.state.wants_allotments(desk.now + 1, 20.0), "not twice at once"


def test_jobs_that_come_after_the_plan_are_no_part_of_its_batch(desk: Desk) -> None:
    desk.card("x", "m")
    desk.job("a", 20)
    planned(desk, {"x": {"m": 20}})
    assert desk.state.planned.covers(desk.now, 20)
    desk.job("b", 2)
    assert desk.state.planned.covers(desk.now, 22)
    desk.job("c", 1)
    assert not desk.state.planned.covers(desk.now, 20), "whatever is left of them"


def test_what_is_left_of_a_cancelled_batch_does_not_bind_the_next_job(desk: Desk) -> None:
    desk.card("fast", "m", speed=1.0)
    desk.card("slow", "m", speed=0.9)
    desk.job("a", 8)
    planned(desk, {"fast": {"m": 8}})
    desk.plan()
    desk.state.job_cancelled("a", desk.now)
    desk.job("b", 5)
    assert desk.plan() == ["b0>slow"]
