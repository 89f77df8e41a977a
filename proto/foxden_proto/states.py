"""The state tables of task, job and link, as data. Every change of state goes through them.

A pair that a table does not know is a programming error or a stale message; `advance` raises
`UnknownTransition`, naming state and event. The diagrams in ARCHITECTURE.md are drawn from
these tables by tests/tools/draw_states.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import TypeVar


class TaskState(Enum):
    QUEUED = "queued"
    LEASED = "leased"
    RUNNING = "running"
    RELEASING = "releasing"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class TaskEvent(Enum):
    LEASE = "lease"  # a card was chosen; a new lease_no was given out
    START = "start"  # the card's engine began
    FINISH = "finish"  # the picture is stored
    REFUSE = "refuse"  # the agent would not take it
    LOSE = "lose"  # the link or the agent is gone
    FAIL = "fail"  # the engine refused or crashed on it; another try follows
    GIVE_UP = "give_up"  # no further try
    RELEASE = "release"  # the owner takes the card back; the checkpoint is on its way
    RELEASED = "released"  # the checkpoint is here, or there is none
    CANCEL = "cancel"
    EXPIRE = "expire"  # its deadline passed
    RETRY = "retry"  # an administrator wants it tried again


class JobState(Enum):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    PARTIAL = "partial"


class LinkState(Enum):
    CONNECTING = "connecting"
    HELLO = "hello"
    READY = "ready"
    DRAINING = "draining"
    DISCONNECTED = "disconnected"
    CLOSED = "closed"


class LinkEvent(Enum):
    OPENED = "opened"  # the transport is there
    WELCOMED = "welcomed"  # hello was answered
    REJECTED = "rejected"  # hello was answered with no
    DRAIN = "drain"  # either side wants no new work
    LOST = "lost"  # the transport is gone, or silent for too long
    EXPIRED = "expired"  # gone for so long that the leases are lost
    CLOSE = "close"  # either side said goodbye


_T, _E = TaskState, TaskEvent
_STOPPABLE = {_E.CANCEL: _T.CANCELLED, _E.EXPIRE: _T.EXPIRED, _E.GIVE_UP: _T.FAILED}

TASK: Mapping[TaskState, Mapping[TaskEvent, TaskState]] = {
    _T.QUEUED: {_E.LEASE: _T.LEASED, **_STOPPABLE},
    _T.LEASED: {
        _E.START: _T.RUNNING,
        _E.REFUSE: _T.QUEUED,
        _E.LOSE: _T.QUEUED,
        _E.FAIL: _T.QUEUED,
        _E.RELEASE: _T.RELEASING,
        **_STOPPABLE,
    },
    _T.RUNNING: {
        _E.FINISH: _T.DONE,
        _E.LOSE: _T.QUEUED,
        _E.FAIL: _T.QUEUED,
        _E.RELEASE: _T.RELEASING,
        **_STOPPABLE,
    },
    _T.RELEASING: {_E.RELEASED: _T.QUEUED, _E.LOSE: _T.QUEUED, **_STOPPABLE},
    _T.FAILED: {_E.RETRY: _T.QUEUED},
    _T.DONE: {},
    _T.CANCELLED: {},
    _T.EXPIRED: {},
}
TASK_ENDED = frozenset({_T.DONE, _T.FAILED, _T.CANCELLED, _T.EXPIRED})
TASK_HELD = frozenset({_T.LEASED, _T.RUNNING, _T.RELEASING})  # a card holds a lease on it

_J = JobState

# A job has no events of its own: its state is derived from its tasks by `job_state`. The table
# says which changes can follow from one event on one task; a test walks them.
JOB: Mapping[JobState, frozenset[JobState]] = {
    _J.QUEUED: frozenset({_J.RUNNING, _J.FAILED, _J.CANCELLED, _J.EXPIRED}),
    _J.RUNNING: frozenset({_J.QUEUED, _J.DONE, _J.FAILED, _J.CANCELLED, _J.EXPIRED, _J.PARTIAL}),
    _J.DONE: frozenset(),
    _J.FAILED: frozenset({_J.QUEUED}),
    _J.CANCELLED: frozenset(),
    _J.EXPIRED: frozenset(),
    _J.PARTIAL: frozenset({_J.RUNNING}),
}
JOB_ENDED = frozenset({_J.DONE, _J.FAILED, _J.CANCELLED, _J.EXPIRED, _J.PARTIAL})

_L, _LE = LinkState, LinkEvent

LINK: Mapping[LinkState, Mapping[LinkEvent, LinkState]] = {
    _L.CONNECTING: {_LE.OPENED: _L.HELLO, _LE.LOST: _L.CONNECTING, _LE.CLOSE: _L.CLOSED},
    _L.HELLO: {
        _LE.WELCOMED: _L.READY,
        _LE.REJECTED: _L.CLOSED,
        _LE.LOST: _L.DISCONNECTED,
        _LE.CLOSE: _L.CLOSED,
    },
    _L.READY: {_LE.DRAIN: _L.DRAINING, _LE.LOST: _L.DISCONNECTED, _LE.CLOSE: _L.CLOSED},
    _L.DRAINING: {_LE.DRAIN: _L.DRAINING, _LE.LOST: _L.DISCONNECTED, _LE.CLOSE: _L.CLOSED},
    _L.DISCONNECTED: {
        _LE.OPENED: _L.HELLO,
        _LE.LOST: _L.DISCONNECTED,
        _LE.EXPIRED: _L.CONNECTING,
        _LE.CLOSE: _L.CLOSED,
    },
    _L.CLOSED: {},
}

S = TypeVar("S", bound=Enum)
E = TypeVar("E", bound=Enum)


class UnknownTransition(Exception):
    """An event that the state does not know."""

    def __init__(self, state: Enum, event: Enum) -> None:
        self.state, self.event = state, event
        super().__init__(
            f"{type(state).__name__} {state.value!r} has no transition for {event.value!r}"
        )


def advance(table: Mapping[S, Mapping[E, S]], state: S, event: E) -> S:
    """The state after the event. Raises UnknownTransition where the table has no such pair."""
    try:
        return table[state][event]
    except KeyError:
        raise UnknownTransition(state, event) from None


def sources(event: TaskEvent) -> frozenset[TaskState]:
    """The task states in which an event is possible: what a guarded write expects to find."""
    return frozenset(state for state, row in TASK.items() if event in row)


def job_state(tasks: Iterable[TaskState]) -> JobState:
    """A job's state, derived from the states of its tasks (at least one).

    While any task is open, the job is running once one task has left the queue, else queued.
    Where all have ended: done if all are; partial if some are; else what ended them, a failure
    before an expiry before a cancel.
    """
    seen = set(tasks)
    if not seen:
        raise ValueError("a job has at least one task")
    if seen - TASK_ENDED:
        return _J.RUNNING if seen & (TASK_HELD | {_T.DONE}) else _J.QUEUED
    if seen == {_T.DONE}:
        return _J.DONE
    if _T.DONE in seen:
        return _J.PARTIAL
    if _T.FAILED in seen:
        return _J.FAILED
    return _J.EXPIRED if _T.EXPIRED in seen else _J.CANCELLED
