"""Makes checkpoints beside the drawing: when one is due, and a thread that writes the newest."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from foxden_agent.engine.checkpoints import Snapshot

log = logging.getLogger(__name__)

_SHARE = 0.02  # of the time may go into checkpoints
_LEAST_SECONDS = 0.05  # between two: what a card of very short steps may have to draw again
_MOST_SECONDS = 5.0  # whatever they cost: a vanished card loses ten seconds of work at most


class Pace:
    """Decides after which model calls a checkpoint is made.

    After each one, where a call takes 0.05 s or longer and a checkpoint no more than 2 % of it.
    Of shorter calls there is one every 0.05 s, and where it costs more, as seldom as keeps that
    at 2 %, but every 5 s at least. All times in seconds, of any clock that goes on.
    """

    def __init__(self, now: float) -> None:
        self._last = now
        self._cost = 0.0

    def due(self, now: float) -> bool:
        wait = min(max(_LEAST_SECONDS, self._cost / _SHARE), _MOST_SECONDS)
        return now - self._last >= wait

    def taken(self, now: float) -> None:
        self._last = now

    def cost(self, seconds: float) -> None:
        """What one took: processor seconds, because a busy machine's clock says nothing of it."""
        self._cost = seconds if self._cost == 0.0 else (self._cost + seconds) / 2


class CheckpointWriter:
    """One thread that hands snapshots to `write`; a newer one replaces one that still waits.

    `write` may raise: that is logged, and nothing more is written.
    """

    def __init__(self, write: Callable[[Snapshot], None]) -> None:
        self._write = write
        self._changed = threading.Condition()
        self._waiting: Snapshot | None = None
        self._busy = False
        self._closed = False
        self._thread: threading.Thread | None = None
        self.seconds = 0.0  # of the processor, for the last that was written

    def put(self, snapshot: Snapshot) -> None:
        with self._changed:
            if self._closed:
                return
            self._waiting = snapshot
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="checkpoints", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def flush(self) -> None:
        """Wait until everything is written that was put."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting is None and not self._busy)

    def close(self) -> None:
        """Write what still waits, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._waiting is not None or self._closed)
                snapshot, self._waiting = self._waiting, None
                if snapshot is None:
                    return
                self._busy = True
            begun = time.thread_time()
            try:
                self._write(snapshot)
            except Exception as error:  # noqa: BLE001 -- the picture is more than its checkpoint
                # Only the type: a foreign error's text may quote anything.
                log.warning("no more checkpoints of this batch: %s", type(error).__name__)
                with self._changed:
                    self._closed, self._busy, self._waiting = True, False, None
                    self._changed.notify_all()
                return
            self.seconds = time.thread_time() - begun
