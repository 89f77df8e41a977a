"""How many pictures were drawn today, kept over a restart. Never in the way of drawing."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import date
from pathlib import Path

from foxden_proto.home import write_private

log = logging.getLogger(__name__)

FILE = "today.json"
_EVERY = 20  # pictures between two writes; what a crash may forget


class Today:
    """Counts pictures of the local day. `date_now` tells which that is."""

    def __init__(self, folder: Path, date_now: Callable[[], date] = date.today) -> None:
        self._path = folder / FILE
        self._date_now = date_now
        self._day, self._count = self._read()
        self._unwritten = 0

    @property
    def count(self) -> int:
        return self._count if self._day == self._date_now() else 0

    def add(self) -> None:
        """One more."""
        self._count = self.count + 1
        self._day = self._date_now()
        self._unwritten += 1
        if self._unwritten >= _EVERY:
            self.save()

    def save(self) -> None:
        """Remember it; where the disk takes no more, it is forgotten at the next start."""
        if not self._unwritten:
            return
        self._unwritten = 0
        try:
            told = json.dumps({"day": self._day.isoformat(), "pictures": self._count})
            write_private(self._path, told + "\n")
        except OSError as error:
            log.warning("today's count is not kept (%s): see to the disk", error.strerror or error)

    def _read(self) -> tuple[date, int]:
        try:
            told = json.loads(self._path.read_text(encoding="utf-8"))
            return date.fromisoformat(told["day"]), max(0, int(told["pictures"]))
        except (OSError, ValueError, KeyError, TypeError):
            return self._date_now(), 0
