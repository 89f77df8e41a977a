"""`make test`: everything a test needs from the system, then all tests, quick ones first.

    python tests/run.py [words for pytest …]

Without words it is one call of pytest for each suite, in turn, two processes to a suite where that
is quicker; the last line counts all of them. With words it is one plain call. With CI=true a
skipped test is a failure: what is skipped there is tested nowhere.

A few tests of a suite that failed are run once more, alone: real processes meet the moods of a
machine. Those that pass then are counted as unsteady, and named so; they want mending.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from xml.etree import ElementTree

_SECOND_TRY = 3  # failed tests of a suite, at most, that are run again

ROOT = Path(__file__).resolve().parent.parent
QUICK = ("unit", "test_boundaries.py", "test_settings_documented.py", "simulation")
# A file's tests stay together, for what they share.
BY_FILE = ("-n", "2", "--dist", "loadfile")


@dataclass(frozen=True)
class Suite:
    """One call of pytest."""

    name: str
    paths: Sequence[str]
    words: Sequence[str] = ()


SUITES = (
    Suite("unit", QUICK, BY_FILE),
    Suite("conformance", ("conformance",), BY_FILE),
    Suite("engine", ("engine",)),
    # Tests that share a pool stay together (system/conftest.py).
    Suite("system", ("system",), ("-m", "not alone", "-n", "2", "--dist", "loadgroup")),
    Suite("browser and desktop", ("browser", "desktop")),
    # These compare times: another test beside them would be what they measure.
    Suite("system, one by one", ("system",), ("-m", "alone")),
    Suite("bundle", ("bundle",)),
)

# Debian's package, and a program (or a file) by which it is known to be there.
NEEDED = {
    "postgresql": "initdb",  # the store
    "gcc": "cc",  # the stand-in NVML
    "libc6-dev": "cc",
    "xvfb": "Xvfb",  # full screen and idle time
    "x11-utils": "xprop",
    "chromium": "chromium",  # the owner's page
    "chromium-driver": "chromedriver",
    "trayer": "trayer",  # the tray: a panel, a hand, a camera, and GTK's bindings
    "xdotool": "xdotool",
    "imagemagick": "import",
    "gnome-keyring": "gnome-keyring-daemon",  # where a machine's key is kept
    "python3-gi": "/usr/lib/python3/dist-packages/gi",
    "gir1.2-gtk-3.0": "/usr/lib/*/girepository-1.0/Gtk-3.0.typelib",
    "binutils": "objdump",  # PyInstaller looks into libraries with it
    "xz-utils": "xz",
    "systemd": "/lib/systemd/systemd",  # the user's unit
    "nsis": "makensis",  # the Windows installer
}


def main() -> int:
    missing = [package for package, program in NEEDED.items() if not found(program)]
    if missing:
        install(missing)
    os.environ["PATH"] = os.pathsep.join([os.environ["PATH"], *map(str, postgresql())])
    if sys.argv[1:]:
        return pytest(sys.argv[1:])
    return run_all()


def run_all() -> int:
    """Every suite, also after one that failed. 0 where all of them passed."""
    counted: Counter[str] = Counter()
    broken = []
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="foxden-tests-") as folder:
        for suite in SUITES:
            print(f"\n{suite.name}:", flush=True)
            report = Path(folder) / "report.xml"
            paths = [f"tests/{path}" for path in suite.paths]
            # 5, no test at all, counts as broken like every other code: a suite that is not
            # found is not one that passed.
            code = pytest([*suite.words, f"--junitxml={report}", *paths])
            failed, found = code != 0, counts(report)
            if code == 1 and 0 < found["failed"] <= _SECOND_TRY:  # 1: tests failed, and no more
                print(f"\n{suite.name}, what failed, once more and alone:", flush=True)
                failed = pytest(["--last-failed", "--last-failed-no-failures=none", *paths]) != 0
                if not failed:
                    found += Counter({"UNSTEADY": found.pop("failed")})
            if failed:
                broken.append(suite.name)
            counted += found
    told = ", ".join(f"{number} {what}" for what, number in counted.items() if number)
    told += f" in {time.monotonic() - began:.0f} s"
    if broken:
        told = f"NOT ALL WELL in {'; '.join(broken)}: {told}"
    print(f"\n===== all suites: {told} =====", flush=True)
    return 1 if broken else 0


def counts(report: Path) -> Counter[str]:
    """How many tests passed, failed and were skipped; nothing where pytest wrote no report."""
    if not report.exists():
        return Counter()
    suite = ElementTree.parse(report).getroot().find("testsuite")
    report.unlink()
    if suite is None:
        return Counter()
    failed = int(suite.get("failures", "0")) + int(suite.get("errors", "0"))
    skipped = int(suite.get("skipped", "0"))
    passed = int(suite.get("tests", "0")) - failed - skipped
    return Counter({"passed": passed, "failed": failed, "skipped": skipped})


def pytest(words: Sequence[str]) -> int:
    return subprocess.call([sys.executable, "-m", "pytest", "--durations=8", *words], cwd=ROOT)


def found(program: str) -> bool:
    if program.startswith("/"):
        return bool(glob(program))
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
