"""When running work gives way, to what, and how often."""

from __future__ import annotations

from typing import Any

import pytest

from foxden_broker.scheduler.facts import BULK, INTERACTIVE, NORMAL, Kind, Outcome, Preempt
from foxden_broker.scheduler.planning import plan

Desk = Any  # of conftest.py
LONG = Kind("m", 512, 512, 20 * 60)  # five minutes where a usual image takes five seconds


def busy(desk: Desk, card: str = "a", *, priority: int = BULK, kind: Kind = LONG) -> None:
    """The card draws a long one for a while already."""
    desk.job(f"long-{card}", kind=kind, priority=priority, member="bob")
    assert desk.plan() == [f"long-{card}0>{card}"]
    desk.state.image_started(f"long-{card}", 0, desk.now)
    desk.now += 20.0


def asked(desk: Desk) -> list[Preempt]:
    """What the plan would have given back now; it is asked for."""
    desk.plan()
    found = list(plan(desk.state, desk.now).preempts)
    for one in found:
        desk.state.preempting(one, desk.now)
    return found


def gives_way(desk: Desk, card: str) -> None:
    """It releases what it was asked for."""
    (image,) = desk.state.table.cards[card].held[0].images
    desk.state.image_ended(*image, desk.now, Outcome.RELEASED, waits=True)


def test_interactive_waits_x_bulk_runs_for_long_x_gives_way_and_urgent_comes_first(
    desk: Desk,
) -> None:
    desk.card("a", "m")
    busy(desk)
    desk.job("urgent", priority=INTERACTIVE)
    (one,) = asked(desk)
    assert (one.card_id, one.images) == ("a", (("long-a", 0),))
    desk.now += 2.0
    gives_way(desk, "a")
    assert desk.plan() == ["urgent0>a"]
    desk.end("a")
    assert desk.plan() == ["long-a0>a"]


@pytest.mark.parametrize(
    ("waits", "runs"),
    [
        (INTERACTIVE, INTERACTIVE),
        (INTERACTIVE, NORMAL),
        (NORMAL, BULK),
        (BULK, BULK),
        (BULK, INTERACTIVE),
    ],
)
def test_other_classes_x_never_give_way(desk: Desk, waits: int, runs: int) -> None:
    desk.card("a", "m")
    busy(desk, priority=runs)
    desk.job("waits", priority=waits)
    assert asked(desk) == []


def test_another_card_is_free_x_nothing_gives_way(desk: Desk) -> None:
    desk.card("a", "m")
    busy(desk)
    desk.card("b", "m")
    desk.job("urgent", priority=INTERACTIVE)
    assert desk.plan() == ["urgent0>b"]
    assert asked(desk) == []


def test_another_card_is_free_soon_x_nothing_gives_way(desk: Desk) -> None:
    desk.card("a", "m")
    busy(desk)
    desk.card("b", "m")
    desk.job("short", priority=NORMAL)
    assert desk.plan() == ["short0>b"]
    desk.job("urgent", priority=INTERACTIVE)
    assert asked(desk) == []


def test_what_runs_is_nearly_done_x_is_let_end(desk: Desk) -> None:
    desk.card("a", "m")
    busy(desk)
    desk.now = desk.state.table.cards["a"].held[0].ends - 4.0
    desk.job("urgent", priority=INTERACTIVE)
    assert asked(desk) == []


def test_bulk_has_not_begun_x_nothing_is_asked(desk: Desk) -> None:
    desk.card("a", "m")
    desk.job("long", kind=LONG, priority=BULK)
    desk.plan()
    desk.job("urgent", priority=INTERACTIVE)
    assert asked(desk) == []


def test_models_would_have_to_be_loaded_there_and_back_x_counts(desk: Desk) -> None:
    desk.card("a", "m")
    busy(desk, kind=Kind("m", 512, 512, 20 * 16))  # 80 s, 60 of them left
    desk.job("urgent", model="n", priority=INTERACTIVE)
    assert asked(desk) == []  # 3 x (2 s and a step + 10 s + 10 s) are more
    desk.job("urgent too", model="m", priority=INTERACTIVE)
    assert [one.card_id for one in asked(desk)] == ["a"]


def test_card_that_cannot_draw_it_x_is_not_asked(make_desk: Any) -> None:
    desk = make_desk(lambda card, kind: (card, kind.model) != ("a", "n"))
    desk.card("a", "m")
    busy(desk)
    desk.job("urgent", model="n", priority=INTERACTIVE)
    assert asked(desk) == []


def test_asked_and_not_answered_yet_x_no_other_is_asked_for_the_same_image(desk: Desk) -> None:
    for name in "ab":
        desk.card(name, "m")
        busy(desk, name)
    desk.job("urgent", priority=INTERACTIVE)
    assert len(asked(desk)) == 1
    desk.now += 3.0
    assert asked(desk) == []
    desk.job("second", priority=INTERACTIVE)
    assert len(asked(desk)) == 1


def test_two_urgent_ones_x_two_cards_give_way_and_no_third(desk: Desk) -> None:
    for name in "abc":
        desk.card(name, "m")
        busy(desk, name)
    desk.job("urgent", images=2, priority=INTERACTIVE)
    assert len({one.card_id for one in asked(desk)}) == 2


def test_urgent_work_without_end_x_image_gives_way_twice_and_then_is_drawn(desk: Desk) -> None:
    desk.card("a", "m")
    busy(desk)
    times = 0
    for number in range(40):
        desk.job(f"urgent-{number}", priority=INTERACTIVE)
        if asked(desk):
            times += 1
            gives_way(desk, "a")
            while (said := desk.plan()) != ["long-a0>a"]:
                assert said[0].startswith("urgent-")
                desk.now += 5.0
                desk.end("a")
            desk.state.image_started("long-a", 0, desk.now)
        desk.now += 7.0
    assert times == 2


def test_card_gave_way_a_moment_ago_x_is_not_asked_again(desk: Desk) -> None:
    desk.card("a", "m")
    busy(desk)
    desk.job("urgent", priority=INTERACTIVE)
    asked(desk)
    gives_way(desk, "a")
    desk.plan()
    desk.now += 5.0
    desk.end("a")
    desk.plan()
    desk.state.image_started("long-a", 0, desk.now)
    desk.job("next", priority=INTERACTIVE)
    assert asked(desk) == []
    desk.now += desk.state.settings.preempt_hold
    assert len(asked(desk)) == 1


def test_nobody_asks_the_card_x_plan_says_it_again_and_gives_as_before(desk: Desk) -> None:
    desk.card("a", "m")
    busy(desk)
    desk.job("urgent", priority=INTERACTIVE)
    for _ in range(3):
        assert desk.plan() == []
        assert len(plan(desk.state, desk.now).preempts) == 1
