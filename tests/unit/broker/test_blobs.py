"""FolderBlobs on a real folder; only the far end (a full disk, a vanished client) is made up."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from foxden_broker import blobs_folder as module
from foxden_broker.blobs import BlobMismatch, BlobMissing, BlobTooBig
from foxden_broker.blobs_folder import FolderBlobs
from foxden_broker.store.base import StorageFull, StoreError

MIB = 1024 * 1024
SMALL = b"picture" * 1000
BIG = os.urandom(2 * MIB + 12345)
SHAPES = [
    pytest.param(b"", id="empty"),
    pytest.param(SMALL, id="small"),
    pytest.param(BIG, id="big"),
]


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def chunks(data: bytes, size: int = 50_000) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


async def everything(store: FolderBlobs, sha256: str) -> list[bytes]:
    return [chunk async for chunk in store.read(sha256)]


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


@pytest.fixture
def store(tmp_path: Path) -> FolderBlobs:
    return FolderBlobs(tmp_path / "blobs")


@pytest.mark.parametrize("data", SHAPES)
async def test_put_then_read_gives_the_same_bytes(
    store: FolderBlobs, tmp_path: Path, data: bytes
) -> None:
    kept = await store.put(
        chunks(data), limit=len(data), expect_sha256=sha(data), expect_size=len(data)
    )
    assert kept == (sha(data), len(data))
    got = await everything(store, sha(data))
    assert b"".join(got) == data
    assert all(0 < len(chunk) <= 65536 for chunk in got)
    assert await store.size(sha(data)) == len(data)
    assert files(tmp_path) == [tmp_path / "blobs" / sha(data)[:2] / sha(data)[2:]]


@pytest.mark.parametrize("data", SHAPES[1:])
async def test_put_twice_keeps_one_and_counts_as_new(
    store: FolderBlobs, tmp_path: Path, data: bytes
) -> None:
    await store.put(chunks(data), limit=len(data))
    (path,) = files(tmp_path)
    os.utime(path, (1, 1))
    assert await store.put(chunks(data), limit=len(data)) == (sha(data), len(data))
    assert files(tmp_path) == [path]
    assert path.stat().st_mtime > 1


@pytest.mark.parametrize("data", SHAPES[1:])
async def test_put_of_many_at_once_keeps_one(
    store: FolderBlobs, tmp_path: Path, data: bytes
) -> None:
    kept = await asyncio.gather(*(store.put(chunks(data), limit=len(data)) for _ in range(8)))
    assert set(kept) == {(sha(data), len(data))}
    assert len(files(tmp_path)) == 1


@pytest.mark.parametrize("data", SHAPES[1:])
async def test_put_of_too_much_leaves_nothing(
    store: FolderBlobs, tmp_path: Path, data: bytes
) -> None:
    with pytest.raises(BlobTooBig, match="send less"):
        await store.put(chunks(data), limit=len(data) - 1)
    assert files(tmp_path) == []


async def test_put_announced_too_big_reads_no_chunk(store: FolderBlobs) -> None:
    async def never() -> AsyncIterator[bytes]:
        raise AssertionError("was read")
        yield b""

    with pytest.raises(BlobTooBig):
        await store.put(never(), limit=10, expect_size=11)


@pytest.mark.parametrize("data", SHAPES)
@pytest.mark.parametrize(
    "wrong", [{"expect_sha256": sha(b"other")}, {"expect_size": 3}], ids=["sha256", "size"]
)
async def test_put_of_something_else_than_announced_leaves_nothing(
    store: FolderBlobs, tmp_path: Path, data: bytes, wrong: dict[str, object]
) -> None:
    with pytest.raises(BlobMismatch, match="send it again"):
        await store.put(chunks(data), limit=len(data) + 10, **wrong)  # type: ignore[arg-type]
    assert files(tmp_path) == []


@pytest.mark.parametrize("data", SHAPES[1:])
@pytest.mark.parametrize("error", [ConnectionResetError(), asyncio.CancelledError()], ids=type)
async def test_put_whose_sender_vanishes_raises_that_and_leaves_nothing(
    store: FolderBlobs, tmp_path: Path, data: bytes, error: BaseException
) -> None:
    async def vanishing() -> AsyncIterator[bytes]:
        async for chunk in chunks(data):
            yield chunk
        raise error

    with pytest.raises(type(error)):
        await store.put(vanishing(), limit=len(data))
    assert files(tmp_path) == []


async def test_put_cancelled_while_waiting_leaves_nothing(
    store: FolderBlobs, tmp_path: Path
) -> None:
    stuck = asyncio.Event()

    async def stalling() -> AsyncIterator[bytes]:
        async for chunk in chunks(BIG):
            yield chunk
        stuck.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(store.put(stalling(), limit=len(BIG)))
    await stuck.wait()
    assert len(files(tmp_path)) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert files(tmp_path) == []


@pytest.mark.parametrize("data", SHAPES[1:])
async def test_put_on_a_full_disk_is_storage_full_and_works_again_with_space(
    store: FolderBlobs, tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "fsync", full)
        with pytest.raises(StorageFull, match="Free some space"):
            await store.put(chunks(data), limit=len(data))
    assert files(tmp_path) == []
    assert await store.put(chunks(data), limit=len(data)) == (sha(data), len(data))


async def test_read_of_missing_says_so(store: FolderBlobs) -> None:
    with pytest.raises(BlobMissing, match=sha(b"x")):
        await everything(store, sha(b"x"))
    assert await store.size(sha(b"x")) is None


async def test_read_left_halfway_closes_its_file(store: FolderBlobs) -> None:
    await store.put(chunks(BIG), limit=len(BIG))
    reading = store.read(sha(BIG))
    assert len(await anext(reading)) == 65536
    await reading.aclose()  # type: ignore[attr-defined]


async def test_delete_is_true_once(store: FolderBlobs) -> None:
    await store.put(chunks(SMALL), limit=len(SMALL))
    assert await store.delete(sha(SMALL))
    assert not await store.delete(sha(SMALL))
    assert await store.size(sha(SMALL)) is None


@pytest.mark.parametrize(
    "name", ["", "../../etc/passwd", "a" * 63, "A" * 64, "a" * 64 + "\n", "tmp", "g" * 64]
)
async def test_names_that_are_no_sha256_touch_nothing(store: FolderBlobs, name: str) -> None:
    with pytest.raises(ValueError, match="64"):
        await store.size(name)
    with pytest.raises(ValueError, match="64"):
        await store.delete(name)
    with pytest.raises(ValueError, match="64"):
        await everything(store, name)
    with pytest.raises(ValueError, match="64"):
        await store.put(chunks(SMALL), limit=MIB, expect_sha256=name)


async def test_start_removes_what_a_crash_left_and_nothing_else(tmp_path: Path) -> None:
    first = FolderBlobs(tmp_path)
    await first.put(chunks(SMALL), limit=MIB)
    (tmp_path / "tmp" / "half").write_bytes(b"half")
    again = FolderBlobs(tmp_path)
    assert [path.name for path in files(tmp_path)] == [sha(SMALL)[2:]]
    assert b"".join(await everything(again, sha(SMALL))) == SMALL


def test_start_where_it_may_not_write_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="permissions"):
        FolderBlobs(tmp_path / "file")
