"""`foxden restore` believes nothing of an archive, and overwrites nothing."""

from __future__ import annotations

import hashlib
import io
import json
import sqlite3
import stat
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from foxden._restore import restore
from foxden.errors import InvalidRequest

PICTURE = b"a picture"
SHA256 = hashlib.sha256(PICTURE).hexdigest()
BLOB = f"blobs/acc/{SHA256[:2]}/{SHA256[2:]}"
Files = dict[str, bytes]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """What a broker's archive holds."""
    path = tmp_path / "made.db"
    with sqlite3.connect(path) as database:
        database.execute("create table job (id)")
    database.close()
    return {
        "foxden.db": path.read_bytes(),
        "signing.key": b"ab" * 32,
        "admin-token": b"fxd_x",
        "tls/ca.pem": b"pem",
        BLOB: PICTURE,
    }


def manifest_of(files: Files, **changed: Any) -> bytes:
    listed = {
        name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in files.items()
    }
    return json.dumps(
        {"format": 1, "created_ms": 1000, "pictures": True, "files": listed} | changed
    ).encode()


def pack(path: Path, files: Files, *more: tarfile.TarInfo, manifest: bytes | None = None) -> Path:
    with tarfile.open(path, "w") as tar:
        for info in more:
            tar.addfile(info, io.BytesIO(bytes(info.size)))
        whole = {**files, "manifest.json": manifest_of(files) if manifest is None else manifest}
        for name, data in whole.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_archive_becomes_a_brokers_folder_that_only_its_owner_reads(
    tmp_path: Path, files: Files
) -> None:
    home = tmp_path / "home"
    done = restore(pack(tmp_path / "a.tar", files), home)
    assert (done.folder, done.files, done.created_ms) == (home / "broker", 5, 1000)
    for name, data in files.items():
        assert (home / "broker" / name).read_bytes() == data
    if sys.platform != "win32":
        assert stat.S_IMODE((home / "broker" / "signing.key").stat().st_mode) == 0o600
        assert stat.S_IMODE((home / "broker").stat().st_mode) == 0o700
    assert [entry.name for entry in home.iterdir()] == ["broker"]


def test_home_with_anything_in_it_is_refused(tmp_path: Path, files: Files) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "note").write_text("mine")
    with pytest.raises(InvalidRequest, match="not empty"):
        restore(pack(tmp_path / "a.tar", files), home)
    assert [entry.name for entry in home.iterdir()] == ["note"]


def test_force_sets_the_earlier_folder_aside(tmp_path: Path, files: Files) -> None:
    home = tmp_path / "home"
    archive = pack(tmp_path / "a.tar", files)
    restore(archive, home)
    (home / "broker" / "old").write_text("old")
    done = restore(archive, home, force=True)
    assert done.kept_aside is not None
    assert (done.kept_aside / "old").read_text() == "old"
    assert not (home / "broker" / "old").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="flock")
def test_running_broker_is_refused_also_with_force(tmp_path: Path, files: Files) -> None:
    import fcntl

    home = tmp_path / "home"
    archive = pack(tmp_path / "a.tar", files)
    restore(archive, home)
    with (home / "broker" / "foxden.db.lock").open("a+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InvalidRequest, match="stop it first"):
            restore(archive, home, force=True)
    restore(archive, home, force=True)


def link(name: str, kind: bytes, target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def plain(name: str, size: int = 1) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size
    return info


@pytest.mark.parametrize(
    "member",
    [
        plain("../escaped"),
        plain("/etc/escaped"),
        plain("blobs/acc/../../escaped"),
        plain("tls/../../escaped"),
        plain("tls/.hidden"),
        plain("blobs/acc/ab/" + "G" * 62),
        plain("anything"),
        link("tls/ca.pem", tarfile.SYMTYPE, "/etc/passwd"),
        link("signing.key", tarfile.LNKTYPE, "foxden.db"),
        link("tls", tarfile.DIRTYPE, ""),
        link("admin-token", tarfile.FIFOTYPE, ""),
        plain("signing.key", 5000),
        plain("tls/ca.pem", 70_000),
    ],
    ids=lambda member: f"{member.name[:24]} {member.type.decode()} {member.size}",
)
def test_member_that_no_archive_of_ours_has_is_refused(
    tmp_path: Path, files: Files, member: tarfile.TarInfo
) -> None:
    archive = pack(tmp_path / "a.tar", files, member)
    home = tmp_path / "deep" / "home"
    with pytest.raises(InvalidRequest):
        restore(archive, home)
    assert not list(home.iterdir())
    assert not list(tmp_path.rglob("escaped"))


def damaged(files: Files) -> dict[str, Callable[[Path], Path]]:
    other = {**files, "signing.key": b"cd" * 32}
    twisted = {**files, BLOB: b"other"}
    return {
        "is not as its manifest": lambda p: pack(p, other, manifest=manifest_of(files)),
        "holds other bytes than its name": lambda p: pack(p, twisted),
        "no database": lambda p: pack(p, {k: v for k, v in files.items() if k != "foxden.db"}),
        "has the format 2": lambda p: pack(p, files, manifest=manifest_of(files, format=2)),
        "cannot be read: it was changed": lambda p: pack(p, files, manifest=b"[]"),
        "twice": lambda p: pack(p, files, plain("admin-token", 5)),
    }


@pytest.mark.parametrize("text", list(damaged({})))
def test_damaged_archive_is_refused_with_words(tmp_path: Path, files: Files, text: str) -> None:
    archive = damaged(files)[text](tmp_path / "a.tar")
    with pytest.raises(InvalidRequest, match=text):
        restore(archive, tmp_path / "home")
    assert not list((tmp_path / "home").iterdir())


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9])
def test_archive_that_was_cut_off_is_refused(tmp_path: Path, files: Files, share: float) -> None:
    archive = pack(tmp_path / "a.tar", {**files, "tls/ca.pem": b"x" * 60_000})
    data = archive.read_bytes()
    archive.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InvalidRequest, match=r"cut off|broken off"):
        restore(archive, tmp_path / "home")
    assert not list((tmp_path / "home").iterdir())


def test_file_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="there is no file"):
        restore(tmp_path / "none.tar", tmp_path / "home")
