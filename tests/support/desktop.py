"""A desktop without a screen: Xvfb, a panel that docks icons, and a hand with a mouse."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

WIDTH, HEIGHT, BAR = 800, 480, 32
PROGRAMS = ("Xvfb", "trayer", "xdotool")
_DEBIANS = Path("/usr/lib/python3/dist-packages")


class Unavailable(Exception):
    """Something of it is not installed."""


def debians_gi(folder: Path) -> str:
    """A folder for PYTHONPATH with Debian's GTK bindings alone, for a child of our own Python.

    Raises Unavailable where they are missing or made for another version.
    """
    tag = f"cpython-{sys.version_info.major}{sys.version_info.minor}"
    if not list(_DEBIANS.glob(f"gi/_gi.{tag}-*.so")):
        raise Unavailable(f"no GTK bindings for {tag}: install python3-gi and gir1.2-gtk-3.0")
    folder.mkdir()
    (folder / "gi").symlink_to(_DEBIANS / "gi")
    return str(folder)


class Desktop:
    """Raises Unavailable. `panel` False: a screen without anything that shows icons."""

    def __init__(self, *, panel: bool = True) -> None:
        missing = [name for name in PROGRAMS if not shutil.which(name)]
        if missing:
            raise Unavailable(f"{', '.join(missing)} not found: see NEEDED in tests/run.py")
        reading, writing = os.pipe()
        size = f"{WIDTH}x{HEIGHT}x24"
        self._programs = [
            subprocess.Popen(
                f"Xvfb -displayfd {writing} -screen 0 {size} -nolisten tcp -noreset".split(),
                pass_fds=[writing],
                stderr=subprocess.DEVNULL,
            )
        ]
        os.close(writing)
        with os.fdopen(reading) as told:
            self.display = f":{told.readline().strip()}"
        assert self.display != ":", "Xvfb did not start"
        self.environment = {**os.environ, "DISPLAY": self.display}
        self.environment.pop("DBUS_SESSION_BUS_ADDRESS", None)
        if panel:
            self._start(
                *("trayer", "--edge", "bottom", "--align", "right"),
                *("--width", "20", "--height", str(BAR)),
            )

    def _start(self, *command: str) -> None:
        quiet = subprocess.DEVNULL
        self._programs.append(
            subprocess.Popen(command, env=self.environment, stdout=quiet, stderr=quiet)
        )

    def xdotool(self, *words: object) -> str:
        done = subprocess.run(
            ["xdotool", *map(str, words)],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=20,
        )
        return done.stdout.strip()

    def click(self, x: int, y: int, button: int = 1) -> None:
        self.xdotool("mousemove", x, y, "click", button)

    def windows(self, pid: int) -> list[tuple[int, int, int, int]]:
        """x, y, width and height of what is seen of a program, small helper windows left out."""
        found = []
        for window in self.xdotool("search", "--onlyvisible", "--pid", pid).split():
            lines = self.xdotool("getwindowgeometry", "--shell", window).splitlines()
            told = dict(line.split("=") for line in lines if "=" in line)
            if int(told.get("WIDTH", 0)) >= 10:
                found.append(tuple(int(told[key]) for key in ("X", "Y", "WIDTH", "HEIGHT")))
        return found

    def picture(self, path: Path) -> None:
        """What is on the screen, as a PNG."""
        words = ["import", "-window", "root", str(path)]
        subprocess.run(words, env=self.environment, check=True, timeout=20)

    def pixels(self, x: int, y: int, width: int, height: int) -> bytes:
        """RGB of a part of the screen."""
        crop = f"{width}x{height}+{x}+{y}"
        words = ["import", "-window", "root", "-crop", crop, "-depth", "8", "rgb:-"]
        done = subprocess.run(
            words, env=self.environment, check=True, capture_output=True, timeout=20
        )
        return done.stdout

    def close(self) -> None:
        for program in reversed(self._programs):
            program.terminate()
        for program in self._programs:
            program.wait()


def until(what: Callable[[], object], why: str, seconds: float = 30) -> None:
    """Poll: other programs' windows have no event to await."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, why
        time.sleep(0.1)
