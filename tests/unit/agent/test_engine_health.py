"""When an engine is replaced and when its card is suspected."""

from __future__ import annotations

from foxden_agent.engine_health import EngineHealth


def test_one_bad_answer_x_keeps_the_engine_a_second_in_a_row_does_not() -> None:
    health = EngineHealth(300)
    assert not health.answered_badly()
    health.drew()
    assert not health.answered_badly()
    assert health.answered_badly()


def test_new_engine_x_starts_with_a_clean_count() -> None:
    health = EngineHealth(300)
    health.answered_badly()
    health.replaced(0.0)
    assert not health.answered_badly()


def test_third_engine_lost_within_the_window_x_puts_the_card_under_suspicion() -> None:
    health = EngineHealth(300)
    assert [health.replaced(now) for now in (0.0, 100.0, 300.0)] == [False, False, True]


def test_engines_lost_now_and_then_x_are_no_reason_to_suspect_the_card() -> None:
    health = EngineHealth(300)
    assert not any(health.replaced(now) for now in (0.0, 200.0, 301.0, 600.0, 900.0))


def test_engines_replaced_for_lack_of_memory_x_do_not_count() -> None:
    health = EngineHealth(300)
    assert not any(health.replaced(float(now), counts=False) for now in range(9))
    assert [health.replaced(10.0 + now) for now in range(3)] == [False, False, True]
