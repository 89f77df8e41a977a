"""Blobs in S3, or in anything that speaks its protocol; one object per blob under a prefix.

An object appears whole or not at all, so nothing torn is ever visible. Its name is the hash of its
bytes, which is known at their end: until then they wait in memory, or in a file without a name
where they are many.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import S3Store

from foxden_broker.blobs import (
    BUFFER_BYTES,
    BlobMismatch,
    BlobMissing,
    BlobTooBig,
    Kept,
    check_sha256,
    translate,
)
from foxden_broker.store.base import StoreError
from foxden_proto.limits import CHUNK_BYTES, MIB

_IN_MEMORY = 8 * MIB  # of one arriving blob; more goes to a temporary file
_CONNECT_SECONDS = 5
_REQUEST_SECONDS = 60
_RETRY_SECONDS = 20  # the sender waits for the answer, and tries again by itself


class S3Blobs:
    """See `foxden_broker.blobs.BlobStore`. Several brokers may use one prefix."""

    def __init__(self, store: S3Store, where: str) -> None:
        self._store = store
        self._where = where  # for messages

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
        digest, total = hashlib.sha256(), 0
        waiting: list[bytes] = []
        held = 0
        with tempfile.SpooledTemporaryFile(_IN_MEMORY) as spool:
            async for chunk in chunks:
                total += len(chunk)
                if total > limit:
                    raise BlobTooBig(limit)
                waiting.append(chunk)
                held += len(chunk)
                if held >= BUFFER_BYTES:
                    await _to_the_end(_take, spool, digest, waiting)
                    waiting, held = [], 0
            await _to_the_end(_take, spool, digest, waiting)
            sha256 = digest.hexdigest()
            if expect_size is not None and total != expect_size:
                raise BlobMismatch("size", expect_size, total)
            if expect_sha256 is not None and sha256 != expect_sha256:
                raise BlobMismatch("sha256", expect_sha256, sha256)
            # Also where it is there already: that makes it young for whoever sweeps by age.
            await _to_the_end(spool.seek, 0)
            try:
                if total <= _IN_MEMORY:  # one request; S3 makes it visible at its end
                    data = await _to_the_end(spool.read)
                    await obstore.put_async(self._store, _key(sha256), data, use_multipart=False)
                else:
                    await obstore.put_async(self._store, _key(sha256), _pieces(spool))
            except (BaseError, OSError) as error:
                raise self._failed(error) from error
        return sha256, total

    async def read(self, sha256: str) -> AsyncIterator[bytes]:
        key = _key(check_sha256(sha256))
        try:
            found = await obstore.get_async(self._store, key)
            async for piece in found.stream(min_chunk_size=BUFFER_BYTES):
                whole = memoryview(piece)
                for at in range(0, len(whole), CHUNK_BYTES):
                    yield bytes(whole[at : at + CHUNK_BYTES])
        except (NotFoundError, FileNotFoundError):
            raise BlobMissing(sha256) from None
        except (BaseError, OSError) as error:
            raise self._failed(error) from error

    async def size(self, sha256: str) -> int | None:
        found = await self._head(sha256)
        return None if found is None else int(found["size"])

    async def delete(self, sha256: str, *, put_before_ms: int | None = None) -> bool:
        """S3 deletes an object whatever its age, so the look comes just before. A put that ends
        between the two would lose its bytes: the caller leaves a margin of hours, and whoever
        puts a picture names it in the database right after, where the sweeper looks last."""
        found = await self._head(sha256)
        if found is None or (put_before_ms is not None and _put_ms(found) >= put_before_ms):
            return False
        try:
            await obstore.delete_async(self._store, _key(sha256))
        except (BaseError, OSError) as error:
            raise self._failed(error) from error
        return True

    async def kept(self) -> AsyncIterator[Kept]:
        try:
            async for page in obstore.list(self._store, chunk_size=500):
                for found in page:
                    sha256 = found["path"].rpartition("/")[2]
                    if found["path"] == _key(sha256):
                        yield Kept(sha256, int(found["size"]), _put_ms(found))
        except (BaseError, OSError) as error:
            raise self._failed(error) from error

    async def tidy(self, begun_before_ms: int) -> int:
        """Nothing to do: an upload that never ended has left no object."""
        return 0

    async def _head(self, sha256: str) -> Any:
        try:
            return await obstore.head_async(self._store, _key(check_sha256(sha256)))
        except (NotFoundError, FileNotFoundError):
            return None
        except (BaseError, OSError) as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> StoreError:
        # The whole text names headers and addresses; its first line says what went wrong.
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return StoreError(
            f"Cannot use {self._where}: {first[:300]}. "
            "Look at the bucket, its endpoint and the credentials, then try again."
        )


def open_s3(url: str, account_id: str, endpoint: str = "", region: str = "") -> S3Blobs:
    """The blobs of one account at `s3://bucket/prefix`; a folder for each account below it.

    Credentials come from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
    AWS_SESSION_TOKEN) or from the machine's role. Raises StoreError for an unusable address.
    """
    parts = urlsplit(url)
    if parts.scheme != "s3" or not parts.hostname or parts.query or parts.fragment:
        raise StoreError(f"{url!r} is no place for blobs: write s3://BUCKET or s3://BUCKET/PREFIX.")
    prefix = "/".join(part for part in (parts.path.strip("/"), account_id) if part)
    options: dict[str, Any] = {"virtual_hosted_style_request": False} if endpoint else {}
    if endpoint:
        options["endpoint"] = endpoint
    if region:
        options["region"] = region
    try:
        store = S3Store(
            parts.netloc,
            prefix=prefix,
            client_options={
                "allow_http": endpoint.startswith("http://"),
                "connect_timeout": f"{_CONNECT_SECONDS}s",
                "timeout": f"{_REQUEST_SECONDS}s",
            },
            retry_config={
                "max_retries": 5,
                "retry_timeout": dt.timedelta(seconds=_RETRY_SECONDS),
            },
            **options,
        )
    except (BaseError, ValueError) as error:
        raise StoreError(f"{url} cannot be used: {error}") from None
    return S3Blobs(store, url)


async def check_s3(url: str, endpoint: str, region: str) -> None:
    """Look into the bucket once: a broker that may not use it says so at its start, and not at
    the first picture. Raises StoreError."""
    async for _ in open_s3(url, "", endpoint, region).kept():
        return


async def _to_the_end(work: Any, *values: Any) -> Any:
    """Run it in a thread, and wait for it also where the caller is cancelled: the spool must not
    be closed under it."""
    running = asyncio.ensure_future(asyncio.to_thread(work, *values))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise


def _take(spool: Any, digest: Any, chunks: list[bytes]) -> None:
    try:
        for chunk in chunks:
            digest.update(chunk)
            spool.write(chunk)
    except OSError as error:
        raise translate(error, Path(tempfile.gettempdir())) from error


async def _pieces(spool: Any) -> AsyncIterator[bytes]:
    while data := await _to_the_end(spool.read, BUFFER_BYTES):
        yield data


def _key(sha256: str) -> str:
    return f"{sha256[:2]}/{sha256}"


def _put_ms(found: Any) -> int:
    return int(found["last_modified"].timestamp() * 1000)
