"""Every place for blobs passes one suite: a folder, and S3 on a real server process."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from foxden_broker.blobs import (
    BlobMismatch,
    BlobMissing,
    BlobStore,
    BlobTooBig,
)
from foxden_broker.blobs_folder import FolderBlobs
from foxden_broker.store.base import StoreError
from foxden_proto.limits import CHUNK_BYTES, MIB

SMALL = b"picture" * 1000
BIG = os.urandom(2 * MIB + 12_345)
HUGE = os.urandom(9 * MIB + 7)  # more than S3Blobs keeps in memory: several parts
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}

# Opens the place once more, as another broker does; with an account's name.
Open = Callable[[str], BlobStore]


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """moto's server: it speaks S3's protocol over HTTP, in a process of its own."""
    pytest.importorskip("moto.server")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = (tmp_path_factory.mktemp("moto") / "log").open("wb")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"{url}/moto-api/data.json", timeout=5):
                    break
            except OSError:
                assert server.poll() is None, "the S3 server has ended"
                assert time.monotonic() < end, "the S3 server does not answer"
                time.sleep(0.1)
        yield url
    finally:
        server.kill()
        server.wait()
        log.close()


@pytest.fixture
def bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    import boto3

    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    name = f"foxden-{os.urandom(6).hex()}"
    boto3.client("s3", endpoint_url=s3_endpoint, region_name="us-east-1").create_bucket(Bucket=name)
    return name


@pytest.fixture(params=["folder", "s3"])
def open_again(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    if request.param == "folder":
        return lambda account: FolderBlobs(tmp_path / "blobs" / account, shared=True)
    from foxden_broker.blobs_s3 import open_s3

    endpoint, bucket = (request.getfixturevalue(name) for name in ("s3_endpoint", "bucket"))
    return lambda account: open_s3(f"s3://{bucket}/some/prefix", account, endpoint, "us-east-1")


@pytest.fixture
def blobs(open_again: Open) -> BlobStore:
    return open_again("den")


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def chunks(data: bytes, size: int = 60_000) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


async def put(blobs: BlobStore, data: bytes) -> str:
    return (await blobs.put(chunks(data), limit=len(data)))[0]


async def read(blobs: BlobStore, sha256: str) -> bytes:
    pieces = [piece async for piece in blobs.read(sha256)]
    assert all(0 < len(piece) <= CHUNK_BYTES for piece in pieces)
    return b"".join(pieces)


async def names(blobs: BlobStore) -> set[str]:
    return {kept.sha256 async for kept in blobs.kept()}


@pytest.mark.parametrize("data", [b"", SMALL, BIG, HUGE], ids=["empty", "small", "big", "huge"])
async def test_put_then_read_gives_the_same_bytes(blobs: BlobStore, data: bytes) -> None:
    told = await blobs.put(
        chunks(data), limit=len(data), expect_sha256=sha(data), expect_size=len(data)
    )
    assert told == (sha(data), len(data))
    assert await read(blobs, sha(data)) == data
    assert await blobs.size(sha(data)) == len(data)
    assert await names(blobs) == {sha(data)}


async def test_put_is_seen_by_another_broker_at_once(blobs: BlobStore, open_again: Open) -> None:
    assert await read(open_again("den"), await put(blobs, SMALL)) == SMALL


async def test_put_of_one_account_is_nothing_to_another(blobs: BlobStore, open_again: Open) -> None:
    other = open_again("other")
    name = await put(blobs, SMALL)
    assert await other.size(name) is None
    assert await names(other) == set()
    assert not await other.delete(name)
    assert await read(blobs, name) == SMALL


async def test_put_by_many_at_once_keeps_one(blobs: BlobStore, open_again: Open) -> None:
    other = open_again("den")
    told = await asyncio.gather(*(put(to, BIG) for to in [blobs, other] * 4))
    assert set(told) == {sha(BIG)}
    assert await names(blobs) == {sha(BIG)}
    assert await read(other, sha(BIG)) == BIG


@pytest.mark.parametrize("data", [SMALL, BIG, HUGE], ids=["small", "big", "huge"])
async def test_put_of_more_than_the_limit_keeps_nothing(blobs: BlobStore, data: bytes) -> None:
    with pytest.raises(BlobTooBig):
        await blobs.put(chunks(data), limit=len(data) - 1)
    assert await names(blobs) == set()


@pytest.mark.parametrize("data", [SMALL, HUGE], ids=["small", "huge"])
async def test_put_of_something_else_than_announced_keeps_nothing(
    blobs: BlobStore, data: bytes
) -> None:
    with pytest.raises(BlobMismatch):
        await blobs.put(chunks(data), limit=len(data), expect_sha256=sha(b"else"))
    with pytest.raises(BlobMismatch):
        await blobs.put(chunks(data), limit=len(data) + 1, expect_size=len(data) + 1)
    assert await names(blobs) == set()


@pytest.mark.parametrize("data", [SMALL, HUGE], ids=["small", "huge"])
async def test_put_that_breaks_off_is_never_visible(blobs: BlobStore, data: bytes) -> None:
    async def torn() -> AsyncIterator[bytes]:
        async for chunk in chunks(data[: len(data) - 10]):
            yield chunk
        raise ConnectionResetError("the sender has gone")

    with pytest.raises(ConnectionResetError):
        await blobs.put(torn(), limit=len(data))
    assert await names(blobs) == set()
    assert await blobs.size(sha(data)) is None


async def test_put_cancelled_is_never_visible_and_the_next_one_works(blobs: BlobStore) -> None:
    reached = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        async for chunk in chunks(BIG[:-10]):
            yield chunk
        reached.set()
        await asyncio.sleep(3600)

    putting = asyncio.create_task(blobs.put(slow(), limit=len(BIG)))
    await reached.wait()
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    assert await names(blobs) == set()
    assert await put(blobs, BIG) == sha(BIG)


async def test_start_of_another_broker_leaves_what_is_arriving_alone(
    blobs: BlobStore, open_again: Open
) -> None:
    halfway, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield BIG[:-10]
        halfway.set()
        await go_on.wait()
        yield BIG[-10:]

    putting = asyncio.create_task(blobs.put(slow(), limit=len(BIG)))
    await halfway.wait()
    other = open_again("den")
    go_on.set()
    assert (await putting)[0] == sha(BIG)
    assert await read(other, sha(BIG)) == BIG


async def test_read_and_size_of_what_is_not_there_say_so(blobs: BlobStore) -> None:
    with pytest.raises(BlobMissing):
        await read(blobs, sha(b"nothing"))
    assert await blobs.size(sha(b"nothing")) is None


async def test_delete_is_true_once(blobs: BlobStore) -> None:
    name = await put(blobs, SMALL)
    assert await blobs.delete(name)
    assert not await blobs.delete(name)
    assert await names(blobs) == set()
    assert await put(blobs, SMALL) == name


async def test_delete_of_what_is_younger_than_asked_for_keeps_it(blobs: BlobStore) -> None:
    name = await put(blobs, SMALL)
    now = int(time.time() * 1000)
    assert not await blobs.delete(name, put_before_ms=now - 60_000)
    assert await read(blobs, name) == SMALL
    assert await blobs.delete(name, put_before_ms=now + 60_000)


async def test_put_again_makes_it_young(blobs: BlobStore) -> None:
    name = await put(blobs, SMALL)
    (first,) = [kept async for kept in blobs.kept()]
    await asyncio.sleep(1.1)  # S3 tells whole seconds
    await put(blobs, SMALL)
    (again,) = [kept async for kept in blobs.kept()]
    assert (again.sha256, again.size) == (name, len(SMALL))
    assert again.put_ms > first.put_ms
    assert abs(again.put_ms - time.time() * 1000) < 60_000


async def test_tidy_leaves_what_is_kept_and_what_is_arriving(blobs: BlobStore) -> None:
    name = await put(blobs, SMALL)
    assert await blobs.tidy(int(time.time() * 1000) - 60_000) == 0
    assert await names(blobs) == {name}


@pytest.mark.parametrize("name", ["", "abc", "../" * 20 + "etc/passwd", "A" * 64, "0" * 64 + "\n"])
async def test_name_that_is_no_sha256_touches_nothing(blobs: BlobStore, name: str) -> None:
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: read(blobs, name),
        lambda: blobs.size(name),
        lambda: blobs.delete(name),
        lambda: blobs.put(chunks(SMALL), limit=len(SMALL), expect_sha256=name),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="sha256"):
            await call()


# S3 alone


async def test_bucket_that_is_not_there_is_an_error_in_words(s3_endpoint: str, bucket: str) -> None:
    from foxden_broker.blobs_s3 import check_s3, open_s3

    await check_s3(f"s3://{bucket}/prefix", s3_endpoint, "us-east-1")
    with pytest.raises(StoreError, match="bucket"):
        await check_s3("s3://no-such-bucket-here", s3_endpoint, "us-east-1")
    nowhere = open_s3("s3://no-such-bucket-here", "den", s3_endpoint, "us-east-1")
    with pytest.raises(StoreError, match="bucket"):
        await put(nowhere, SMALL)


@pytest.mark.parametrize("url", ["s3://", "s3:///prefix", "s3://bucket?x=1", "https://bucket/x"])
def test_place_that_is_no_bucket_is_refused_in_words(url: str) -> None:
    from foxden_broker.blobs_s3 import open_s3

    with pytest.raises(StoreError, match="s3://BUCKET"):
        open_s3(url, "den")
