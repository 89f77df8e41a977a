"""Names of running programs. Only process ids that are new are looked up."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import psutil

# A launcher forks and then becomes the game (exec), and Wine names its process a moment after it
# began: asked once alone, the game would be known under its launcher's name for good.
_LOOKS = 3


def program_name(pid: int) -> str:
    """Of the program's file, e.g. "witcher3.exe"; empty where it is gone or may not be asked."""
    try:
        return psutil.Process(pid).name()
    except (psutil.Error, OSError):
        return ""


@dataclass(slots=True)
class _Known:
    name: str
    looks: int


class ProgramNames:
    """Remembers the names of a set of processes from one reading to the next.

    A process id that was away is looked up again when it is back: systems use ids again.
    """

    def __init__(self, look: Callable[[int], str] = program_name) -> None:
        self._look = look
        self._known: dict[int, _Known] = {}

    def of(self, pids: Collection[int]) -> dict[int, str]:
        """The names of exactly these, "" where one is not told. All others are forgotten."""
        known = {}
        for pid in pids:
            entry = self._known.get(pid) or _Known("", 0)
            if entry.looks < _LOOKS:
                entry.name = self._look(pid)
                entry.looks += 1
            known[pid] = entry
        self._known = known
        return {pid: entry.name for pid, entry in known.items()}
