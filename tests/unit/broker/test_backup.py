"""An archive of a broker: what is in it, and that `foxden restore` takes it."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from one_account import World, new_store

from foxden._restore import restore
from foxden_broker.backup import Copier
from foxden_broker.store.base import StoreError
from foxden_broker.store.sql_store import open_store
from foxden_proto.problems import Problem

Make = Callable[..., Any]


@pytest_asyncio.fixture
async def world(tmp_path: Path, make_card: Make) -> AsyncIterator[World]:
    folder = tmp_path / "broker"
    (folder / "tls").mkdir(parents=True)
    (folder / "signing.key").write_text("ab" * 32)
    (folder / "admin-token").write_text("fxd_x")
    (folder / "tls" / "ca.pem").write_text("pem")
    world = World(await new_store(folder), folder)
    await world.join(make_card("a"))
    yield world
    await world.store.close()


def copier(world: World, *, sqlite: bool = True, accounts: int = 1) -> Copier:
    held = {str(number): world.account for number in range(accounts)}
    return Copier(world.folder, world.store, held, sqlite=sqlite)


async def archive(world: World, *, pictures: bool, **values: Any) -> bytes:
    pieces = copier(world, **values).archive(world.account, pictures)
    found = [piece async for piece in pieces]
    assert all(len(piece) <= 64 * 1024 for piece in found)
    return b"".join(found)


async def test_archive_holds_database_keys_and_pictures_and_is_taken_by_restore(
    world: World, tmp_path: Path
) -> None:
    job_id, pictures = await world.draw(3)
    data = await archive(world, pictures=True)
    path = tmp_path / "a.tar"
    path.write_bytes(data)
    done = restore(path, tmp_path / "elsewhere")
    for name in ("signing.key", "admin-token", "tls/ca.pem"):
        assert (done.folder / name).read_bytes() == (world.folder / name).read_bytes()
    for sha256 in pictures:
        assert (done.folder / "blobs/main" / sha256[:2] / sha256[2:]).is_file()
    again = await open_store(str(done.folder / "foxden.db"))
    job = await again.job("main", job_id)
    assert job is not None
    assert [task.picture and task.picture.sha256 for task in job.tasks] == pictures
    await again.close()
    assert not list(world.folder.glob(".backup-*"))


async def test_archive_without_pictures_says_so(world: World) -> None:
    await world.draw(1)
    with tarfile.open(fileobj=io.BytesIO(await archive(world, pictures=False))) as tar:
        names = tar.getnames()
        told = tar.extractfile("manifest.json")
        assert told is not None
        manifest = json.load(told)
    assert names == ["foxden.db", "signing.key", "admin-token", "tls/ca.pem", "manifest.json"]
    assert (manifest["pictures"], set(manifest["files"])) == (False, set(names[:-1]))


async def test_postgresql_is_sent_to_its_own_tools(world: World) -> None:
    with pytest.raises(Problem, match="pg_dump"):
        await archive(world, pictures=False, sqlite=False)


async def test_several_accounts_are_not_shown_to_one(world: World) -> None:
    with pytest.raises(Problem, match="several accounts"):
        await archive(world, pictures=False, accounts=2)


async def test_second_backup_at_once_is_told_to_wait(world: World) -> None:
    one = copier(world)
    first = one.archive(world.account, False)
    assert await anext(first)
    with pytest.raises(Problem, match="being made"):
        await anext(one.archive(world.account, False))
    await first.aclose()
    assert not list(world.folder.glob(".backup-*"))


async def test_copy_that_a_killed_broker_left_is_removed(world: World) -> None:
    left = world.folder / ".backup-0123.db"
    left.write_bytes(b"half")
    copier(world)
    assert not left.exists()


async def test_snapshot_over_a_file_that_is_there_is_refused(world: World) -> None:
    with pytest.raises(StoreError):
        await world.store.snapshot(world.folder / "signing.key")
