"""When a checkpoint is due, which of several is written, and what reaches the agent."""

from __future__ import annotations

import threading
from itertools import pairwise
from typing import Any

import pytest

from foxden_agent.engine.event_queue import EventQueue
from foxden_proto.v1.engine_pb2 import (
    EngineCheckpoint,
    EngineEvent,
    EnginePicture,
    EngineStep,
    EngineStopped,
)

pytest.importorskip("torch")

from foxden_agent.engine.checkpoint_writer import CheckpointWriter, Pace


def _taken(call_seconds: float, cost: float, calls: int = 200) -> list[int]:
    """After which calls of that length a checkpoint of that cost is made."""
    pace, taken = Pace(0.0), []
    for call in range(1, calls + 1):
        if pace.due(call * call_seconds):
            pace.taken(call * call_seconds)
            pace.cost(cost)
            taken.append(call)
    return taken


@pytest.mark.parametrize("call_seconds", [0.06, 0.25, 3.0, 30.0])
def test_call_of_ordinary_length_has_its_checkpoint_each_time(call_seconds: float) -> None:
    assert _taken(call_seconds, cost=0.001) == list(range(1, 201))


def test_very_short_calls_have_one_every_twentieth_of_a_second() -> None:
    assert _taken(0.004, cost=0.0002)[:4] == [13, 26, 39, 52]


@pytest.mark.parametrize("cost", [0.002, 0.01, 0.05])
def test_dear_checkpoints_take_no_more_than_two_percent(cost: float) -> None:
    taken = _taken(0.1, cost)
    assert len(taken) * cost <= 0.02 * 200 * 0.1 + cost


def test_however_dear_one_is_made_every_five_seconds() -> None:
    taken = _taken(1.0, cost=10.0)
    assert max(b - a for a, b in pairwise(taken)) == 5


def test_snapshots_that_wait_are_replaced_by_newer_ones() -> None:
    written: list[Any] = []
    begun, may_end = threading.Event(), threading.Event()

    def write(snapshot: Any) -> None:
        begun.set()
        may_end.wait(10)
        written.append(snapshot)

    writer = CheckpointWriter(write)
    snapshots: list[Any] = ["first", "second", "third"]
    writer.put(snapshots[0])
    begun.wait(10)
    writer.put(snapshots[1])
    writer.put(snapshots[2])
    may_end.set()
    writer.flush()
    assert written == ["first", "third"]
    writer.close()


def test_failure_to_write_ends_the_checkpoints_and_nothing_else() -> None:
    def write(snapshot: Any) -> None:
        raise OSError

    writer = CheckpointWriter(write)
    snapshot: Any = "first"
    writer.put(snapshot)
    writer.flush()
    writer.put(snapshot)
    writer.flush()
    writer.close()


def _checkpoint(item_id: str, step: int) -> EngineEvent:
    return EngineEvent(checkpoint=EngineCheckpoint(item_id=item_id, step=step))


def _all(events: EventQueue) -> list[EngineEvent]:
    events.end()
    return list(iter(events.get, None))


def test_unsent_checkpoint_is_replaced_by_the_items_newer_one() -> None:
    events = EventQueue()
    for step in range(1, 100):
        events.put(_checkpoint("a", step))
        events.put(_checkpoint("b", step))
    got = [(e.checkpoint.item_id, e.checkpoint.step) for e in _all(events)]
    assert got == [("a", 99), ("b", 99)]


def test_checkpoint_of_an_item_that_ended_is_not_sent() -> None:
    events = EventQueue()
    for item_id in "abc":
        events.put(_checkpoint(item_id, 1))
    events.put(EngineEvent(picture=EnginePicture(item_id="a")))
    events.put(EngineEvent(stopped=EngineStopped(item_id="b")))
    assert [e.WhichOneof("event") for e in _all(events)] == ["picture", "stopped", "checkpoint"]


def test_other_events_keep_their_order() -> None:
    events = EventQueue()
    for step in range(1, 6):
        events.put(EngineEvent(step=EngineStep(step=step)))
    assert [e.step.step for e in _all(events)] == [1, 2, 3, 4, 5]
