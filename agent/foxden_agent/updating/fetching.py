"""Gets a release's description and its file: resumed where it broke off, verified before use."""

from __future__ import annotations

import hashlib
import http.client
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path

from foxden_agent.updating.manifest import LONGEST, ReleaseFile

_SECONDS = 30.0  # without a byte
_CHUNK = 256 * 1024
_RESERVE = 200 * 1000**2  # bytes of the disk that are left alone
_UNPACKED = 4  # times what is downloaded


class FetchFailed(Exception):
    """It could not be had; the text says why and whether to do anything."""


def check_url(url: str) -> str:
    """The address of a release.json, if it may be one. Raises ValueError.

    What is fetched is signed, so that plain HTTP would do no harm but to tell which version runs
    here; it is taken from this machine alone.
    """
    parts = urllib.parse.urlsplit(url)
    local = parts.scheme == "http" and parts.hostname in ("127.0.0.1", "::1", "localhost")
    if not (parts.scheme in ("https", "file") or local):
        raise ValueError(f"{url!r} is no address for updates: use https://…/release.json")
    return url


def description(url: str) -> bytes:
    """The bytes of release.json. Raises FetchFailed."""
    try:
        with urllib.request.urlopen(check_url(url), timeout=_SECONDS) as answer:  # noqa: S310
            data: bytes = answer.read(LONGEST + 1)
            return data
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise FetchFailed(f"Whether there is an update could not be asked ({error}).") from error


def fetch(
    url: str, file: ReleaseFile, folder: Path, go_on: Callable[[], None] = lambda: None
) -> Path:
    """Download a release's file into `folder`, which keeps what came when it breaks off.

    `url`: of its release.json. `go_on` is called between pieces, and ends it by what it raises.
    Raises FetchFailed.
    """
    whole, part = folder / file.name, folder / f"{file.name}.{file.sha256[:16]}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for other in folder.iterdir():  # of releases that are over
            if other not in (whole, part):
                other.unlink()
        if whole.exists() and _sha256(whole) == file.sha256:
            return whole
        there = part.stat().st_size if part.exists() else 0
        need = file.size * (1 + _UNPACKED) - there + _RESERVE
        free = shutil.disk_usage(folder).free
        if free < need:
            raise FetchFailed(
                f"The update needs {need / 1e6:.0f} MB of disk, and {free / 1e6:.0f} MB are free: "
                "make space, and it will be tried again."
            )
        _download(urllib.parse.urljoin(url, file.name), file, part, go_on)
        if part.stat().st_size < file.size:
            raise FetchFailed(
                "The download of the update broke off; it goes on there at the next try."
            )
        if part.stat().st_size > file.size or _sha256(part) != file.sha256:
            part.unlink()
            raise FetchFailed(
                "The downloaded update is not the file that was signed; it was thrown away, "
                "and will be tried again."
            )
        part.replace(whole)
    except (OSError, http.client.HTTPException) as error:
        raise FetchFailed(
            f"The update could not be downloaded ({getattr(error, 'strerror', '') or error}); "
            "it goes on where it stopped at the next try."
        ) from error
    return whole


def _download(url: str, file: ReleaseFile, part: Path, go_on: Callable[[], None]) -> None:
    there = part.stat().st_size if part.exists() else 0
    if there > file.size:
        part.unlink()
        there = 0
    if there == file.size:
        return
    request = urllib.request.Request(check_url(url))  # noqa: S310 -- its scheme was looked at
    if there and not url.startswith("file:"):
        request.add_header("Range", f"bytes={there}-")
    with urllib.request.urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310
        if url.startswith("file:"):
            answer.seek(there)
        elif there and answer.status != 206:  # it sends all of it, whatever was asked
            there = 0
        with part.open("r+b" if there else "wb") as out:
            out.seek(there)
            while there <= file.size and (chunk := answer.read(_CHUNK)):
                out.write(chunk)
                there += len(chunk)
                go_on()


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
