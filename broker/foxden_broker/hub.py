"""Who is told when something happens to a job. In memory: what matters is in the store.

A subscription queues next to nothing: the last few changes, so that a watcher that keeps up need
not ask the store, and the newest progress of each image. A client that reads one event a minute
therefore costs a few kilobytes, and nobody else waits for it.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from foxden_broker.recent_jobs import RecentJobs
from foxden_broker.store.base import Change
from foxden_proto.v1.generation_pb2 import Progress

MOST_CHANGES = 64  # kept for one watcher; one that is further behind asks the store


class Subscription:
    """One watcher of one topic."""

    def __init__(self) -> None:
        self._wake = asyncio.Event()
        self._changed = False
        self._progress: dict[int, Progress] = {}
        self._changes: list[Change] | None = None  # None: the store knows what changed

    async def wait(self, timeout: float | None = None) -> list[Progress]:
        """Until something happened: the newest progress of each image since the last call, or
        an empty list where the topic changed or `timeout` seconds passed.

        A change is told before the progress that came after it, so that a watcher hears of an
        image's start before its steps.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._wake.wait()
        except TimeoutError:
            return []
        if self._changed:
            self._changed = False
            if not self._progress:
                self._wake.clear()
            return []
        self._wake.clear()
        progress, self._progress = list(self._progress.values()), {}
        return progress

    def changes(self) -> list[Change] | None:
        """What changed since the last call, in the order it was told. None: ask the store, because
        this is the first call, or somebody changed the topic without saying what, or too much
        has changed."""
        found, self._changes = self._changes, []
        return found

    def changed(self, change: Change | None = None) -> None:
        self._progress.clear()  # older than the change
        if change is None or (self._changes is not None and len(self._changes) >= MOST_CHANGES):
            self._changes = None
        elif self._changes is not None:
            self._changes.append(change)
        self._changed = True
        self._wake.set()

    def progressed(self, progress: Progress) -> None:
        self._progress[progress.index] = progress
        self._wake.set()


class Hub:
    """Topics are job ids, and `CARDS` for all cards of the account."""

    CARDS = ""

    def __init__(self) -> None:
        # Dicts as sets that keep their order: watchers are told in the order in which they came.
        self._topics: dict[str, dict[Subscription, None]] = defaultdict(dict)
        self.recent = RecentJobs()

    @contextmanager
    def subscribe(self, topic: str) -> Iterator[Subscription]:
        subscription = Subscription()
        self._topics[topic][subscription] = None
        try:
            yield subscription
        finally:
            self._topics[topic].pop(subscription, None)
            if not self._topics[topic]:
                del self._topics[topic]

    def changed(self, topic: str, change: Change | None = None) -> None:
        """Wake who watches; `change` is what the store accepted, where that is all there was."""
        self.recent.changed(topic, change)
        for subscription in self._topics.get(topic, ()):
            subscription.changed(change)

    def all_changed(self) -> None:
        """Whoever watches anything looks again: nobody here can say what changed."""
        self.recent.clear()
        for topic in list(self._topics):
            self.changed(topic)

    def progressed(self, job_id: str, progress: Progress) -> None:
        for subscription in self._topics.get(job_id, ()):
            subscription.progressed(progress)
