"""Models whose files changed, and the shelf that they come back to."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from foxden_agent import mended_models
from foxden_agent.mended_models import Shelf
from foxden_agent.model_files import FileStamp
from foxden_agent.models import LocalModel
from foxden_proto.v1.pool_pb2 import Model

WHOLE = b"the right bytes"


class Folder:
    """One model of one file, whose sha256 is what is written in it."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.file.write_bytes(WHOLE)
        self.found = self.scan()
        self.shelf: Shelf = {}  # set aside already
        self.scans = 0
        self.back = asyncio.Event()
        self.looked = asyncio.Event()

    def scan(self) -> list[LocalModel]:
        sha256 = self.file.read_bytes().hex()
        stamp = FileStamp.of(self.file)
        return [LocalModel(Model(name="mine", sha256=sha256), self.file, (stamp,))]

    def scanned(self) -> list[LocalModel]:
        self.scans += 1
        try:
            return self.scan() if self.file.exists() else []
        finally:
            self._loop.call_soon_threadsafe(self.looked.set)

    async def run(self) -> None:
        self._loop = asyncio.get_running_loop()
        await mended_models.run(self.found, self.shelf, self.scanned, self.back.set, every=0.01)

    async def look(self) -> None:
        self.looked.clear()
        await asyncio.wait_for(self.looked.wait(), 10)


@pytest_asyncio.fixture
async def folder(tmp_path: Path) -> AsyncIterator[Folder]:
    made = Folder(tmp_path / "weights.safetensors")
    yield made


async def test_file_is_gone_then_copied_back_x_is_offered_again_as_it_lies_now(
    folder: Folder,
) -> None:
    folder.file.unlink()
    running = asyncio.create_task(folder.run())
    await folder.look()
    assert folder.shelf == {}

    folder.file.write_bytes(WHOLE)
    os.utime(folder.file, ns=(1, 1))  # a copy has another time
    await asyncio.wait_for(folder.back.wait(), 10)

    (offered,) = folder.shelf.values()
    assert offered.files == (FileStamp.of(folder.file),)
    running.cancel()


async def test_another_model_lies_there_x_is_not_offered_under_the_old_hash_and_read_once(
    folder: Folder,
) -> None:
    folder.file.write_bytes(b"somebody else's bytes")
    running = asyncio.create_task(folder.run())
    await folder.look()
    folder.file.write_bytes(b"again somebody else's")
    await folder.look()

    folder.looked.clear()
    with pytest.raises(TimeoutError):  # nothing changes, and nothing is read
        await asyncio.wait_for(folder.looked.wait(), 0.2)
    assert folder.shelf == {}
    assert not folder.back.is_set()
    running.cancel()
