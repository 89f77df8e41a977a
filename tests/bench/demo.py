"""`foxden demo`, broker and agent included, against a script that does nothing but draw."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measuring import Row, interleaved, mean_difference, median
from PIL import Image

ROUNDS = 3
_LIMIT = 240.0  # seconds


def seconds_until(path: Path, command: list[str]) -> tuple[float, str]:
    """Seconds from the process's start until its picture is on the disk, and what it said."""
    path.unlink(missing_ok=True)
    start = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=_environment()
    ) as process:
        while not path.exists():
            assert time.perf_counter() - start < _LIMIT, f"no picture in {_LIMIT:.0f} s: {command}"
            assert process.poll() in (None, 0), f"exit code {process.returncode}: {command}"
            time.sleep(0.01)
        seconds = time.perf_counter() - start
        output, _ = process.communicate()
    return seconds, output


def _environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("FOXDEN_")}


def run() -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="foxden-bench-") as folder:
        ours, bare = Path(folder) / "demo.png", Path(folder) / "bare.png"
        stages: list[dict[str, float]] = []

        def demo() -> float:
            command = [sys.executable, "-m", "foxden", "demo", "--json", "--out", str(ours)]
            seconds, output = seconds_until(ours, [*command, "--device", "cpu"])
            stages.append(json.loads(output)["timings"])
            return seconds

        def script() -> float:
            plain = Path(__file__).with_name("plain.py")
            return seconds_until(bare, [sys.executable, str(plain), "once", str(bare)])[0]

        interleaved(1, demo, script)  # fills the file cache
        stages.clear()
        pairs = interleaved(ROUNDS, demo, script)
        with Image.open(ours) as one, Image.open(bare) as other:
            difference = mean_difference(
                one.convert("RGB").tobytes(), other.convert("RGB").tobytes()
            )
        assert difference <= 2.0, f"not the same picture: {difference:.2f} of 255 apart"

    parts = ", ".join(
        f"{name} {median([stage[name] for stage in stages]):.1f} s"
        for name in ("broker", "card", "picture")
    )
    bare_seconds = median([b for _, b in pairs])
    return [
        Row("demo_seconds", median([a for a, _ in pairs]), "s", "<= 20", f"{parts}"),
        Row(
            "demo_ratio",
            median([a / b for a, b in pairs]),
            "x",
            "<= 1.5",
            f"the bare script takes {bare_seconds:.1f} s: "
            "starting, importing, loading and drawing together (not profiled apart)",
        ),
    ]
