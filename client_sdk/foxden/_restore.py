"""A broker's folder made anew from an archive of `foxden backup`.

Nothing of the archive is believed: only names that our archives have, only plain files, each no
larger than such a file can be, and each as its manifest says. All of it goes into a folder of its
own first; the broker's folder appears in one step.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from foxden.errors import InvalidRequest
from foxden_proto.backups import DATABASE, FORMAT, MANIFEST, blob_sha256, most_bytes
from foxden_proto.limits import MIB

_FOLDER = "broker"  # in the home
_SQLITE = b"SQLite format 3\x00"
_SPARE_BYTES = 64 * MIB  # left free on the disk


@dataclass(frozen=True)
class Restored:
    """What was made; `kept_aside` is the folder that was there before, if any."""

    folder: Path
    files: int
    pictures: bool  # they were in the archive
    created_ms: int
    kept_aside: Path | None


def restore(archive: Path, home: Path, *, force: bool = False) -> Restored:
    """Make `home/broker` from the archive. Raises InvalidRequest, saying what is wrong with it.

    A home with anything in it is refused without `force`; with it, its broker's folder is set
    aside, never deleted. A broker that runs there is refused in any case.
    """
    folder = home / _FOLDER
    if home.exists() and (not home.is_dir() or any(home.iterdir())) and not force:
        raise _wrong(
            f"{home} is not empty: choose another --home, or say --force to set its broker's "
            "folder aside",
            "home",
        )
    if _running(folder / f"{DATABASE}.lock"):
        raise _wrong(f"a broker is running in {home}: stop it first", "home")
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    staging = Path(tempfile.mkdtemp(dir=home, prefix=".restoring-"))
    try:
        manifest = _unpack(archive, staging)
        aside = None
        if folder.exists():
            aside = home / f"{_FOLDER}.before-{time.strftime('%Y%m%d-%H%M%S')}"
            folder.rename(aside)
        staging.rename(folder)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return Restored(
        folder,
        len(manifest["files"]),
        bool(manifest["pictures"]),
        int(manifest["created_ms"]),
        aside,
    )


def _unpack(archive: Path, staging: Path) -> dict[str, Any]:
    """Unpack into the folder, compare with the manifest, and return that."""
    found: dict[str, dict[str, object]] = {}
    manifest: dict[str, Any] | None = None
    try:
        with tarfile.open(archive, "r|") as tar:
            for member in tar:
                if manifest is not None:
                    raise _wrong(f"{archive} goes on after its manifest: it was changed")
                _check_member(archive, member, found, staging)
                source = tar.extractfile(member)
                assert source is not None  # it is a plain file
                if member.name == MANIFEST:
                    manifest = _manifest(archive, source.read())
                else:
                    digest = _write(source, staging / member.name)
                    found[member.name] = {"size": member.size, "sha256": digest}
    except (tarfile.TarError, EOFError) as error:
        raise _wrong(f"{archive} cannot be read as an archive ({error}): it may be cut off") from (
            None
        )
    except FileNotFoundError:
        raise _wrong(f"there is no file {archive}") from None
    if manifest is None:
        raise _wrong(f"{archive} has no manifest: the backup was broken off, make another")
    if manifest["files"] != found:
        listed: dict[str, object] = manifest["files"]
        differ = sorted(k for k in {*listed, *found} if listed.get(k) != found.get(k))
        raise _wrong(f"{archive} is damaged: {differ[0]} is not as its manifest says")
    for name, facts in found.items():
        if (sha256 := blob_sha256(name)) and facts["sha256"] != sha256:
            raise _wrong(f"{archive} is damaged: {name} holds other bytes than its name says")
    database = staging / DATABASE
    with database.open("rb") if database.is_file() else open(os.devnull, "rb") as file:
        if file.read(len(_SQLITE)) != _SQLITE:
            raise _wrong(f"{archive} holds no database: it is no backup of a broker")
    return manifest


def _check_member(
    archive: Path, member: tarfile.TarInfo, found: dict[str, dict[str, object]], staging: Path
) -> None:
    most = most_bytes(member.name)
    if not member.isreg() or most is None:
        raise _wrong(f"{archive} holds {member.name[:100]!r}, which no backup of a broker does")
    if member.name in found:
        raise _wrong(f"{archive} holds {member.name} twice: it was changed")
    if member.size > most:
        raise _wrong(f"{archive} holds a {member.name} of {member.size:,} bytes: that is too much")
    if member.size + _SPARE_BYTES > shutil.disk_usage(staging).free:
        raise _wrong(f"the disk of {staging.parent} has no room for {archive}", "home")


def _manifest(archive: Path, data: bytes) -> dict[str, Any]:
    try:
        manifest = json.loads(data)
        if manifest["format"] != FORMAT:
            raise _wrong(
                f"{archive} has the format {manifest['format']}, this version reads {FORMAT}: "
                "use the Foxden version that made it, or a later one"
            )
        if not isinstance(manifest["files"], dict):
            raise TypeError
        return {
            "files": manifest["files"],
            "pictures": bool(manifest["pictures"]),
            "created_ms": int(manifest["created_ms"]),
        }
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, InvalidRequest):
            raise
        raise _wrong(f"{archive} has a manifest that cannot be read: it was changed") from None


def _write(source: IO[bytes], path: Path) -> str:
    """Write a file that only its owner can read; returns its sha256."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    digest = hashlib.sha256()
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        while data := source.read(MIB):
            digest.update(data)
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _running(lock: Path) -> bool:
    """Whether a broker holds this lock file (see the broker's store/lockfile.py)."""
    if not lock.exists():
        return False
    with lock.open("r+b") as file:
        try:
            if sys.platform == "win32":
                import msvcrt

                file.seek(1 << 20)
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _wrong(what: str, field: str = "archive") -> InvalidRequest:
    return InvalidRequest(what, field=field, allowed="an archive of `foxden backup`")
