"""Logs of the long-running programs: lines for people, or one JSON object per line.

What is worth finding again goes into fields (`extra=logs.fields(job=…)`): job, image, card, agent,
account, member, call, reason. Prompts and tokens never do, nor into a message.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import IO, Any

FORMATS = ("text", "json")
FIELDS = ("job", "image", "card", "agent", "account", "member", "call", "reason")
FILE_BYTES, FILES = 5 * 1024**2, 5  # a program's log files: so large, and so many with the old ones
_ATTRIBUTE = "foxden_{}"  # on the record; a bare name could clash with one of logging's own


def fields(**values: Any) -> dict[str, Any]:
    """For `extra=`. Raises ValueError for a name that is none of FIELDS."""
    unknown = set(values) - set(FIELDS)
    if unknown:
        raise ValueError(f"a log line has no field {', '.join(sorted(unknown))}: see logs.FIELDS")
    return {_ATTRIBUTE.format(name): value for name, value in values.items()}


class JsonLines(logging.Formatter):
    """time, level, logger, message, the fields that were given, and error where one was caught."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name in FIELDS:
            value = getattr(record, _ATTRIBUTE.format(name), None)
            if value is not None:
                line[name] = value
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class RotatedFile(RotatingFileHandler):
    """A log file that only its owner can read, set aside when it is full; the oldest go."""

    def __init__(self, path: Path, most_bytes: int = FILE_BYTES, files: int = FILES) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        super().__init__(path, maxBytes=most_bytes, backupCount=files - 1, encoding="utf-8")

    def _open(self) -> Any:
        def private(name: str, flags: int) -> int:
            return os.open(name, flags, 0o600)

        return open(self.baseFilename, self.mode, encoding=self.encoding, opener=private)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 -- logging's name
        """A full disk costs lines and nothing else: logging would print a traceback for each."""


def set_up(form: str = "text", stream: IO[str] | None = None, file: Path | None = None) -> None:
    """Send everything from INFO on to a rotated `file` if there is one, else to the error stream
    (or `stream`); once per process. Raises OSError where the file cannot be made."""
    handler: logging.Handler
    handler = RotatedFile(file) if file else logging.StreamHandler(stream or sys.stderr)
    if form == "json":
        handler.setFormatter(JsonLines())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
