"""Writes readings to a file while they are delivered. Never in the way of what it records."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TextIO

from foxden_agent.readings import Readings
from foxden_agent.watching.recording import Encoder, header

log = logging.getLogger(__name__)


class Recorder:
    """A callback for a watcher. A file that is full is kept once, as `….1`, and begun again.

    `most_bytes` bounds each of the two. Where the disk takes no more, it says so and stops.
    """

    def __init__(
        self,
        path: Path,
        *,
        most_bytes: int = 8 * 1024 * 1024,
        local: Callable[[float], datetime] = datetime.fromtimestamp,  # of Unix seconds
    ) -> None:
        self._path = path
        self._most_bytes = most_bytes
        self._local = local
        self._file: TextIO | None = None
        self._stopped = False

    def __call__(self, readings: Readings) -> None:
        if self._stopped:
            return
        try:
            self._write(readings)
        except OSError as error:
            log.warning(
                "the recording %s ends here (%s): see that its folder can be written and has space",
                *(self._path, error.strerror),
            )
            self.close()

    def close(self) -> None:
        """Nothing is recorded any more."""
        self._stopped = True
        if self._file is not None:
            file, self._file = self._file, None
            try:
                file.close()
            except OSError as error:  # the disk is full: what is lost is one line
                log.debug("closing the recording: %s", error)

    def _write(self, readings: Readings) -> None:
        machine = readings.machine
        if self._file is None:
            self._begin(readings)
        line = self._encoder.line(
            machine.at - self._begun_at,
            (machine.wall - self._begun_wall) - (machine.at - self._begun_at),
            readings,
        )
        assert self._file is not None
        # Line by line: what a program recorded before it was killed can be played.
        self._file.write(line + "\n")
        self._file.flush()
        self._size += len(line) + 1
        if self._size >= self._most_bytes:
            self._file.close()
            self._file = None
            self._path.replace(self._path.with_name(self._path.name + ".1"))

    def _begin(self, readings: Readings) -> None:
        self._begun_at, self._begun_wall = readings.machine.at, readings.machine.wall
        self._encoder = Encoder()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("w", encoding="ascii", newline="\n")
        first = header(self._local(self._begun_wall))
        self._file.write(first + "\n")
        self._size = len(first) + 1
