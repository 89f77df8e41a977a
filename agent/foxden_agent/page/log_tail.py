"""The newest lines of the agent's log, in memory: what the page shows. Of a fixed size."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass

LINES = 400
_CHARACTERS = 600  # of a line


@dataclass(frozen=True, slots=True)
class Line:
    """One line: when (Unix seconds), how serious ("info"), and what."""

    number: int  # counts from 1
    at: float
    level: str
    text: str


class LogTail(logging.Handler):
    """Add it to the root logger. What the log says holds no prompt and no token to begin with."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._lines: deque[Line] = deque(maxlen=LINES)
        self._count = 0

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            text += f" ({type(record.exc_info[1]).__name__}: {record.exc_info[1]})"
        self._count += 1
        level = record.levelname.lower()
        self._lines.append(Line(self._count, record.created, level, text[:_CHARACTERS]))

    def after(self, number: int) -> list[Line]:
        """The lines that are newer than that one, oldest first."""
        return [line for line in list(self._lines) if line.number > number]
