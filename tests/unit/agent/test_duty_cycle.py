"""How long an engine rests, on a clock that only moves when it works or rests."""

from __future__ import annotations

import pytest

from foxden_agent.engine.duty_cycle import DutyCycle


class Clock:
    def __init__(self) -> None:
        self.now = 100.0
        self.longest_sleep = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.longest_sleep = max(self.longest_sleep, seconds)
        self.now += seconds


def nothing() -> None:
    """Nobody looks."""


@pytest.mark.parametrize(
    ("share", "worked", "rested"), [(1.0, 3.0, 0.0), (0.5, 3.0, 3.0), (0.25, 2.0, 6.0)]
)
def test_rest_leaves_the_share_that_was_set(share: float, worked: float, rested: float) -> None:
    clock = Clock()
    cycle = DutyCycle(lambda: share, clock, clock.sleep)
    for _ in range(3):
        clock.now += worked
        begun = clock.now
        cycle.rest(nothing, nothing)
        assert clock.now - begun == pytest.approx(rested)
    assert clock.longest_sleep <= 0.02


def test_share_that_is_raised_in_a_rest_ends_it() -> None:
    clock = Clock()
    cycle = DutyCycle(lambda: 0.1 if clock.now < 131.0 else 0.5, clock, clock.sleep)
    clock.now += 30.0
    cycle.rest(nothing, nothing)  # would be 270 s at 0.1, 30 s at 0.5
    assert clock.now == pytest.approx(160.0, abs=0.1)


def test_stop_in_a_rest_takes_effect_at_once() -> None:
    clock = Clock()
    cycle = DutyCycle(lambda: 0.1, clock, clock.sleep)
    clock.now += 30.0

    def look() -> None:
        if clock.now >= 131.0:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        cycle.rest(look, nothing)
    assert clock.now <= 131.05


def test_long_rest_shows_signs_of_life() -> None:
    clock = Clock()
    cycle = DutyCycle(lambda: 0.5, clock, clock.sleep)
    signs: list[float] = []
    clock.now += 10.0
    cycle.rest(nothing, lambda: signs.append(clock.now))
    assert len(signs) in (9, 10)
    clock.now += 0.5
    cycle.rest(nothing, lambda: pytest.fail("a short rest says nothing"))
