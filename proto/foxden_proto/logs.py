"""Logs of the long-running programs: lines for people, or one JSON object per line.

What is worth finding again goes into fields (`extra=logs.fields(job=…)`): job, image, card, agent,
account, member, call, reason. Prompts and tokens never do, nor into a message.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import IO, Any

FORMATS = ("text", "json")
FIELDS = ("job", "image", "card", "agent", "account", "member", "call", "reason")
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


def set_up(form: str = "text", stream: IO[str] | None = None) -> None:
    """Send everything from INFO on to the error stream (or `stream`), once per process."""
    handler = logging.StreamHandler(stream or sys.stderr)
    if form == "json":
        handler.setFormatter(JsonLines())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
