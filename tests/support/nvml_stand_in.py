"""Builds the stand-in NVML, says what it answers, and runs programs of ours with it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from foxden_agent.readings import CardProcess, CardReadings

SOURCE = Path(__file__).with_name("nvml_stand_in.c")
COMPILER = shutil.which("cc") or shutil.which("gcc")
GIB = 1024**3


def card(number: int = 0, **figures: object) -> dict[str, object]:
    """A card that tells everything. Its bus, UUID and heat follow its number."""
    return {
        "uuid": f"GPU-0000000{number}-aaaa-bbbb-cccc-dddddddddddd",
        "pci": f"00000000:0{number + 1}:00.0",
        "name": "NVIDIA GeForce RTX 4070",
        "total": 12 * GIB,
        "used": 2 * GIB,
        "reserved": GIB // 2,
        "temperature": 61 + number,
        "slowdown": 88,
        "shutdown": 93,
        "utilisation": 40,
        "power": 120_500,
        "limit": 200_000,
        "energy": 5_000_000,
        "clock": 2475,
        "fan": 35,
        "reasons": 0,
        "compute": "-",
        "graphics": "-",
        **figures,
    }


class StandIn:
    """A folder with a library and what it answers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.control = folder / "answers"
        self.cards: dict[int, dict[str, object]] = {0: card()}
        self.driver: dict[str, object] = {}

    def build(self, *flags: str) -> None:
        """Compile the library, beside and then over one that a program may have loaded."""
        assert COMPILER is not None
        library = self.folder / "libnvidia-ml.so.1"
        made = library.with_suffix(".new")
        command = [COMPILER, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", *flags]
        subprocess.run([*command, "-o", str(made), str(SOURCE)], check=True)
        made.replace(library)

    def tell(self) -> None:
        """Let the library answer what `driver` and `cards` hold now."""
        lines = [f"count {len(self.cards)}"]
        lines += [f"{key} {value}" for key, value in self.driver.items()]
        for number, figures in self.cards.items():
            lines += [f"{number}.{key} {value}" for key, value in figures.items()]
        made = self.control.with_suffix(".new")
        made.write_text("\n".join(lines) + "\n")
        made.replace(self.control)

    @property
    def inits(self) -> int:
        """How often NVML was started."""
        counted = self.control.with_name(self.control.name + ".inits")
        return counted.stat().st_size if counted.exists() else 0

    @property
    def environment(self) -> dict[str, str]:
        plain = {key: text for key, text in os.environ.items() if not key.startswith("CUDA_")}
        path = os.pathsep.join(["agent", "proto"])
        return {
            **plain,
            "LD_LIBRARY_PATH": str(self.folder),
            "NVML_STAND_IN": str(self.control),
            "PYTHONPATH": path,
        }


class OtherProcess:
    """A program of tests/support that answers a line for each line. Killed at the end."""

    def __init__(self, script: str, *arguments: str, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name(script)), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=dict(environment),
            cwd=Path(__file__).resolve().parents[2],
            text=True,
        )
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def say(self, question: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()

    def hear(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the other program ended: its errors are above"
        return json.loads(line)

    def ask(self, question: object) -> Any:
        self.say(question)
        return self.hear()


def card_readings(told: Mapping[str, Any]) -> CardReadings:
    """From what dataclasses.asdict and JSON made of it."""
    values = dict(told)
    values["throttled"] = frozenset(values["throttled"])
    if values["processes"] is not None:
        values["processes"] = tuple(CardProcess(**one) for one in values["processes"])
    return CardReadings(**values)
