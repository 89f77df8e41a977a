"""What `import foxden` costs a program that may never draw."""

from __future__ import annotations

import subprocess
import sys

from measuring import Row, interleaved, median, quartiles, timed

ROUNDS = 9


def start(code: str) -> float:
    """Seconds of a fresh interpreter that runs this."""
    return timed(lambda: subprocess.run([sys.executable, "-c", code], check=True))


def run() -> list[Row]:
    rows = []
    for name, code, reach, bound in (
        ("import_seconds", "import foxden", "<= 0.3", "errors alone; other names load when used"),
        ("import_client_seconds", "from foxden import Client", "", "grpc and protobuf"),
    ):
        interleaved(1, lambda code=code: start(code), lambda: start("pass"))
        pairs = interleaved(ROUNDS, lambda code=code: start(code), lambda: start("pass"))
        extra = [one - bare for one, bare in pairs]
        rows.append(Row(name, median(extra), "s", reach, f"{bound}; half {quartiles(extra)}"))
    return rows
