"""The tables of states.py: every row, every pair that is missing, and a job derived from tasks."""

from __future__ import annotations

from itertools import combinations_with_replacement

import pytest

from foxden_proto.states import (
    JOB,
    JOB_ENDED,
    LINK,
    TASK,
    TASK_ENDED,
    JobState,
    LinkEvent,
    LinkState,
    TaskEvent,
    TaskState,
    UnknownTransition,
    advance,
    job_state,
    sources,
)

TASK_ROWS = """
    queued lease leased;        queued cancel cancelled;    queued expire expired
    queued give_up failed
    leased start running;       leased refuse queued;       leased lose queued
    leased fail queued;         leased release releasing;   leased cancel cancelled
    leased expire expired;      leased give_up failed
    running finish done;        running lose queued;        running fail queued
    running release releasing;  running cancel cancelled;   running expire expired
    running give_up failed
    releasing released queued;  releasing lose queued;      releasing cancel cancelled
    releasing expire expired;   releasing give_up failed
    failed retry queued
"""
LINK_ROWS = """
    connecting opened hello;       connecting lost connecting;    connecting close closed
    hello welcomed ready;          hello rejected closed;         hello lost disconnected
    hello close closed
    ready drain draining;          ready lost disconnected;       ready close closed
    draining drain draining;       draining lost disconnected;    draining close closed
    disconnected opened hello;     disconnected lost disconnected
    disconnected expired connecting;  disconnected close closed
"""


def rows(text: str) -> dict[tuple[str, str], str]:
    words = [row.split() for line in text.splitlines() for row in line.split(";") if row.strip()]
    return {(state, event): after for state, event, after in words}


@pytest.mark.parametrize("event", TaskEvent, ids=lambda e: e.value)
@pytest.mark.parametrize("state", TaskState, ids=lambda s: s.value)
def test_task_in_each_state_on_each_event(state: TaskState, event: TaskEvent) -> None:
    after = rows(TASK_ROWS).get((state.value, event.value))
    if after is not None:
        assert advance(TASK, state, event) is TaskState(after)
        return
    with pytest.raises(UnknownTransition, match=f"{state.value}.*{event.value}") as caught:
        advance(TASK, state, event)
    assert (caught.value.state, caught.value.event) == (state, event)


@pytest.mark.parametrize("event", LinkEvent, ids=lambda e: e.value)
@pytest.mark.parametrize("state", LinkState, ids=lambda s: s.value)
def test_link_in_each_state_on_each_event(state: LinkState, event: LinkEvent) -> None:
    after = rows(LINK_ROWS).get((state.value, event.value))
    if after is not None:
        assert advance(LINK, state, event) is LinkState(after)
        return
    with pytest.raises(UnknownTransition, match=f"{state.value}.*{event.value}"):
        advance(LINK, state, event)


def test_every_state_has_a_row() -> None:
    assert set(TASK) == set(TaskState)
    assert set(LINK) == set(LinkState)
    assert set(JOB) == set(JobState)


def test_ended_tasks_stay_ended_but_for_a_retry() -> None:
    assert {event for state in TASK_ENDED for event in TASK[state]} == {TaskEvent.RETRY}
    assert {state for state in TaskState if not TASK[state]} < TASK_ENDED


def test_sources_are_the_states_that_know_the_event() -> None:
    assert sources(TaskEvent.FINISH) == {TaskState.RUNNING}
    assert sources(TaskEvent.RELEASED) == {TaskState.RELEASING}
    assert sources(TaskEvent.RETRY) == {TaskState.FAILED}
    for event in TaskEvent:
        assert sources(event) == {state for state in TaskState if event in TASK[state]}


def changes() -> set[tuple[JobState, JobState]]:
    """Each change of a job of up to three images that one event on one image can cause."""
    found = set()
    for count in (1, 2, 3):
        for tasks in combinations_with_replacement(TaskState, count):
            for at, task in enumerate(tasks):
                for after in TASK[task].values():
                    then = (*tasks[:at], after, *tasks[at + 1 :])
                    found.add((job_state(tasks), job_state(then)))
    return {(before, after) for before, after in found if before is not after}


def test_job_table_holds_each_change_that_one_task_event_can_cause_and_no_other() -> None:
    assert changes() == {(before, after) for before, row in JOB.items() for after in row}


@pytest.mark.parametrize(
    ("tasks", "job"),
    [
        ("queued", "queued"),
        ("queued failed", "queued"),
        ("queued done", "running"),
        ("queued leased", "running"),
        ("releasing", "running"),
        ("running cancelled", "running"),
        ("done done", "done"),
        ("done failed", "partial"),
        ("done cancelled", "partial"),
        ("done expired", "partial"),
        ("failed expired cancelled", "failed"),
        ("expired cancelled", "expired"),
        ("cancelled cancelled", "cancelled"),
    ],
)
def test_job_state_of_tasks(tasks: str, job: str) -> None:
    assert job_state(TaskState(task) for task in tasks.split()) is JobState(job)


def test_job_state_is_ended_exactly_when_every_task_is() -> None:
    for count in (1, 2, 3):
        for tasks in combinations_with_replacement(TaskState, count):
            assert (job_state(tasks) in JOB_ENDED) == (set(tasks) <= TASK_ENDED)


def test_job_state_of_no_tasks_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one task"):
        job_state([])
