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


def main() -> int:
    # Debian keeps the server's programs off the PATH, one folder per version.
    servers = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    os.environ["PATH"] = os.pathsep.join([os.environ["PATH"], *map(str, servers)])
    if not shutil.which("initdb"):
        install_postgresql()
        servers = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
        os.environ["PATH"] = os.pathsep.join([os.environ["PATH"], *map(str, servers)])
    chosen = sys.argv[1:] or [f"tests/{suite}" for suite in (*SUITES, *SLOW_SUITES)]
    return subprocess.call([sys.executable, "-m", "pytest", "--durations=8", *chosen], cwd=ROOT)


def install_postgresql() -> None:
    """Install the server where that is allowed; where it is not, its tests say that they skip."""
    if not shutil.which("apt-get") or os.geteuid() != 0:
        print("PostgreSQL is not installed and cannot be from here: its tests will be skipped.")
        return
    print("installing PostgreSQL for the store's tests …", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update"], ["install", "-y", "--no-install-recommends", "postgresql"]):
        quiet = subprocess.DEVNULL
        subprocess.call(["apt-get", "-qq", *words], env=environment, stdout=quiet)


if __name__ == "__main__":
    sys.exit(main())
