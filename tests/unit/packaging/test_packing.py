"""What is packed agrees with what is tested, and keys are not lost."""

from __future__ import annotations

import re
import subprocess
import zipfile
from pathlib import Path

import build_bundle
import lock_engine
import pytest
import sign_release

from foxden_agent.installing import torch_builds

ROOT = Path(__file__).resolve().parents[3]


def test_lock_has_the_versions_that_this_tree_is_tested_with() -> None:
    assert lock_engine.check() == 0
    assert f"\ntorch=={torch_builds.TORCH}\n" in (ROOT / "constraints.txt").read_text()


def test_every_package_of_the_lock_has_a_hash_and_no_source_archive() -> None:
    for name in ("engine.txt", "torch.txt"):
        text = (lock_engine.LOCK / name).read_text()
        parts = re.split(r"(?m)^(?=[\w.-]+==)", text)[1:]
        assert len(parts) > 10
        assert all("--hash=sha256:" in part for part in parts)


@pytest.mark.parametrize(
    ("name", "system", "fits"),
    [
        ("x-1-py3-none-any.whl", "Windows x86_64", True),
        ("x-1-cp312-cp312-manylinux_2_28_x86_64.whl", "Linux x86_64", True),
        ("x-1-cp312-cp312-manylinux_2_28_x86_64.whl", "Linux aarch64", False),
        ("x-1-cp312-cp312-musllinux_1_2_x86_64.whl", "Linux x86_64", False),
        ("x-1-cp310-abi3-win_amd64.whl", "Windows x86_64", True),
        ("x-1-cp314-cp314t-win_amd64.whl", "Windows x86_64", False),
        ("x-1-cp310-cp310-win_amd64.whl", "Windows x86_64", False),
        ("x-1-cp311-cp311-macosx_14_0_universal2.whl", "Darwin arm64", True),
    ],
)
def test_wheel_is_listed_for_the_systems_that_foxden_runs_on(
    name: str, system: str, fits: bool
) -> None:
    assert lock_engine.fits({"url": f"https://example.org/{name}"}, system) is fits


def test_wheel_without_the_demo_model_is_a_whole_wheel(tmp_path: Path) -> None:
    made = tmp_path / "old.whl"
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("foxden_agent/engine/demo_model/unet/x.safetensors", b"x" * 1000)
        archive.writestr("foxden_agent/__init__.py", "")
        archive.writestr("foxden-1.dist-info/RECORD", "")
    build_bundle.without_demo_model(made, tmp_path / "new.whl")
    with zipfile.ZipFile(tmp_path / "new.whl") as archive:
        assert archive.namelist() == ["foxden_agent/__init__.py", "foxden-1.dist-info/RECORD"]
        record = archive.read("foxden-1.dist-info/RECORD").decode().splitlines()
    assert [line.split(",")[0] for line in record] == archive.namelist()


def test_key_is_private_and_never_written_over(tmp_path: Path) -> None:
    key = tmp_path / "root.key"
    sign_release.main(["root-key", str(key)])
    assert key.stat().st_mode & 0o077 == 0
    before = key.read_text()
    with pytest.raises(FileExistsError):
        sign_release.main(["root-key", str(key)])
    assert key.read_text() == before


def test_folder_without_archives_is_no_release(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["release", str(tmp_path / "key"), str(tmp_path), "--version", "0.2.0"]
    assert sign_release.main(words) == 1
    assert "no foxden-0.2.0-PLATFORM archive" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["install.sh", "uninstall.sh", "stop.sh", "prerm", "postinst"])
def test_script_is_plain_shell(name: str) -> None:
    script = ROOT / "packaging/linux" / name
    assert subprocess.run(["sh", "-n", str(script)], check=False).returncode == 0
