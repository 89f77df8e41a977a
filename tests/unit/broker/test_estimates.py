"""Moving averages of what was measured."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from foxden_broker.estimates import Estimates, work

Make = Callable[..., Any]


def test_nothing_measured_is_nothing_known(make_request: Make) -> None:
    assert Estimates().seconds("a", make_request()) is None
    assert Estimates().wait(["a"], make_request(), 3) is None
    assert Estimates().wait([], make_request(), 3) is None


def test_measured_once_scales_with_steps_and_pixels(make_request: Make) -> None:
    estimates = Estimates()
    estimates.observe("a", make_request(), 10.0)
    assert estimates.seconds("a", make_request()) == pytest.approx(10)
    assert estimates.seconds("a", make_request(steps=40)) == pytest.approx(20)
    assert estimates.seconds("a", make_request(width=1024, height=1024)) == pytest.approx(40)


def test_cards_and_models_are_measured_apart(make_request: Make, make_model: Make) -> None:
    estimates = Estimates()
    estimates.observe("a", make_request(), 10.0)
    assert estimates.seconds("b", make_request()) is None
    assert estimates.seconds("a", make_request(make_model("other"))) is None


def test_newer_measurements_count_more_and_outliers_fade(make_request: Make) -> None:
    estimates = Estimates()
    estimates.observe("a", make_request(), 100.0)
    for _ in range(20):
        estimates.observe("a", make_request(), 10.0)
    assert estimates.seconds("a", make_request()) == pytest.approx(10, rel=0.01)


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan, math.inf, -math.inf])
def test_impossible_measurement_changes_nothing(seconds: float, make_request: Make) -> None:
    estimates = Estimates()
    estimates.observe("a", make_request(), seconds)
    assert estimates.seconds("a", make_request()) is None
    estimates.observe("a", make_request(), 10.0)
    estimates.observe("a", make_request(), seconds)
    assert estimates.seconds("a", make_request()) == pytest.approx(10)


def test_wait_is_shared_by_the_cards_and_p90_is_later(make_request: Make) -> None:
    estimates = Estimates()
    for card in ("a", "b"):
        estimates.observe(card, make_request(), 10.0)
    one = estimates.wait(["a"], make_request(), 4)
    two = estimates.wait(["a", "b", "unmeasured"], make_request(), 4)
    assert one is not None
    assert two is not None
    assert one[0] == pytest.approx(40)
    assert two[0] == pytest.approx(20)
    assert one[1] > one[0]


def test_steady_measurements_narrow_the_p90(make_request: Make) -> None:
    estimates = Estimates()
    estimates.observe("a", make_request(), 10.0)
    before = estimates.wait(["a"], make_request(), 1)
    for _ in range(10):
        estimates.observe("a", make_request(), 10.0)
    after = estimates.wait(["a"], make_request(), 1)
    assert before is not None
    assert after is not None
    assert after[0] == pytest.approx(before[0])
    assert after[1] < before[1]


def test_work_of_an_incomplete_request_is_never_zero(make_request: Make) -> None:
    assert work(make_request(steps=0, width=0, height=0)) == 1
