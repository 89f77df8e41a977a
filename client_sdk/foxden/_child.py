"""One supervised child process: started, heard once when it is ready, stopped with nothing left.

A child exits when its standard input closes, so it cannot outlive its parent, however that died.
It leads a process group of its own: Ctrl-C in the terminal reaches the parent alone, which then
stops its children in order, and a hard kill takes a child's own children along.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from foxden.errors import FoxdenError

_LOG_BYTES = 5 * 2**20  # a log that is larger is set aside when its program starts
_TERMINATE_SECONDS = 2.0


class ChildFailed(FoxdenError):
    """A program that this one started could not do its work."""

    def __init__(self, message: str, *, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code if exit_code in (2, 3, 4) else 1


class Child:
    """A Python program of this installation, run as a child.

    `log` takes what it writes to its error stream: its last words. What it logs while it lives is
    its own business.
    """

    def __init__(
        self, name: str, arguments: Sequence[str], log: Path, environment: Mapping[str, str]
    ) -> None:
        self.name = name
        self._log = log
        self._lines: queue.Queue[str] = queue.Queue()
        log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if log.exists() and log.stat().st_size > _LOG_BYTES:
            log.replace(log.with_name(f"{log.name}.1"))
        self._log_start = log.stat().st_size if log.exists() else 0
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=dict(environment),
                start_new_session=os.name == "posix",
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )
        assert self._process.stdout is not None
        threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True).start()

    def _read(self, stdout: IO[bytes]) -> None:
        """Keep the pipe empty for as long as the child lives; a full one would stop it."""
        with stdout:
            for line in stdout:
                self._lines.put(line.decode("utf-8", "replace"))

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ready(self, seconds: float) -> dict[str, Any]:
        """The JSON object that the child prints when it is ready. Raises ChildFailed."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            alive = self.alive  # asked first: what it printed before it died is still read
            with contextlib.suppress(queue.Empty, ValueError):
                told = json.loads(self._lines.get(timeout=0.05))
                if isinstance(told, dict) and "error" not in told:
                    return told
                continue
            if not alive:
                raise self.failure()
        raise ChildFailed(
            f"the {self.name} was not ready after {seconds:g} s: see the logs in {self._log.parent}"
        )

    def failure(self) -> ChildFailed:
        """Why the child died: the last line it wrote."""
        code = self._process.wait()
        with self._log.open("rb") as stream:
            stream.seek(self._log_start)
            lines = stream.read()[-65_536:].decode("utf-8", "replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        why = last or f"it ended with code {code}"
        return ChildFailed(
            f"the {self.name} stopped: {why.rstrip('.')}. Its logs are in {self._log.parent}",
            exit_code=code,
        )

    def stop(self, seconds: float) -> None:
        """Ask the child to end; after `seconds`, or where this is interrupted, make it."""
        try:
            if self._process.stdin is not None:
                with contextlib.suppress(OSError):
                    self._process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)
            if self.alive:
                self._process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(_TERMINATE_SECONDS)
        finally:
            if self.alive:
                self._kill()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            if os.name == "posix":
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()
        self._process.wait()
