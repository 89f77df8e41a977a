"""Clocks of a real program that jump: the wall clock, and the one that goes on in sleep."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest
from nvml_stand_in import COMPILER

SOURCE = Path(__file__).with_name("clock_shift.c")


class Clocks:
    """Start a program with `environment`; from then on `set` moves its clocks."""

    def __init__(self, folder: Path) -> None:
        if COMPILER is None:
            pytest.skip("no C compiler (cc, gcc) to build the clocks with: install gcc")
        folder.mkdir()
        self._file, self._library = folder / "shift", folder / "clock_shift.so"
        command = [COMPILER, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", str(SOURCE), "-ldl"]
        subprocess.run([*command, "-o", str(self._library)], check=True)
        self._file.write_bytes(struct.pack("=qq", 0, 0))

    @property
    def environment(self) -> dict[str, str]:
        return {"LD_PRELOAD": str(self._library), "CLOCK_SHIFT": str(self._file)}

    def set(self, *, wall: int = 0, asleep: int = 0) -> None:
        """Ahead by so many seconds: the wall clock, and the count of seconds with sleep."""
        with self._file.open("r+b") as file:
            file.write(struct.pack("=qq", wall, asleep))
