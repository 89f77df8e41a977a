"""httpx without its command: `from foxden_agent.plain_httpx import httpx`.

Importing httpx imports the program of that name where click, rich and pygments can be imported, and
an agent has them for its own commands: six megabytes that lie in the owner's memory for nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _as_if_missing(name: str) -> Iterator[None]:
    """Importing it fails, as where it is not installed, which httpx is made for."""
    had = sys.modules.pop(name, None)
    sys.modules[name] = None  # type: ignore[assignment]  # Python's own way of saying so
    try:
        yield
    finally:
        del sys.modules[name]
        if had is not None:
            sys.modules[name] = had


with _as_if_missing("click"):
    import httpx

__all__ = ["httpx"]
