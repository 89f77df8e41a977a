"""The bundle, built once for all tests of it: about a minute."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program in a bundle of this checkout."""
    out = tmp_path_factory.mktemp("bundle")
    words = [sys.executable, str(ROOT / "packaging/build_bundle.py"), "--out", str(out)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
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
