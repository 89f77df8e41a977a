"""Deleting blobs by age while others put them: what was just put is never lost."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from foxden_broker import blobs_folder as blobs_module
from foxden_broker.blobs import BlobMissing, BlobStalled, paced
from foxden_broker.blobs_folder import FolderBlobs

DATA = b"a picture" * 100
SHA256 = hashlib.sha256(DATA).hexdigest()
LONG_AGO = 1000.0


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def put(blobs: FolderBlobs) -> None:
    assert await blobs.put(chunks(DATA), limit=10_000) == (SHA256, len(DATA))


async def read(blobs: FolderBlobs) -> bytes:
    return b"".join([part async for part in blobs.read(SHA256)])


def place(folder: Path) -> Path:
    return folder / SHA256[:2] / SHA256[2:]


def age(folder: Path) -> None:
    os.utime(place(folder), (LONG_AGO, LONG_AGO))


def now_ms() -> int:
    return int(time.time() * 1000)


async def test_old_blob_is_deleted_and_young_one_stays(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path)
    await put(blobs)
    assert not await blobs.delete(SHA256, put_before_ms=now_ms() - 60_000)
    age(tmp_path)
    assert await blobs.delete(SHA256, put_before_ms=now_ms() - 60_000)
    assert not await blobs.delete(SHA256, put_before_ms=now_ms() - 60_000)
    with pytest.raises(BlobMissing):
        await read(blobs)


async def test_blob_put_again_is_young_again(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path)
    await put(blobs)
    age(tmp_path)
    await put(blobs)
    assert not await blobs.delete(SHA256, put_before_ms=now_ms() - 60_000)
    assert await read(blobs) == DATA


async def test_blob_put_again_between_the_look_and_the_end_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = FolderBlobs(tmp_path)
    await put(blobs)
    age(tmp_path)
    rename, renewed = os.rename, []

    def put_just_before(source: Path, target: Path) -> None:
        os.utime(source)  # what a put of bytes that are here already does
        renewed.append(source)
        rename(source, target)

    monkeypatch.setattr(blobs_module.os, "rename", put_just_before)
    assert not await blobs.delete(SHA256, put_before_ms=now_ms() - 60_000)
    assert renewed
    assert await read(blobs) == DATA
    assert not list((tmp_path / "tmp").iterdir())


async def test_blob_put_again_while_it_is_aside_is_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = FolderBlobs(tmp_path)
    await put(blobs)
    age(tmp_path)
    aside, go_on = threading.Event(), threading.Event()
    rename = os.rename

    def pausing(source: Path, target: Path) -> None:
        rename(source, target)
        aside.set()
        assert go_on.wait(10)

    monkeypatch.setattr(blobs_module.os, "rename", pausing)
    deleting = asyncio.create_task(blobs.delete(SHA256, put_before_ms=now_ms() - 60_000))
    assert await asyncio.to_thread(aside.wait, 10)
    await put(blobs)
    go_on.set()
    assert await deleting
    assert await read(blobs) == DATA


async def test_puts_and_deletes_at_once_never_lose_what_was_put_last(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path)
    for _ in range(40):
        await put(blobs)
        age(tmp_path)
        before = now_ms() - 60_000
        await asyncio.gather(
            blobs.delete(SHA256, put_before_ms=before),
            put(blobs),
            blobs.delete(SHA256, put_before_ms=before),
        )
        assert await read(blobs) == DATA


async def test_blob_left_aside_by_a_crash_is_back_after_the_start(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path)
    await put(blobs)
    place(tmp_path).rename(tmp_path / "tmp" / f"{SHA256}.0123.aside")
    (tmp_path / "tmp" / "half").write_bytes(b"half")
    blobs = FolderBlobs(tmp_path)
    assert await read(blobs) == DATA
    assert not list((tmp_path / "tmp").iterdir())


async def test_listing_tells_every_blob_with_size_and_age(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path)
    await put(blobs)
    (tmp_path / "00" / "notes.txt").write_text("not ours")
    age(tmp_path)
    (found,) = [kept async for kept in blobs.kept()]
    assert (found.sha256, found.size, found.put_ms) == (SHA256, len(DATA), LONG_AGO * 1000)


async def test_stale_arrivals_go_and_fresh_ones_stay(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path)
    for name in ("stale", "fresh"):
        (tmp_path / "tmp" / name).write_bytes(b"half")
    os.utime(tmp_path / "tmp" / "stale", (LONG_AGO, LONG_AGO))
    assert await blobs.tidy(now_ms() - 60_000) == 1
    assert [left.name for left in (tmp_path / "tmp").iterdir()] == ["fresh"]


# Senders that trickle


async def test_sender_that_stops_is_given_up(tmp_path: Path) -> None:
    async def stops() -> AsyncIterator[bytes]:
        yield b"first"
        await asyncio.sleep(60)

    blobs = FolderBlobs(tmp_path)
    with pytest.raises(BlobStalled, match=r"0\.05 s"):
        await blobs.put(paced(stops(), stalled=0.05, whole=10), limit=100)
    assert not list((tmp_path / "tmp").iterdir())


async def test_sender_that_trickles_is_given_up_in_the_end() -> None:
    async def trickles() -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(0.01)
            yield b"."

    async def take() -> None:
        async for part in paced(trickles(), stalled=5, whole=0.2):
            assert part == b"."

    with pytest.raises(BlobStalled, match=r"0\.2 s"):
        await take()


async def test_sender_that_is_quick_passes_whole() -> None:
    parts = [part async for part in paced(chunks(b"a", b"b"), stalled=1, whole=1)]
    assert parts == [b"a", b"b"]
