"""A lock that the operating system drops when its holder ends, however it ends."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import IO

from foxden_broker.store.base import StoreError

if sys.platform == "win32":
    import msvcrt

    def _lock(file: IO[bytes]) -> None:
        file.seek(1 << 20)  # far behind the process id, which others must be able to read
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(file: IO[bytes]) -> None:
        # flock, not lockf: it also refuses a second open by the same process.
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


class LockFile:
    """Held from construction until `release`. Raises StoreError where another broker holds it.

    The file stays behind, empty of meaning: deleting it would let a third process lock a new
    file of that name while a second one waits on the deleted one.
    """

    def __init__(self, database: Path) -> None:
        path = database.with_name(database.name + ".lock")
        try:
            self._file: IO[bytes] = open(path, "a+b")  # noqa: SIM115  held for life
        except OSError as error:
            raise StoreError(
                f"Cannot open {path}: {error.strerror}. Give the broker a folder it may write to."
            ) from error
        try:
            _lock(self._file)
        except OSError:
            self._file.seek(0)
            holder = self._file.read(20).decode("ascii", "replace").strip()
            self._file.close()
            who = f" (process {holder})" if holder else ""
            raise StoreError(
                f"Another broker{who} is using {database}. Stop it first, or give this one a "
                "database of its own; several brokers can share a PostgreSQL database."
            ) from None
        self._file.truncate(0)
        self._file.write(str(os.getpid()).encode("ascii"))
        self._file.flush()

    def release(self) -> None:
        self._file.close()
