"""Who is told when something happens to a job. In memory: what matters is in the store.

A subscription never queues: it remembers that the job changed and the newest progress of each
image. A client that reads one event a minute therefore costs a few hundred bytes, and nobody
else waits for it.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from foxden_proto.v1.generation_pb2 import Progress


class Subscription:
    """One watcher of one topic."""

    def __init__(self) -> None:
        self._wake = asyncio.Event()
        self._changed = False
        self._progress: dict[int, Progress] = {}

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

    def changed(self) -> None:
        self._progress.clear()  # older than the change
        self._changed = True
        self._wake.set()

    def progressed(self, progress: Progress) -> None:
        self._progress[progress.index] = progress
        self._wake.set()


class Hub:
    """Topics are job ids, and `CARDS` for all cards of the account."""

    CARDS = ""

    def __init__(self) -> None:
        self._topics: dict[str, set[Subscription]] = defaultdict(set)

    @contextmanager
    def subscribe(self, topic: str) -> Iterator[Subscription]:
        subscription = Subscription()
        self._topics[topic].add(subscription)
        try:
            yield subscription
        finally:
            self._topics[topic].discard(subscription)
            if not self._topics[topic]:
                del self._topics[topic]

    def changed(self, topic: str) -> None:
        for subscription in self._topics.get(topic, ()):
            subscription.changed()

    def everything_changed(self) -> None:
        for subscriptions in self._topics.values():
            for subscription in subscriptions:
                subscription.changed()

    def progressed(self, job_id: str, progress: Progress) -> None:
        for subscription in self._topics.get(job_id, ()):
            subscription.progressed(progress)
