"""A copy of a running broker as one tar archive, made while it works.

The database comes first, as a consistent snapshot; then keys, the administrator's token and TLS
files; then, where they are wanted, the pictures: those in the snapshot are all still there, since
the sweeper waits. The manifest at the end has every file's size and sha256: an archive without
it was broken off. `foxden restore` reads it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import tarfile
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from importlib.metadata import version
from pathlib import Path

from foxden_broker.account import Account, now_ms
from foxden_broker.blobs import BlobMissing
from foxden_broker.store.base import Store
from foxden_proto import logs
from foxden_proto.backups import DATABASE, FORMAT, MANIFEST, PRIVATE_FILES, TLS_FOLDER, blob_name
from foxden_proto.limits import CHUNK_BYTES, MIB
from foxden_proto.problems import Problem, Reason

log = logging.getLogger(__name__)

_LEFT = ".backup-*.db"  # of a copy that was being made when the broker was killed


class Copier:
    """Makes archives of one broker's folder, one at a time."""

    def __init__(
        self, folder: Path, store: Store, accounts: Mapping[str, Account], *, sqlite: bool
    ) -> None:
        self._folder, self._store, self._sqlite = folder, store, sqlite
        self._accounts = accounts
        self._busy = asyncio.Lock()
        for left in folder.glob(_LEFT):
            left.unlink(missing_ok=True)

    async def archive(self, account: Account, with_pictures: bool) -> AsyncIterator[bytes]:
        """The archive's bytes, in pieces of 64 KiB at most.

        Raises Problem where this broker cannot be copied, or is being copied.
        """
        if not self._sqlite:
            raise Problem(
                Reason.INVALID_REQUEST,
                "This broker keeps its jobs in PostgreSQL, which has better copies of its own: "
                "use pg_dump or continuous archiving, and the bucket's or folder's copies for "
                "the pictures.",
                {"field": "database_url", "allowed": "SQLite"},
            )
        if len(self._accounts) > 1:
            raise Problem(
                Reason.PERMISSION_DENIED,
                "This broker holds several accounts, and an archive would show them all: copy "
                "its folder on its own machine while it is stopped.",
            )
        if self._busy.locked():
            raise Problem(
                Reason.UNAVAILABLE, "A backup of this broker is being made: try again soon."
            )
        still = account.sweeping if with_pictures else contextlib.nullcontext()
        async with self._busy, still:
            log.info("a backup is being made", extra=logs.fields(account=account.account_id))
            snapshot = self._folder / f".backup-{uuid.uuid4().hex}.db"
            try:
                await self._store.snapshot(snapshot)
                async for piece in self._pieces(account, snapshot, with_pictures):
                    yield piece
            finally:
                await asyncio.to_thread(snapshot.unlink, missing_ok=True)

    async def _pieces(
        self, account: Account, snapshot: Path, with_pictures: bool
    ) -> AsyncIterator[bytes]:
        files: dict[str, dict[str, object]] = {}
        plain = [(DATABASE, snapshot)]
        plain += [(name, self._folder / name) for name in PRIVATE_FILES]
        tls = self._folder / TLS_FOLDER
        plain += [(f"{TLS_FOLDER}/{path.name}", path) for path in sorted(tls.glob("*"))]
        for name, path in plain:
            if not path.is_file():
                continue
            size = path.stat().st_size
            async for piece in _entry(name, size, _read(path, size), files):
                yield piece
        if with_pictures:
            async for kept in account.blobs.kept():
                name = blob_name(account.account_id, kept.sha256)
                read = account.blobs.read(kept.sha256)
                try:
                    async for piece in _entry(name, kept.size, read, files):
                        yield piece
                except BlobMissing:
                    if name in files:
                        raise
        manifest = {
            "format": FORMAT,
            "foxden": version("foxden"),
            "account": account.account_id,
            "created_ms": now_ms(),
            "pictures": with_pictures,
            "files": files,
        }
        data = json.dumps(manifest).encode()
        async for piece in _entry(MANIFEST, len(data), _once(data), {}):
            yield piece
        yield bytes(2 * tarfile.BLOCKSIZE)


async def _entry(
    name: str, size: int, chunks: AsyncIterator[bytes], files: dict[str, dict[str, object]]
) -> AsyncIterator[bytes]:
    """One file of the archive; noted in `files`. Nothing is said where the first read fails."""
    first = await anext(chunks, b"")
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o600, int(time.time())
    digest, sent = hashlib.sha256(), 0
    files[name] = {}
    yield info.tobuf(tarfile.GNU_FORMAT)
    chunk: bytes | None = first
    while chunk is not None:
        digest.update(chunk)
        sent += len(chunk)
        for at in range(0, len(chunk), CHUNK_BYTES):
            yield chunk[at : at + CHUNK_BYTES]
        chunk = await anext(chunks, None)
    if sent != size:
        raise Problem(
            Reason.UNAVAILABLE, f"{name} changed while it was copied: make the backup again."
        )
    files[name] = {"size": size, "sha256": digest.hexdigest()}
    if rest := size % tarfile.BLOCKSIZE:
        yield bytes(tarfile.BLOCKSIZE - rest)


async def _read(path: Path, size: int) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while size > 0 and (data := await asyncio.to_thread(file.read, min(size, MIB))):
            size -= len(data)
            yield data


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
