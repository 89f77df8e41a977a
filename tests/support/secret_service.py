"""A user's session bus with GNOME's keyring on it: the real daemon, unlocked with a password."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import secretstorage
from desktop import Unavailable
from jeepney.io.blocking import open_dbus_connection

PASSWORD = b"correct horse"
_PROGRAMS = ("dbus-daemon", "gnome-keyring-daemon")


class SecretService:
    """`display`: where it asks for its password; without one it cannot ask. Raises Unavailable."""

    def __init__(self, folder: Path, display: str = "") -> None:
        missing = [name for name in _PROGRAMS if not shutil.which(name)]
        if missing:
            raise Unavailable(f"{', '.join(missing)} not found: see NEEDED in tests/run.py")
        runtime = folder / "run"
        runtime.mkdir(parents=True, mode=0o700)
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "XDG_RUNTIME_DIR": str(runtime),
            **({"DISPLAY": display} if display else {}),
        }
        quiet = subprocess.DEVNULL
        self._bus = subprocess.Popen(
            ["dbus-daemon", "--session", "--nofork", "--print-address=1"],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=quiet,
        )
        assert self._bus.stdout is not None
        address = self._bus.stdout.readline().decode().strip()
        self.environment["DBUS_SESSION_BUS_ADDRESS"] = address
        for _ in range(3):  # seen: one that never has a keyring, and the next at once
            self._daemon = subprocess.Popen(
                ["gnome-keyring-daemon", "--foreground", "--unlock", "--components=secrets"],
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=quiet,
                stderr=quiet,
            )
            assert self._daemon.stdin is not None
            self._daemon.stdin.write(PASSWORD)
            self._daemon.stdin.close()
            if self._there():
                return
            self._daemon.kill()
            self._daemon.wait()
        raise AssertionError("gnome-keyring-daemon does not start")

    def _there(self) -> bool:
        """Whether it is there within moments, with a keyring in it."""
        end = time.monotonic() + 10
        while time.monotonic() < end:
            with suppress(Exception):
                self.keys()
                return True
            time.sleep(0.05)
        return False

    def keys(self) -> dict[str, str]:
        """The ids of the keys in it, and what is kept under them."""
        with self._collection() as collection:
            found = collection.search_items({"service": "Foxden agent"})
            return {one.get_attributes()["username"]: one.get_secret().decode() for one in found}

    def lock(self) -> None:
        with self._collection() as collection:
            collection.lock()

    def is_locked(self) -> bool:
        with self._collection() as collection:
            return bool(collection.is_locked())

    def hang(self) -> None:
        """It answers nothing, until `go_on`."""
        self._daemon.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._daemon.send_signal(signal.SIGCONT)

    def close(self) -> None:
        for process in (self._daemon, self._bus):
            process.kill()
            process.wait()
        assert self._bus.stdout is not None
        self._bus.stdout.close()

    @contextmanager
    def _collection(self) -> Iterator[secretstorage.Collection]:
        bus = self.environment["DBUS_SESSION_BUS_ADDRESS"]
        connection = open_dbus_connection(bus)
        try:
            yield secretstorage.Collection(connection)
        finally:
            connection.close()
