"""Who is on the way in: places × who comes → who has to go."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from foxden_broker.joining.arriving import Arriving

HERE, THERE = "10.0.0.7", "10.0.0.8"


def test_there_is_room_for_so_many_and_again_when_one_has_left() -> None:
    arriving: Arriving[int] = Arriving(2)
    assert [arriving.comes(one, HERE) for one in (1, 2, 3)] == [None, None, 3]
    arriving.leaves(1)
    arriving.leaves(1)
    assert arriving.comes(4, HERE) is None


def test_oldest_of_the_address_that_has_most_makes_room_for_another_address() -> None:
    arriving: Arriving[int] = Arriving(4)
    for one in (1, 2, 3, 4):
        arriving.comes(one, HERE)
    assert [arriving.comes(one, THERE) for one in (5, 6, 7)] == [1, 2, 7]


def test_who_has_proved_itself_keeps_its_place() -> None:
    arriving: Arriving[int] = Arriving(3)
    for one in (1, 2, 3):
        arriving.comes(one, HERE)
    arriving.proved(1)
    assert [arriving.comes(one, THERE) for one in (4, 5)] == [2, 5]
    arriving.proved(3)
    arriving.proved(4)
    assert arriving.comes(6, "10.0.0.9") == 6


def test_who_had_to_go_is_not_let_in_again_by_a_late_proof() -> None:
    arriving: Arriving[int] = Arriving(2)
    arriving.comes(1, HERE)
    arriving.comes(2, HERE)
    assert arriving.comes(3, THERE) == 1
    arriving.proved(1)
    arriving.leaves(2)
    assert arriving.comes(4, HERE) is None


@given(st.lists(st.integers(0, 20), max_size=60))
def test_one_that_takes_all_it_can_keeps_nobody_out_who_comes_alone(before: list[int]) -> None:
    arriving: Arriving[int] = Arriving(8)
    for one, who in enumerate(before):
        arriving.comes(one, f"10.0.1.{who}" if one % 3 == 0 and who < 5 else HERE)
    for one in range(100, 120):
        arriving.comes(one, HERE)
    assert arriving.comes(200, "10.0.2.1") != 200
