"""When a failed or lost image is tried again, and when it is given up."""

from __future__ import annotations

from typing import Any

import pytest

from foxden_broker.retries import MOST_TRIES, after_failure, after_loss, cards_failed_on
from foxden_broker.store.base import Attempt, Task
from foxden_proto.states import TaskEvent, TaskState


def attempt(number: int, card: str, outcome: str) -> Attempt:
    return Attempt(number, card, card, outcome, "", 0, 0)


def task(card: str = "a", history: str = "", **counters: int) -> Task:
    """A running task on `card`; `history` is "card:outcome ..." of its ended attempts."""
    pairs = [entry.split(":") for entry in history.split()]
    attempts = [attempt(number, *pair) for number, pair in enumerate(pairs, 1)]
    counts = {
        "failures": sum(outcome == "fail" for _, outcome in pairs),
        "losses": sum(outcome == "lose" for _, outcome in pairs),
        "releases": sum(outcome == "release" for _, outcome in pairs),
    } | counters
    base: dict[str, Any] = {"revision": 1, "leased_ms": 0, "started_ms": 0, "ended_ms": 0}
    number = len(attempts) + 1
    attempts.append(attempt(number, card, ""))
    return Task(
        "job",
        0,
        TaskState.RUNNING,
        number,
        card,
        card,
        "agent",
        "",
        **counts,
        **base,
        attempts=tuple(attempts),
    )


AGAIN, ENOUGH = True, False


@pytest.mark.parametrize(
    ("card", "history", "capable", "again"),
    [
        ("a", "", "a", AGAIN),
        ("a", "a:fail", "a", AGAIN),
        ("a", "a:fail a:fail", "a", ENOUGH),
        ("a", "a:fail a:fail", "a b", AGAIN),  # b has not tried
        ("a", "a:fail a:fail", "", ENOUGH),  # none is online now: no other to wait for
        ("b", "a:fail a:fail", "a b", ENOUGH),
        ("a", "b:fail a:fail", "a b c", ENOUGH),  # two cards are enough
        ("a", "a:release a:release a:release a:release", "a", AGAIN),
        ("a", "a:refuse a:refuse a:refuse", "a", AGAIN),
        ("a", "a:lose a:lose", "a", AGAIN),  # losses are counted apart
        ("b", "a:fail a:lose a:fail", "a b", ENOUGH),
    ],
)
def test_after_a_failure(card: str, history: str, capable: str, again: bool) -> None:
    event = after_failure(capable.split())(task(card, history))
    assert event is (TaskEvent.FAIL if again else TaskEvent.GIVE_UP)


@pytest.mark.parametrize(
    ("card", "history", "capable", "again"),
    [
        ("a", "", "a", AGAIN),
        ("a", "a:lose a:lose", "a", ENOUGH),
        ("a", "a:lose a:lose", "a b", AGAIN),
        ("b", "a:lose a:lose", "a b", ENOUGH),
        ("a", "a:fail a:fail", "a", AGAIN),
        ("a", "a:release a:release a:release", "a", AGAIN),
    ],
)
def test_after_a_loss(card: str, history: str, capable: str, again: bool) -> None:
    event = after_loss(capable.split())(task(card, history))
    assert event is (TaskEvent.LOSE if again else TaskEvent.GIVE_UP)


def test_after_a_failure_that_no_card_could_better_is_given_up_at_once() -> None:
    assert after_failure(["a", "b"], retryable=False)(task()) is TaskEvent.GIVE_UP


def test_image_that_only_one_card_tries_is_given_up_after_the_most_tries() -> None:
    for tries in range(1, MOST_TRIES + 1):
        history = " ".join(["a:fail"] * (tries - 1))
        gives_up = after_failure(["a", "b"])(task("a", history)) is TaskEvent.GIVE_UP
        assert gives_up == (tries == MOST_TRIES)


def test_after_an_administrators_retry_old_failures_do_not_count() -> None:
    again = task("a", "a:fail a:fail a:fail", failures=0)
    assert after_failure(["a"])(again) is TaskEvent.FAIL


def test_cards_failed_on_are_those_that_failed_or_vanished() -> None:
    history = "a:fail b:lose c:release d:refuse e:finish f:cancel"
    assert cards_failed_on(task("g", history)) == {"a", "b"}
