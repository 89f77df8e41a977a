"""`make bundle`: the shell as a folder, dist/foxden, for the system that this runs on.

    python packaging/build_bundle.py [--version 0.1.1] [--out dist] [--root-key FILE]

Builds Foxden's wheel, lays out what belongs into the bundle beside the sources, and calls
PyInstaller. PyInstaller cannot build for another system: the Windows bundle is made on Windows.
"""

from __future__ import annotations

import argparse
import base64
import csv
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import uv

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("agent", "broker", "client_sdk", "proto")
DEMO_MODEL = "foxden_agent/engine/demo_model/"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--version", default="", help="another version than pyproject.toml's")
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    key = ROOT / "packaging/update_root_key.pub"
    parser.add_argument("--root-key", type=Path, default=key, help="who may sign its updates")
    args = parser.parse_args()
    began = time.monotonic()
    bundle = build(args.out.resolve(), args.version, args.root_key)
    megabytes = sum(f.stat().st_size for f in bundle.rglob("*") if f.is_file()) / 1e6
    print(f"{bundle}: {megabytes:.0f} MB, in {time.monotonic() - began:.0f} s")
    return 0


def build(out: Path, version: str, root_key: Path) -> Path:
    """Build the bundle into `out`/foxden and return that folder."""
    parts = ROOT / "build" / "parts"
    shutil.rmtree(parts, ignore_errors=True)
    (parts / "engine_wheel").mkdir(parents=True)
    with tempfile.TemporaryDirectory() as folder:
        wheel = build_wheel(Path(folder), version)
        without_demo_model(wheel, parts / "engine_wheel" / wheel.name)
        with zipfile.ZipFile(wheel) as archive:
            names = [one for one in archive.namelist() if ".dist-info/" in one]
            archive.extractall(parts, names)
    shutil.copy2(uv.find_uv_bin(), parts)
    shutil.copy(root_key, parts / "update_root_key.pub")
    shutil.copy(ROOT / "packaging/update_url.txt", parts)
    words = [sys.executable, "-m", "PyInstaller", "--noconfirm", "--log-level", "WARN"]
    words += ["--distpath", str(out), "--workpath", str(ROOT / "build" / "pyinstaller")]
    environment = {**os.environ, "FOXDEN_PARTS": str(parts)}
    subprocess.run([*words, "agent.spec"], cwd=ROOT, env=environment, check=True)
    return out / "foxden"


def build_wheel(folder: Path, version: str) -> Path:
    """Foxden's wheel, of a copy of the sources where another version is wanted."""
    tree = folder / "tree"
    tree.mkdir()
    for name in SOURCES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tree / name, ignore=ignored)
    for name in ("README.md", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tree)
    project = (ROOT / "pyproject.toml").read_text()
    if version:
        project = re.sub(r'(?m)^version = ".*"$', f'version = "{version}"', project, count=1)
    (tree / "pyproject.toml").write_text(project)
    words = [uv.find_uv_bin(), "build", "--wheel", "-q", "--no-config", "--out-dir", str(folder)]
    subprocess.run([*words, str(tree)], check=True)
    return next(folder.glob("foxden-*.whl"))


def without_demo_model(wheel: Path, made: Path) -> None:
    """A copy of a wheel without the demo model: the shell has it, and tells the engine where."""
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as new:
        rows = []
        record = next(one for one in old.namelist() if one.endswith(".dist-info/RECORD"))
        for name in old.namelist():
            if name.startswith(DEMO_MODEL) or name == record:
                continue
            data = old.read(name)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            rows.append((name, f"sha256={digest}", len(data)))
            new.writestr(name, data)
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([*rows, (record, "", "")])
        new.writestr(record, text.getvalue())


if __name__ == "__main__":
    sys.exit(main())
