"""The one folder that holds everything a run writes: `--home`, `FOXDEN_HOME`, or the platform's."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path


def home(given: str | os.PathLike[str] | None = None) -> Path:
    """The home folder, absolute; it need not exist yet."""
    chosen = given or os.environ.get("FOXDEN_HOME")
    if chosen:
        return Path(chosen).expanduser().absolute()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData/Local")) / "Foxden"
    if sys.platform == "darwin":
        return Path.home() / "Library/Application Support/Foxden"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "foxden"


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, all of it or not at all.

    The temporary file is made 0600 before the first byte is in it; a crash leaves the old file.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
