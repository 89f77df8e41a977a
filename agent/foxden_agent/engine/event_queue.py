"""The way of a batch's events from the threads that make them to the one that sends them."""

from __future__ import annotations

import threading
from collections import deque

from foxden_proto.v1.engine_pb2 import EngineEvent


class EventQueue:
    """A queue that doesn't grow with checkpoints: an item's newest replaces one not sent yet.

    Of everything else a batch makes only so much: pictures, and ten steps a second. Any thread may
    call any method.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._events: deque[EngineEvent | None] = deque()
        self._checkpoints: dict[str, EngineEvent] = {}  # by item, unsent; after all else

    def put(self, event: EngineEvent) -> None:
        with self._changed:
            if event.HasField("checkpoint"):
                self._checkpoints[event.checkpoint.item_id] = event
            else:
                # Nobody goes on with an item that has its picture or was stopped.
                self._checkpoints.pop(event.picture.item_id or event.stopped.item_id, None)
                self._events.append(event)
            self._changed.notify()

    def end(self) -> None:
        """Nothing more will come."""
        with self._changed:
            self._events.append(None)
            self._changed.notify()

    def get(self) -> EngineEvent | None:
        """The next event, once there is one; None at the end, after unsent checkpoints."""
        with self._changed:
            self._changed.wait_for(lambda: self._events or self._checkpoints)
            if self._events and (self._events[0] is not None or not self._checkpoints):
                return self._events.popleft()
            return self._checkpoints.pop(next(iter(self._checkpoints)))
