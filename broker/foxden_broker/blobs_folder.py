"""Blobs in a folder.

A blob is written to a file of its own, made durable, and then given its name in one step; so what
has a name is whole, also after a power cut.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from foxden_broker.blobs import (
    BUFFER_BYTES,
    SHA256,
    BlobError,
    BlobMismatch,
    BlobMissing,
    BlobTooBig,
    Kept,
    check_sha256,
    translate,
)
from foxden_proto.limits import CHUNK_BYTES

_ABANDONED_SECONDS = 3600.0
_ASIDE = ".aside"  # what a file is called in `tmp/` while it is decided whether it goes


class FolderBlobs:
    """A folder: `ab/cdef…` for what is kept, `tmp/` for what is arriving.

    `shared`: other brokers write here too, so that only what is long abandoned is cleared away.
    """

    def __init__(self, root: Path | str, *, shared: bool = False) -> None:
        self._root = Path(root).absolute()
        self._tmp = self._root / "tmp"
        try:
            self._tmp.mkdir(parents=True, exist_ok=True)
            # Left by a crash. Where another broker writes here, its arriving blobs look the same:
            # but nothing takes an hour to arrive.
            before_ms = (time.time() - _ABANDONED_SECONDS) * 1000
            asides = []
            for left in self._tmp.iterdir():
                if shared and not _put_before(left, before_ms):
                    continue
                if left.suffix == _ASIDE:
                    asides.append(left)
                else:
                    left.unlink(missing_ok=True)
            for shard in range(256):  # now, so that no picture has to make its folder durable
                (self._root / f"{shard:02x}").mkdir(exist_ok=True)
            _sync_folder(self._root)
            for aside in asides:  # a crash while it was looked at: it stays
                _put_back(aside, _place(self._root, aside.name[:64]))
        except OSError as error:
            raise translate(error, self._root) from error

    async def put(
        self,
        chunks: AsyncIterator[bytes],
        *,
        limit: int,
        expect_sha256: str | None = None,
        expect_size: int | None = None,
    ) -> tuple[str, int]:
        if expect_sha256 is not None:
            check_sha256(expect_sha256)
        if expect_size is not None and expect_size > limit:
            raise BlobTooBig(limit)
        arriving = _Arriving(self._root, self._tmp, expect_sha256, expect_size)
        waiting: list[bytes] = []
        held = total = 0
        begun = False
        try:
            async for chunk in chunks:
                total += len(chunk)
                if total > limit:
                    raise BlobTooBig(limit)
                waiting.append(chunk)
                held += len(chunk)
                if held >= BUFFER_BYTES:
                    begun = True
                    await asyncio.to_thread(arriving.write, waiting)
                    waiting, held = [], 0
            begun = True
            return await asyncio.to_thread(arriving.finish, waiting)
        except BaseException:
            if begun:  # a caller who is cancelled leaves a thread at work; this waits for it
                await asyncio.shield(asyncio.to_thread(arriving.discard))
            raise

    async def read(self, sha256: str) -> AsyncIterator[bytes]:
        path = self._path(sha256)
        file: BinaryIO | None = None
        try:
            file, data = await asyncio.to_thread(_open, path, sha256)
            while data:
                for at in range(0, len(data), CHUNK_BYTES):
                    yield data[at : at + CHUNK_BYTES]
                data = await asyncio.to_thread(file.read, BUFFER_BYTES) if file else b""
        except OSError as error:
            raise translate(error, path) from error
        finally:
            if file is not None:
                file.close()

    async def size(self, sha256: str) -> int | None:
        path = self._path(sha256)
        try:
            return (await asyncio.to_thread(path.stat)).st_size
        except FileNotFoundError:
            return None
        except OSError as error:
            raise translate(error, path) from error

    async def delete(self, sha256: str, *, put_before_ms: int | None = None) -> bool:
        path = self._path(sha256)
        try:
            if put_before_ms is not None:
                return await asyncio.to_thread(_delete_old, path, sha256, self._tmp, put_before_ms)
            await asyncio.to_thread(path.unlink)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise translate(error, path) from error
        return True

    async def kept(self) -> AsyncIterator[Kept]:
        for shard in range(256):  # a thread hop for each: nobody waits for the whole folder
            for found in await asyncio.to_thread(_listed, self._root / f"{shard:02x}"):
                yield found

    async def tidy(self, begun_before_ms: int) -> int:
        try:
            return await asyncio.to_thread(_tidy, self._tmp, begun_before_ms)
        except OSError as error:
            raise translate(error, self._tmp) from error

    def _path(self, sha256: str) -> Path:
        return _place(self._root, check_sha256(sha256))


class _Arriving:
    """One blob on its way to the disk. Its methods block, and exclude each other."""

    def __init__(
        self, root: Path, tmp: Path, expect_sha256: str | None, expect_size: int | None
    ) -> None:
        self._root, self._path = root, tmp / uuid.uuid4().hex
        self._expect_sha256, self._expect_size = expect_sha256, expect_size
        self._lock = threading.Lock()
        self._hash = hashlib.sha256()
        self._size = 0
        self._file: BinaryIO | None = None
        self._over = False

    def write(self, chunks: list[bytes]) -> None:
        with self._working():
            self._write(chunks)

    def finish(self, chunks: list[bytes]) -> tuple[str, int]:
        """Check it against what was announced, make it durable, give it its name."""
        with self._working():
            if self._file is None:  # it all came at once: look before writing
                self._take(chunks)
                place = self._verified()
                if not self._kept(place):
                    self._store(chunks)
                    self._publish(place)
            else:
                self._write(chunks)
                place = self._verified()
                if not self._kept(place):
                    self._publish(place)
            self._discard()
            return self._hash.hexdigest(), self._size

    def discard(self) -> None:
        with self._lock:
            self._discard()

    @contextmanager
    def _working(self) -> Iterator[None]:
        with self._lock:
            if self._over:  # a thread that began after its caller had gone
                raise BlobError("This upload was abandoned.")
            try:
                yield
            except OSError as error:
                raise translate(error, self._root) from error

    def _discard(self) -> None:
        self._over = True
        if self._file is not None:
            self._file.close()
            self._path.unlink(missing_ok=True)  # gone already where it got its name

    def _publish(self, place: Path) -> None:
        assert self._file is not None
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._path, place)
        self._file = None
        _sync_folder(place.parent)

    def _write(self, chunks: list[bytes]) -> None:
        self._take(chunks)
        self._store(chunks)

    def _take(self, chunks: list[bytes]) -> None:
        for chunk in chunks:
            self._hash.update(chunk)
            self._size += len(chunk)

    def _store(self, chunks: list[bytes]) -> None:
        if self._file is None:
            self._file = open(self._path, "xb", buffering=0)  # noqa: SIM115  open between calls
        whole = memoryview(b"".join(chunks))
        while whole:  # an unbuffered write may take less than it was given
            whole = whole[self._file.write(whole) or 0 :]

    def _kept(self, place: Path) -> bool:
        """Whether the very same bytes are here already; then they count as new for the sweeper."""
        try:
            if place.stat().st_size != self._size:
                return False
            os.utime(place)
        except FileNotFoundError:
            return False
        return True

    def _verified(self) -> Path:
        """Where it belongs, if it is what was announced."""
        sha256 = self._hash.hexdigest()
        if self._expect_size is not None and self._size != self._expect_size:
            raise BlobMismatch("size", self._expect_size, self._size)
        if self._expect_sha256 is not None and sha256 != self._expect_sha256:
            raise BlobMismatch("sha256", self._expect_sha256, sha256)
        return _place(self._root, sha256)


def _place(root: Path, sha256: str) -> Path:
    return root / sha256[:2] / sha256[2:]


def _open(path: Path, sha256: str) -> tuple[BinaryIO | None, bytes]:
    """The first megabyte, and the open file if there may be more: most pictures take one hop."""
    try:
        file = open(path, "rb", buffering=0)  # noqa: SIM115  handed to the caller
    except FileNotFoundError:
        raise BlobMissing(sha256) from None
    try:
        data = file.read(BUFFER_BYTES)
    except BaseException:
        file.close()
        raise
    if len(data) < BUFFER_BYTES:
        file.close()
        return None, data
    return file, data


def _delete_old(path: Path, sha256: str, tmp: Path, before_ms: int) -> bool:
    """Between a look at its age and its end somebody may put it again, and be told that it is
    here. So it is first taken aside: a put that comes later finds nothing and writes it anew, one
    that came before has made it young, which is seen now, and it goes back."""
    if _put_ms(path) >= before_ms:
        return False
    aside = tmp / f"{sha256}.{uuid.uuid4().hex}{_ASIDE}"
    os.rename(path, aside)
    if _put_ms(aside) >= before_ms:
        _put_back(aside, path)
        return False
    aside.unlink()
    return True


def _put_back(aside: Path, path: Path) -> None:
    # It was put anew meanwhile, the same bytes; or another broker has just put it back.
    with suppress(FileExistsError, FileNotFoundError):
        os.link(aside, path)
    aside.unlink(missing_ok=True)


def _put_before(path: Path, before_ms: float) -> bool:
    try:
        return _put_ms(path) < before_ms
    except FileNotFoundError:
        return False  # another broker has taken it


def _put_ms(path: Path) -> int:
    return path.stat().st_mtime_ns // 1_000_000


def _listed(shard: Path) -> list[Kept]:
    found = []
    with os.scandir(shard) as entries:
        for entry in entries:
            sha256 = shard.name + entry.name
            if not SHA256.fullmatch(sha256):
                continue
            try:
                facts = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            found.append(Kept(sha256, facts.st_size, facts.st_mtime_ns // 1_000_000))
    return found


def _tidy(tmp: Path, before_ms: int) -> int:
    removed = 0
    for left in tmp.iterdir():
        try:
            if left.suffix != _ASIDE and _put_ms(left) < before_ms:
                left.unlink()
                removed += 1
        except FileNotFoundError:
            pass  # it got its name meanwhile
    return removed


def _sync_folder(path: Path) -> None:
    """Make a name durable. Windows can't, and does not need to: NTFS journals its names."""
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
