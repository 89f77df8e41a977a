"""The home folder, and files that only their owner can read."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

from foxden_proto.home import home, write_private

posix = pytest.mark.skipif(sys.platform == "win32", reason="file modes are POSIX's")


def test_home_given_goes_before_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOXDEN_HOME", str(tmp_path / "environment"))
    assert home(tmp_path / "given") == tmp_path / "given"
    assert home() == tmp_path / "environment"


def test_home_relative_or_with_tilde_becomes_absolute(monkeypatch: pytest.MonkeyPatch) -> None:
    assert home("some/where").is_absolute()
    assert home("~/den") == Path.home() / "den"
    monkeypatch.setenv("FOXDEN_HOME", "elsewhere")
    assert home().is_absolute()


@pytest.mark.skipif(sys.platform != "linux", reason="the XDG folders are Linux's")
def test_home_without_a_word_is_the_platforms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FOXDEN_HOME", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert home() == tmp_path / "foxden"


def test_home_is_not_made_by_asking_for_it(tmp_path: Path) -> None:
    assert not home(tmp_path / "later").exists()


@posix
def test_private_file_new_is_0600_under_any_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_private(tmp_path / "den" / "secret", "fxd_")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "den" / "secret").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "den").stat().st_mode) == 0o700


@posix
def test_private_file_that_was_readable_by_all_becomes_0600(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("old")
    path.chmod(0o644)
    write_private(path, "new")
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_private_file_when_writing_fails_keeps_the_old_one_and_nothing_else(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "secret"
    write_private(path, "old")
    monkeypatch.setattr(os if broken == "fsync" else Path, broken, fail)
    with pytest.raises(OSError, match="No space"):
        write_private(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@posix
def test_private_file_being_written_is_never_readable_by_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    fsync = os.fsync

    def look(handle: int) -> None:
        seen.extend(stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir())
        fsync(handle)

    monkeypatch.setattr(os, "fsync", look)
    write_private(tmp_path / "secret", "text")
    assert seen == [0o600]
