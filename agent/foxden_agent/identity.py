"""Who this installation is: an id made once, and a lock so that it runs once."""

from __future__ import annotations

import json
import os
import re
import secrets
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from foxden_proto.home import write_private

_ID = re.compile(r"[A-Za-z0-9_.:-]{1,64}")  # what a broker takes


class HomeInUse(Exception):
    """Another agent runs from the same home folder."""


class CardInUse(Exception):
    """Another agent of this user looks after the same card."""


def agent_id(folder: Path) -> str:
    """The id of this installation, made at the first start and kept in `agent.json`."""
    path = folder / "agent.json"
    try:
        known = json.loads(path.read_text())["agent_id"]
        if isinstance(known, str) and _ID.fullmatch(known):
            return known
    except (OSError, ValueError, KeyError, TypeError):
        pass  # the first start, or a file that was damaged: a new id costs nothing but its history
    made = "agent-" + secrets.token_hex(8)
    write_private(path, json.dumps({"agent_id": made}))
    return made


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold the home folder's lock. Raises HomeInUse. The system lets go of it when we die."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    taken = HomeInUse(
        f"An agent is running from {folder.parent} already: stop it, "
        "or give this one another folder with --home."
    )
    with locked(folder / "lock", taken):
        yield


@contextmanager
def only_one_joining(folder: Path) -> Iterator[None]:
    """Two that join at once would each make a key, and who leaves meanwhile would undo half of it.
    Raises HomeInUse."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    what = "Another `foxden join` or `foxden leave` is under way here"
    taken = HomeInUse(f"{what}: wait until it has ended, then do this again.")
    with locked(folder / "joining.lock", taken):
        yield


@contextmanager
def only_one_per_card(device: str, folder: Path | None = None) -> Iterator[None]:
    """Hold a card's lock, whatever the home folder: two agents would fight over its memory, and
    each take the other for its owner's game. Raises CardInUse.

    Processors are shared by nature, and have no lock. `folder` is one that all agents of this user
    share; chosen if not given.
    """
    if device == "cpu":
        yield
        return
    if folder is None:
        user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
        shared = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
        folder = Path(shared) / f"foxden-cards-{user}"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    taken = CardInUse(
        f"Another agent looks after {device} already: stop it, "
        "or give each a card of its own with --device."
    )
    with locked(folder / f"{re.sub('[^A-Za-z0-9]', '-', device)}.lock", taken):
        yield


@contextmanager
def locked(path: Path, taken: Exception) -> Iterator[None]:
    """Hold a file's lock, or raise `taken`. The system lets go of it when we die."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            _lock(handle)
        except OSError:
            raise taken from None
        yield
    finally:
        os.close(handle)


def _lock(handle: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
