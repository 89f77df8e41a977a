"""When an image is tried again and when it is given up. Pure.

An image is a dead letter after 3 failures or 3 losses, on two cards at least where a second card
could run it. Releases never count: the owner came first, that is nobody's fault.
"""

from __future__ import annotations

from collections.abc import Collection

from foxden_broker.store.base import Decide, Task
from foxden_proto.states import TaskEvent, TaskState

MOST_FAILURES = 3
MOST_LOSSES = 3
# A second card that is slow to come back must not keep a poisonous image alive for ever.
MOST_TRIES = 9

_UNMARKED = {TaskState.LEASED: TaskEvent.REFUSE, TaskState.RELEASING: TaskEvent.RELEASED}


def after_failure(capable_cards: Collection[str], *, retryable: bool = True) -> Decide:
    """FAIL (try again) or GIVE_UP for a task that its card failed on just now."""

    def decide(task: Task) -> TaskEvent:
        if not retryable:
            return TaskEvent.GIVE_UP
        if task.state is TaskState.RELEASING:
            return TaskEvent.RELEASED
        enough = task.failures + 1 >= MOST_FAILURES
        ended = _given_up(task, TaskEvent.FAIL, enough, capable_cards)
        return TaskEvent.GIVE_UP if ended else TaskEvent.FAIL

    return decide


def after_loss(capable_cards: Collection[str]) -> Decide:
    """LOSE (try again) or GIVE_UP for a task whose card vanished just now. What had not begun, or
    was being given back, goes to the queue without a mark: REFUSE or RELEASED."""

    def decide(task: Task) -> TaskEvent:
        if task.state in _UNMARKED:
            return _UNMARKED[task.state]
        enough = task.losses + 1 >= MOST_LOSSES
        ended = _given_up(task, TaskEvent.LOSE, enough, capable_cards)
        return TaskEvent.GIVE_UP if ended else TaskEvent.LOSE

    return decide


def _given_up(task: Task, event: TaskEvent, enough: bool, capable: Collection[str]) -> bool:
    if task.failures + task.losses + 1 >= MOST_TRIES:
        return True
    cards = {a.card_id for a in task.attempts if a.outcome == event.value} | {task.card_id}
    others = set(capable) - cards
    return enough and (len(cards) >= 2 or not others)


def cards_failed_on(task: Task) -> frozenset[str]:
    """The cards to avoid for this task while another can run it."""
    bad = {TaskEvent.FAIL.value, TaskEvent.LOSE.value}
    return frozenset(a.card_id for a in task.attempts if a.outcome in bad)
