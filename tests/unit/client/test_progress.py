"""What is shown while a job is waited for."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest

from foxden import events, progress


def state(*seen: events.Event, count: int = 2) -> progress.State:
    found = progress.State(count)
    for event in seen:
        found.add(event)
    return found


@pytest.mark.parametrize(
    ("seen", "text", "fraction"),
    [
        ([], "0/2", 0),
        ([events.Queued(3, eta_p50=12.4)], "3 before this one, about 12 s", 0),
        ([events.Queued(0, waiting_for="a card")], "waiting: a card", 0),
        ([events.Started(0, "b"), events.Started(1, "a")], "0/2 on a, b", 0),
        ([events.Started(0, "a"), events.Progress(0, 5, 10)], "0/2 on a", 0.25),
        ([events.Started(0, "a"), events.TaskFailed(0, "why")], "1/2", 0.5),
        ([events.TaskFailed(0, "why"), events.TaskFailed(1, "why")], "done", 1),
    ],
)
def test_a_line_says_what_the_job_waits_for(seen, text, fraction):
    assert (state(*seen).text, state(*seen).fraction) == (text, fraction)


def test_an_image_that_moves_to_another_card_starts_over():
    moved = state(events.Progress(0, 9, 10), events.Started(0, "b"), events.Progress(0, 1, 10))
    assert moved.fraction == pytest.approx(0.05)


def test_many_cards_are_counted_and_not_named():
    assert state(*(events.Started(i, f"c{i}") for i in range(3)), count=3).text == "0/3 on 3 cards"


def test_the_terminal_gets_a_bar_and_no_markup_is_obeyed(capsys):
    with progress.display(True, 1) as shown:
        shown.show(events.Started(0, "[bold]card[/nothing]"))
    assert capsys.readouterr().out == ""


def test_without_a_terminal_nothing_is_shown():
    assert type(progress.display(None, 1)) is progress.Silent
    assert type(progress.display(False, 1)) is progress.Silent


def test_a_notebook_gets_one_line_that_is_redrawn(monkeypatch):
    pages: list[str] = []
    ipython = ModuleType("IPython")
    ipython.get_ipython = lambda: SimpleNamespace(kernel=object())
    ipython.display = SimpleNamespace(
        HTML=str,
        display=lambda page, display_id: pages.append(page) or SimpleNamespace(update=pages.append),
    )
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    with progress.display(None, 2) as shown:
        shown.show(events.Started(0, "<b>"))
    assert "0/2 on &lt;b&gt;" in pages[1]
    assert pages[-1] == ""
