"""Progress on one line of a terminal, or as a line for each thing that is done where it is none."""

from __future__ import annotations

import sys


class ProgressLine:
    """Written to stderr. `width`: characters for what is done, and for how much of it."""

    def __init__(self, width: tuple[int, int], *, quiet: bool) -> None:
        self._doing, self._size = width
        self._quiet = quiet
        self._terminal = sys.stderr is not None and sys.stderr.isatty()
        self._last = ""

    def show(self, doing: str, size: str) -> None:
        if self._quiet:
            return
        if self._terminal:
            told = f"{doing:{self._doing}.{self._doing}} {size:>{self._size}}"
            print(f"\r{told}", end="", file=sys.stderr, flush=True)
        elif doing != self._last:
            print(doing, file=sys.stderr, flush=True)
        self._last = doing

    def close(self) -> None:
        if self._terminal and not self._quiet:
            print(file=sys.stderr)
