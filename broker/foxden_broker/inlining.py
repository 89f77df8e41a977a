"""Small pictures that travel with the event that tells of them, within a bound on the memory.

Two bounds, both per account: pictures that have just come are kept for the watcher who waits for
them, the oldest go first; and of pictures that are being written to clients only so many bytes are
held at once. A client for whom there is no room downloads its picture piece by piece instead.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from foxden_broker.blobs import BlobError, BlobStore
from foxden_broker.store.base import StoreError
from foxden_proto.limits import INLINE_PICTURE_BYTES, MIB

RECENT_BYTES = 32 * MIB
SENDING_BYTES = 64 * MIB


class Recent:
    """The newest small pictures by sha256, `most` bytes of them; the blob store has them too."""

    def __init__(self, most: int = RECENT_BYTES) -> None:
        self._most, self._held = most, 0
        self._pictures: OrderedDict[str, bytes] = OrderedDict()

    def keep(self, sha256: str, data: bytes) -> None:
        if len(data) > INLINE_PICTURE_BYTES or sha256 in self._pictures:
            return
        self._pictures[sha256] = data
        self._held += len(data)
        while self._held > self._most:
            _, oldest = self._pictures.popitem(last=False)
            self._held -= len(oldest)

    def get(self, sha256: str) -> bytes | None:
        return self._pictures.get(sha256)


class Sending:
    """How many bytes of pictures wait for clients to read them."""

    def __init__(self, most: int = SENDING_BYTES) -> None:
        self._left = most

    @contextmanager
    def room(self, size: int) -> Iterator[bool]:
        """Whether there is room for so many bytes; it is taken until the context ends."""
        if size > self._left:
            yield False
            return
        self._left -= size
        try:
            yield True
        finally:
            self._left += size


async def whole(recent: Recent, blobs: BlobStore, sha256: str) -> bytes:
    """A picture's bytes; empty where they cannot be had, for Download to say why."""
    known = recent.get(sha256)
    if known is not None:
        return known
    try:
        return b"".join([chunk async for chunk in blobs.read(sha256)])
    except (BlobError, StoreError):
        return b""
