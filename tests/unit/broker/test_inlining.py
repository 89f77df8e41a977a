"""Pictures that ride along with events stay within their bounds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

from foxden_broker.blobs_folder import FolderBlobs
from foxden_broker.inlining import Recent, Sending, whole
from foxden_proto.limits import INLINE_PICTURE_BYTES


def test_oldest_pictures_go_first_where_there_are_more_bytes_than_allowed() -> None:
    recent = Recent(most=10)
    for name in ("a", "b", "c"):
        recent.keep(name, bytes(4))
    assert [recent.get(name) for name in ("a", "b", "c")] == [None, bytes(4), bytes(4)]


def test_picture_kept_twice_counts_once() -> None:
    recent = Recent(most=10)
    for _ in range(5):
        recent.keep("a", bytes(4))
    recent.keep("b", bytes(4))
    assert recent.get("a") == bytes(4)


def test_picture_too_big_to_ride_along_is_not_kept() -> None:
    recent = Recent(most=2 * INLINE_PICTURE_BYTES)
    recent.keep("a", bytes(INLINE_PICTURE_BYTES + 1))
    assert recent.get("a") is None


def test_no_room_for_a_picture_while_slow_clients_hold_as_much_as_is_allowed() -> None:
    sending = Sending(most=10)
    with sending.room(6) as first:
        with sending.room(6) as second:
            assert (first, second) == (True, False)
        with sending.room(4) as third:
            assert third
    with sending.room(10) as again:
        assert again


async def test_picture_is_whole_from_memory_or_the_blob_store_and_empty_where_it_is_gone(
    tmp_path: Path,
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"stored"

    blobs, recent = FolderBlobs(tmp_path), Recent()
    sha256, _ = await blobs.put(chunks(), limit=100)
    recent.keep("0" * 64, b"kept")
    assert await whole(recent, blobs, "0" * 64) == b"kept"
    assert await whole(recent, blobs, sha256) == b"stored"
    assert await whole(recent, blobs, "1" * 64) == b""
