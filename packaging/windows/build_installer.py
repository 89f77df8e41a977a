"""`make windows-installer`: compile the installer around the Windows bundle.

    python packaging/windows/build_installer.py [--bundle dist/windows/foxden] [--out dist]

PyInstaller makes that bundle on Windows alone (.github/workflows/windows.yml). Where it is missing,
the installer is compiled all the same, around a stand-in with the bundle's layout, and its name
says so: it shows that the script compiles and installs, and is for nobody to use.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PROGRAMS = ("foxden.exe", "foxdenw.exe")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, default=ROOT / "dist/windows/foxden")
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    args = parser.parse_args()
    if shutil.which("makensis") is None:
        print("makensis is not here: install NSIS (Debian: apt install nsis; nsis.sourceforge.io).")
        return 1
    project = (ROOT / "pyproject.toml").read_text()
    found = re.search(r'^version = "(.+)"$', project, re.M)
    assert found is not None
    args.out.mkdir(parents=True, exist_ok=True)
    print(build(args.bundle, args.out.resolve(), found[1]))
    return 0


def build(bundle: Path, out: Path, version: str) -> str:
    """Compile; returns a line about what was made."""
    missing = [name for name in PROGRAMS if not (bundle / name).is_file()]
    with tempfile.TemporaryDirectory() as folder:
        payload = bundle.resolve()
        name = f"foxden-{version}-windows-x86_64-setup.exe"
        if missing:
            payload = Path(folder) / "foxden"
            stand_in(payload)
            name = f"foxden-{version}-windows-STAND-IN-setup.exe"
            print(
                f"NOT A RELEASE: there is no {missing[0]} in {bundle}. The installer is compiled "
                "around a stand-in that only writes down how it was called; the real bundle is "
                "built on Windows, by .github/workflows/windows.yml."
            )
        makensis("foxden.nsi", VERSION=version, PAYLOAD=str(payload), OUT=str(out / name))
    return f"{out / name}: {(out / name).stat().st_size / 1e6:.1f} MB"


def stand_in(payload: Path) -> None:
    """The bundle's layout: two programs, and in _internal what is the same on every system."""
    inside = payload / "_internal"
    inside.mkdir(parents=True)
    makensis("stand_in.nsi", OUT=str(payload / PROGRAMS[0]))
    shutil.copy(payload / PROGRAMS[0], payload / PROGRAMS[1])
    for name in ("update_root_key.pub", "update_url.txt"):
        shutil.copy(ROOT / "packaging" / name, inside)
    shutil.copytree(
        ROOT / "agent/foxden_agent/engine/demo_model", inside / "foxden_agent/engine/demo_model"
    )
    shutil.copytree(
        ROOT / "agent/foxden_agent/installing/lock", inside / "foxden_agent/installing/lock"
    )


def makensis(script: str, **defines: str) -> None:
    words = ["makensis", "-V2", "-WX", *(f"-D{name}={value}" for name, value in defines.items())]
    if subprocess.run([*words, script], cwd=HERE, check=False).returncode:
        raise SystemExit(f"makensis could not compile {script}: see above.")


if __name__ == "__main__":
    sys.exit(main())
