"""`make test`: everything a test needs from the system, then all tests, quick ones first.

    python tests/run.py [words for pytest …]

With CI=true a skipped test is a failure: what is skipped there is tested nowhere.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SUITES = ("unit", "test_boundaries.py", "test_settings_documented.py", "conformance", "simulation")
SLOW_SUITES = ("engine", "system")
# Debian's package, and a program by which it is known to be there.
NEEDED = {
    "postgresql": "initdb",  # the store
    "gcc": "cc",  # the stand-in NVML
    "libc6-dev": "cc",
    "xvfb": "Xvfb",  # full screen and idle time
    "x11-utils": "xprop",
}


def main() -> int:
    missing = [package for package, program in NEEDED.items() if not found(program)]
    if missing:
        install(missing)
    os.environ["PATH"] = os.pathsep.join([os.environ["PATH"], *map(str, postgresql())])
    chosen = sys.argv[1:] or [f"tests/{suite}" for suite in (*SUITES, *SLOW_SUITES)]
    return subprocess.call([sys.executable, "-m", "pytest", "--durations=8", *chosen], cwd=ROOT)


def found(program: str) -> bool:
    return any(shutil.which(program, path=path) for path in (os.environ["PATH"], *postgresql()))


def postgresql() -> list[Path]:
    """Debian keeps the server's programs off the PATH, one folder per version."""
    return sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)


def install(packages: list[str]) -> None:
    """Install what tests need where that is allowed; where it is not, they say that they skip."""
    names = ", ".join(packages)
    if not shutil.which("apt-get") or os.geteuid() != 0:
        print(f"{names}: not installed and cannot be from here, so some tests will be skipped.")
        return
    print(f"installing {names} for the tests …", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        quiet = subprocess.DEVNULL
        subprocess.call(["apt-get", "-qq", *words], env=environment, stdout=quiet)


if __name__ == "__main__":
    sys.exit(main())
