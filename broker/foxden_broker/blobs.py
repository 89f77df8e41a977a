"""Blobs: immutable bytes, addressed by their sha256. The interface, and what both stores share.

Knowing a sha256 is never a permission: who may read what is decided by the rows that name it.
"""

from __future__ import annotations

import asyncio
import errno
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from foxden_broker.store.base import StorageFull, StoreError
from foxden_proto.limits import MIB

# What fits here is hashed and written in one thread hop; what doesn't, in hops of this size.
BUFFER_BYTES = 1 * MIB

SHA256 = re.compile(r"[0-9a-f]{64}")


class BlobError(Exception):
    """The blob can't be taken or given; the text says why."""


class BlobTooBig(BlobError):
    def __init__(self, limit: int) -> None:
        self.limit = limit
        super().__init__(f"This is more than the {limit:,} bytes allowed here; send less.")


class BlobMismatch(BlobError):
    def __init__(self, what: str, expected: object, got: object) -> None:
        self.expected, self.got = expected, got
        super().__init__(
            f"The {what} of what arrived is {got}, not {expected} as announced; send it again."
        )


class BlobMissing(BlobError):
    def __init__(self, sha256: str) -> None:
        self.sha256 = sha256
        super().__init__(f"The bytes with sha256 {sha256} are not here (any more).")


class BlobStalled(BlobError):
    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(f"The bytes did not come within {seconds:g} s; send it again.")


@dataclass(frozen=True)
class Kept:
    """A blob as it is found in a listing."""

    sha256: str
    size: int  # bytes
    put_ms: int  # Unix time at which it was last put, also where it was here already


class BlobStore(Protocol):
    """All methods also raise StorageFull and StoreError, and ValueError for a malformed sha256."""

    async def put(
        self,
        chunks: AsyncIterator[bytes],
        *,
        limit: int,
        expect_sha256: str | None = None,
        expect_size: int | None = None,
    ) -> tuple[str, int]:
        """Store what the chunks add up to, and say its sha256 and size. Durable on return.

        A blob that is here already counts as put now: what decides on its age must not take away
        bytes that somebody has just sent.

        Raises BlobTooBig, or BlobMismatch where it isn't what was announced; then nothing is kept.
        """
        ...

    def read(self, sha256: str) -> AsyncIterator[bytes]:
        """The bytes, in chunks of at most 64 KiB. Raises BlobMissing at the first."""
        ...

    async def size(self, sha256: str) -> int | None:
        """Its size in bytes; None where it isn't here."""
        ...

    async def delete(self, sha256: str, *, put_before_ms: int | None = None) -> bool:
        """Delete it, unless it was put (or put again) at `put_before_ms` or later. Whether it was
        deleted. A put that ends while this runs must leave its bytes behind."""
        ...

    def kept(self) -> AsyncIterator[Kept]:
        """Everything that is kept, in any order. May miss what comes or goes meanwhile."""
        ...

    async def tidy(self, begun_before_ms: int) -> int:
        """Remove what uploads left behind that began before and never ended; how many."""
        ...


def check_sha256(sha256: str) -> str:
    """Only 64 hex digits ever become part of a path."""
    if not SHA256.fullmatch(sha256):
        raise ValueError("A sha256 is 64 lower-case hexadecimal digits.")
    return sha256


async def paced(
    chunks: AsyncIterator[bytes], *, stalled: float, whole: float
) -> AsyncIterator[bytes]:
    """Pass chunks on. Raises BlobStalled where the next one takes longer than `stalled` seconds,
    or all of them longer than `whole`: a sender that trickles holds a file and a slot."""
    loop = asyncio.get_running_loop()
    end = loop.time() + whole
    while True:
        limit = min(stalled, end - loop.time())
        try:
            async with asyncio.timeout(limit):
                chunk = await anext(chunks, None)
        except TimeoutError:
            raise BlobStalled(stalled if limit == stalled else whole) from None
        if chunk is None:
            return
        yield chunk


def translate(error: OSError, path: Path) -> StoreError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull(
            f"The disk of {path} is full; nothing was stored. Free some space there and try again."
        )
    return StoreError(
        f"Cannot use {path}: {error.strerror or error}. "
        "Look at that folder's disk and permissions, then try again."
    )
