"""A picture that is being drawn, and how the tries at it ended."""

from __future__ import annotations

import foxden
from foxden import events
from foxden.jobs import Attempt


def after_step(job: foxden.Job, step: int = 3, index: int = 0) -> str:
    """Wait until an engine has drawn so many steps of it; the name of the agent that draws.

    A job is `running` as soon as a card has a lease on it. Its engine may not have heard of it
    then, and one that is killed at that moment is replaced, and fails nothing.
    """
    card = ""
    for event in job.watch(timeout=90):
        assert not isinstance(event, events.Last), "it ended before it could be disturbed"
        if isinstance(event, events.Started) and event.index == index:
            card = event.card
        if isinstance(event, events.Progress) and event.index == index and event.step >= step:
            break
    return card.rpartition(" in ")[2]


def tries(job: foxden.Job, index: int = 0) -> list[Attempt]:
    """The attempts at an image that a card took on.

    Left out are leases that no card took: an agent has `timers.acknowledge` to answer, and on a
    busy machine one that needs longer is given the image again. No engine has heard of it then.
    """
    attempts = job.refresh().info.tasks[index].attempts
    return [attempt for attempt in attempts if attempt.outcome != "refuse"]


def outcomes(job: foxden.Job, index: int = 0) -> list[str]:
    """How these ended; empty for one that lasts."""
    return [attempt.outcome for attempt in tries(job, index)]
