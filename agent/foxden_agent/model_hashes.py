"""SHA-256 of model files, remembered: many gigabytes are read once and not at each start."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

from foxden_proto import home

log = logging.getLogger(__name__)


class HashCache:
    """Hashes by (path, size, mtime in ns), kept in a JSON file that may be deleted at any time."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._known = _read(file)
        self._seen: dict[str, list[object]] = {}

    def of_file(self, path: Path) -> str:
        """SHA-256 of the bytes, lower-case hex. Raises OSError."""
        status = path.stat()
        stamp: list[object] = [status.st_size, status.st_mtime_ns]
        entry = self._known.get(str(path))
        if entry is None or entry[:2] != stamp:
            with path.open("rb") as stream:
                entry = [*stamp, hashlib.file_digest(stream, "sha256").hexdigest()]
            self._known[str(path)] = entry
        self._seen[str(path)] = entry
        return str(entry[2])

    def of_folder(self, folder: Path, files: list[Path]) -> str:
        """SHA-256 over each file's relative name and hash, by name: no matter where it lies."""
        names = sorted((path.relative_to(folder).as_posix(), path) for path in files)
        lines = [f"{name}\0{self.of_file(path)}\n" for name, path in names]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def save(self) -> None:
        """Write what was asked for since the start; entries of files that are gone drop out."""
        if self._seen == _read(self._file):
            return
        try:
            home.write_private(self._file, json.dumps(self._seen))
        except OSError as error:
            log.warning("%s can't be written, models are hashed again: %s", self._file, error)


def _read(file: Path) -> dict[str, list[object]]:
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log.warning("%s can't be read, models are hashed again: %s", file, error)
        return {}
    if not isinstance(entries, dict):
        return {}
    return {k: v for k, v in entries.items() if isinstance(v, list) and len(v) == 3}
