"""The installed program: complete without torch, small, quick to start, and with a way on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from foxden_broker.store import migrate

LARGEST = 90e6  # bytes of what a user downloads
SLOWEST = 1.0  # seconds until a command is there
pytestmark = pytest.mark.timeout(600)  # the first of them waits for the build
Call = Callable[..., subprocess.CompletedProcess[str]]


def test_program_says_its_version(call: Call) -> None:
    assert call("--version").stdout.strip() == version("foxden")


@pytest.mark.parametrize(
    "command",
    [
        *("agent", "broker", "up", "demo", "generate", "doctor", "engine", "service", "update"),
        *("pause", "join", "leave", "page", "tray", "join-link"),
    ],
)
def test_command_is_there_and_starts_within_a_second(call: Call, command: str) -> None:
    before = os.times()
    done = call(command, "--help")
    after = os.times()
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout
    # Of processor time, which is what it takes on a machine that does nothing else.
    used = after.children_user + after.children_system
    assert used - before.children_user - before.children_system <= SLOWEST


def test_no_torch_is_inside_and_what_makes_an_engine_is(program: Path) -> None:
    inside = program.parent / "_internal"
    names = {path.name for path in inside.iterdir()}
    assert not names & {"torch", "diffusers", "transformers", "scipy"}
    assert (inside / "uv").stat().st_mode & 0o100
    assert len(list((inside / "engine_wheel").glob("foxden-*.whl"))) == 1
    assert len(list(inside.rglob("unet/*.safetensors"))) == 1  # the demo model, once
    steps = Path(migrate.__file__).with_name("migrations") / "versions"
    packed = inside / "foxden_broker/store/migrations/versions"
    assert {f.name for f in packed.glob("*.py")} == {f.name for f in steps.glob("*.py")}


def test_bundle_is_of_one_version_and_says_nothing_of_where_it_was_built(program: Path) -> None:
    about = list((program.parent / "_internal").glob("foxden-*.dist-info"))
    assert [path.name for path in about] == [f"foxden-{version('foxden')}.dist-info"]
    here = str(Path(__file__).parents[2]).encode()
    files = [path for path in program.parent.rglob("*") if path.is_file()]
    assert [path for path in files if here in path.read_bytes()] == []


def test_download_is_small_enough(program: Path) -> None:
    """Packed as quickly as xz can; what is released is packed a tenth smaller, and four times as
    long."""
    words = ["tar", "-C", str(program.parents[1]), "-cf", "-", "foxden"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as packing:
        done = subprocess.run(
            ["xz", "-T0", "-1"], stdin=packing.stdout, capture_output=True, check=True
        )
    assert packing.returncode == 0
    assert len(done.stdout) <= LARGEST


def test_agent_without_engine_says_what_to_run(call: Call) -> None:
    done = call("agent", "--broker", "foxden://127.0.0.1:1", "--token", "fxd_x", "--device", "cpu")
    assert done.returncode == 1
    assert "foxden engine install" in done.stderr
    told = call("doctor", "--json")
    engine = next(f for f in json.loads(told.stdout)["findings"] if f["subject"] == "engine")
    assert engine["advice"] == "Run: foxden engine install."


def test_engine_installation_tells_its_size_before_anything(call: Call, tmp_path: Path) -> None:
    done = call("engine", "install", "--dry-run", "--json")
    plan = json.loads(done.stdout)["plan"]
    assert plan["download"] > 1e8
    assert not (tmp_path / ".local").exists()


def test_broker_and_agent_of_one_pc_start_from_the_bundle(program: Path, tmp_path: Path) -> None:
    words = [
        str(program),
        "up",
        "--grpc-port",
        "0",
        "--http-port",
        "0",
        "--json",
        "--device",
        "cpu",
    ]
    environment = {"HOME": str(tmp_path), "PATH": os.defpath}
    done = subprocess.run(
        words, capture_output=True, text=True, env=environment, timeout=120, check=False
    )
    # The broker came up, with its database; the agent says what it lacks.
    assert "foxden engine install" in done.stdout + done.stderr
    assert list(tmp_path.rglob("*.db")) or list(tmp_path.rglob("*.sqlite*"))


def test_update_without_a_key_is_off_and_says_so(call: Call) -> None:
    done = call("update", "--json")
    assert json.loads(done.stdout)["state"] == "not-ours"  # it lies in no folder of versions


def test_windows_installer_compiles_around_the_layout(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "packaging/windows/build_installer.py"
    words = [sys.executable, str(script), "--bundle", str(tmp_path / "none"), "--out"]
    done = subprocess.run(
        [*words, str(tmp_path)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "NOT A RELEASE" in done.stdout
    made = next(tmp_path.glob("*-setup.exe"))
    assert "STAND-IN" in made.name
    assert made.read_bytes()[:2] == b"MZ"
