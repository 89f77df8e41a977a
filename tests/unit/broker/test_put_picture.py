"""Pictures that agents PUT: how many are taken for one lease, and senders that stop."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from one_account import World, new_store, sha256_of

from foxden_broker import client_calls, http_api
from foxden_broker.auth import Doorkeeper
from foxden_broker.uploads import upload_path
from foxden_proto.link import LeaseKey
from foxden_proto.problems import Problem, Reason
from foxden_proto.timers import Timers
from foxden_proto.v1.generation_pb2 import UploadHeader

Make = Callable[..., Any]


def png(number: int, side: int = 512) -> bytes:
    """The beginning of a PNG of that size, which is what the door looks at."""
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + struct.pack(">II", side, side)
    return head + bytes([number]) * 100


class Door:
    """The HTTP door with one lease that a card holds."""

    def __init__(self, world: World, lease: LeaseKey, client: httpx.AsyncClient) -> None:
        self.world, self.lease, self.client = world, lease, client

    async def put(self, body: bytes | AsyncIterator[bytes], sha256: str = "") -> httpx.Response:
        token = self.world.account.signer.upload_token("main", self.lease)
        headers = {"Authorization": f"Bearer {token}"}
        if sha256 or isinstance(body, bytes):
            headers["X-Foxden-Sha256"] = sha256 or sha256_of(bytes(body))  # type: ignore[arg-type]
        return await self.client.put(upload_path("main", self.lease), content=body, headers=headers)

    async def blobs(self) -> int:
        return len([kept async for kept in self.world.account.blobs.kept()])


@pytest_asyncio.fixture
async def door(tmp_path: Path, make_card: Make) -> AsyncIterator[Door]:
    store = await new_store(tmp_path)
    timers = replace(Timers(), transfer_stalled=0.05, transfer=0.3)
    world = World(store, tmp_path, timers=timers)
    await world.join(make_card("a"))
    await world.submit()
    (lease,) = await world.dispatch()
    await world.start(lease)
    account = world.account
    app = http_api.create(
        {"main": account}, Doorkeeper(store), "", account.metrics, metrics_open=False
    )
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        yield Door(world, lease, client)
    await store.close()


async def test_picture_that_comes_again_is_taken_each_time_and_kept_once(door: Door) -> None:
    answers = [await door.put(png(1)) for _ in range(6)]
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["receipt"] for answer in answers}) == 1
    assert await door.blobs() == 1


async def test_fourth_different_picture_of_a_lease_is_refused(door: Door) -> None:
    answers = [await door.put(png(number)) for number in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert await door.blobs() == 3
    assert (await door.put(png(2))).status_code == 200  # its answer may have got lost


async def test_pictures_at_once_are_counted_while_they_come(door: Door) -> None:
    answers = await asyncio.gather(*(door.put(png(number)) for number in range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] * 3 + [429] * 5
    assert await door.blobs() == 3


async def test_wrong_pictures_that_are_kept_count_and_damaged_ones_do_not(door: Door) -> None:
    for number in range(5):
        assert (await door.put(png(number), "0" * 64)).status_code == 422
    assert await door.blobs() == 0
    assert (await door.put(png(1, side=64))).status_code == 422  # whole, but of another size
    assert [(await door.put(png(n))).status_code for n in range(3)] == [200, 200, 429]


async def test_sender_that_stops_is_told_to_send_again_and_costs_no_place(door: Door) -> None:
    async def stops() -> AsyncIterator[bytes]:
        yield png(1)
        await asyncio.sleep(5)

    for _ in range(4):
        assert (await door.put(stops(), sha256_of(png(1)))).status_code == 503
    assert door.world.account.pool.held[door.lease].puts == []
    assert (await door.put(png(1))).status_code == 200


async def test_upload_that_stops_is_broken_off(door: Door) -> None:
    async def stops() -> AsyncIterator[bytes]:
        yield b"half"
        await asyncio.sleep(5)

    header = UploadHeader(size=100, sha256="0" * 64, media_type="image/png")
    with pytest.raises(Problem, match="did not come") as caught:
        await client_calls.upload(door.world.account, header, stops())
    assert caught.value.reason is Reason.UNAVAILABLE
    assert not list((door.world.folder / "blobs" / "tmp").iterdir())
