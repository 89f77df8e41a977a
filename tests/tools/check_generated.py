"""Checks that what is generated and committed is what its sources give.

The protobuf stubs are made again in a temporary folder with the command of the Makefile's `proto`
target, and compared; the diagrams in ARCHITECTURE.md are compared by draw_states.py. Exit code 1
where something differs, with the command that makes it right.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STUBS = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")


def proto_command() -> str:
    """The recipe of the `proto` target, as make would run it; no other target runs."""
    made = subprocess.run(
        ["make", "-s", "-n", "--old-file=install", "--old-file=.venv/.installed", "proto"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    recipe = made.stdout.replace("\\\n", " ")
    return next(line for line in recipe.splitlines() if "grpc_tools.protoc" in line)


def stale_stubs() -> list[str]:
    """The stubs that differ from what the .proto files give, or lie there without one."""
    with tempfile.TemporaryDirectory(prefix="foxden-stubs-") as folder:
        copy = Path(folder)
        for source in (ROOT / "proto").rglob("*.proto"):
            target = copy / "proto" / source.relative_to(ROOT / "proto")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        # The recipe finds its Python by a path from the repository's root, in make's own words.
        (copy / ".venv").symlink_to(Path(sys.prefix))
        subprocess.run(proto_command(), shell=True, cwd=copy, check=True, env=dict(os.environ))
        return sorted(_differing(ROOT / "proto", copy / "proto"))


def _differing(committed: Path, fresh: Path) -> set[str]:
    found = {
        folder: {
            str(path.relative_to(folder)): path.read_bytes()
            for pattern in STUBS
            for path in folder.rglob(pattern)
        }
        for folder in (committed, fresh)
    }
    before, after = found[committed], found[fresh]
    return {name for name in before | after if before.get(name) != after.get(name)}


def main() -> int:
    stale = stale_stubs()
    if stale:
        print(f"These stubs are not what the .proto files give: {', '.join(stale)}.")
        print("Run `make proto` and commit what it changes.")
    drawn = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("draw_states.py")), "--check"], check=False
    )
    return 1 if stale or drawn.returncode else 0


if __name__ == "__main__":
    sys.exit(main())
