"""Models on their way into an engine: a real process of the fake engine at the other end."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import fake_engine
import pytest
import pytest_asyncio

from foxden_agent import idle_engine
from foxden_agent.card_engine import CardEngine
from foxden_agent.engine_client import EngineProcess
from foxden_agent.engine_errors import EngineDied, EngineRefused
from foxden_agent.model_files import FileStamp, ModelFilesChanged
from foxden_agent.model_loader import ModelLoader
from foxden_agent.models import LocalModel
from foxden_agent.placement import Placement
from foxden_proto.timers import Timers
from foxden_proto.v1.pool_pb2 import TIER_DISK, TIER_RAM, TIER_VRAM, Model

TIMERS = Timers(memory_back=0.4)
A, B = "a" * 64, "b" * 64


def model(sha256: str, name: str = "dream", *files: Path, size: int = 1000) -> LocalModel:
    stamps = tuple(FileStamp.of(file) for file in files)
    return LocalModel(Model(name=name, sha256=sha256, size=size), Path("/models/dream"), stamps)


@pytest_asyncio.fixture
async def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[EngineProcess]:
    monkeypatch.setattr("sys.executable", str(fake_engine.install(tmp_path / "fake")))
    async with await EngineProcess.start("cpu", timers=TIMERS) as process:
        yield process


def asked(folder: Path) -> list[tuple[str, int]]:
    return [(sha256[0], tier) for _, sha256, tier in fake_engine.loads(folder / "fake")]


async def test_model_not_there_x_is_loaded_once_and_its_time_is_told(
    engine: EngineProcess, tmp_path: Path
) -> None:
    loader, told = ModelLoader("cpu", TIMERS), []
    loader.on_loaded = lambda *what: told.append(what)
    await loader.ready(engine, model(A))
    await loader.ready(engine, model(A))
    assert asked(tmp_path) == [("a", TIER_VRAM)]
    assert told == [(A, 0.5, TIER_DISK)]
    assert list(loader.cache.in_vram) == [A]


async def test_card_full_x_puts_the_other_out_and_waits_until_its_memory_is_seen(
    engine: EngineProcess,
) -> None:
    free = iter([10_000, 500, 500, 500, 500])  # then the driver has noticed
    loader = ModelLoader("cuda:0", TIMERS, free_memory=lambda: next(free, 5000))
    await loader.ready(engine, model(A))
    began = time.monotonic()
    await loader.ready(engine, model(B))
    assert next(free, None) is None
    assert time.monotonic() - began >= 3 * 0.4 / 20
    assert list(loader.cache.in_vram) == [B]
    assert loader.cache.tier(A) in (TIER_RAM, TIER_DISK)


async def test_memory_that_never_comes_back_x_is_waited_for_so_long_and_no_longer(
    engine: EngineProcess,
) -> None:
    loader = ModelLoader("cuda:0", TIMERS, free_memory=lambda: 500)
    await loader.ready(engine, model(A))
    began = time.monotonic()
    await loader.ready(engine, model(B))
    assert time.monotonic() - began >= 0.35
    assert list(loader.cache.in_vram) == [B]


async def test_out_of_memory_x_nothing_counts_as_loaded_any_more(engine: EngineProcess) -> None:
    loader = ModelLoader("cuda:0", TIMERS)
    await loader.ready(engine, model(A))
    with pytest.raises(EngineRefused, match="out of memory"):
        await loader.ready(engine, model(B, "too big"))
    assert not loader.cache.in_vram
    assert not loader.cache.in_ram


async def test_prefetched_x_lies_in_ram_and_is_loaded_from_there(
    engine: EngineProcess, tmp_path: Path
) -> None:
    loader, told = ModelLoader("cuda:0", TIMERS, ram_share=1.0), []
    loader.on_loaded = lambda *what: told.append(what)
    loader.prefetch(engine, model(A))
    loader.prefetch(engine, model(B))  # one at a time: a hint is no order
    assert loader._prefetching is not None
    await loader._prefetching
    assert list(loader.cache.in_ram) == [A]
    await loader.ready(engine, model(A))
    assert asked(tmp_path) == [("a", TIER_RAM), ("a", TIER_VRAM)]
    assert told == [(A, 0.5, TIER_RAM)]


@pytest.mark.parametrize("why", ["owner", "ram"])
async def test_owner_there_or_ram_short_x_nothing_is_prefetched(
    engine: EngineProcess, tmp_path: Path, why: str
) -> None:
    loader = ModelLoader("cuda:0", TIMERS, owner_present=lambda: why == "owner")
    size = 1000 if why == "owner" else 10**15
    loader.prefetch(engine, model(A, size=size))
    assert loader._prefetching is None
    assert asked(tmp_path) == []


@pytest.mark.parametrize(
    ("harm", "words"),
    [("cut", "has 3 bytes and not 5"), ("changed", "was changed"), ("gone", "is gone")],
)
async def test_file_not_as_it_was_read_x_is_named_and_another_card_may_try(
    engine: EngineProcess, tmp_path: Path, harm: str, words: str
) -> None:
    file = tmp_path / "unet" / "weights.safetensors"
    file.parent.mkdir()
    file.write_bytes(b"12345")
    local = model(A, "dream", file)
    if harm == "gone":
        file.unlink()
    else:
        file.write_bytes(b"123" if harm == "cut" else b"54321")
        os.utime(file, ns=(1, 1))
    with pytest.raises(ModelFilesChanged, match="unet/weights.safetensors " + words) as caught:
        await ModelLoader("cpu", TIMERS).ready(engine, local)
    assert caught.value.retryable
    assert caught.value.about_the_model
    assert "start the agent again" in str(caught.value)
    assert asked(tmp_path) == []


async def test_engine_ended_by_sigbus_x_the_file_is_blamed_and_not_the_card(
    engine: EngineProcess, tmp_path: Path
) -> None:
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"12345")
    local, loader = model(A, "changed while used", file), ModelLoader("cpu", TIMERS)
    with pytest.raises(EngineDied) as caught:
        await loader.ready(engine, local)
    assert caught.value.file_changed
    assert "file was cut short" in str(caught.value)
    assert loader.explained(caught.value, local) is caught.value  # it is whole again
    file.write_bytes(b"1")
    explained = loader.explained(caught.value, local)
    assert isinstance(explained, ModelFilesChanged)
    assert "weights.safetensors has 1 bytes and not 5" in str(explained)


async def test_idle_x_engine_ends_and_the_next_work_starts_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", str(fake_engine.install(tmp_path / "fake")))
    card, busy = CardEngine("cpu", TIMERS), [True]
    first = await card.ready()
    await card.models.ready(first, model(A))
    watching = asyncio.create_task(idle_engine.run(card, lambda: busy[0], 0.2))
    try:
        with pytest.raises(TimeoutError):  # longer than the setting: it has work
            await asyncio.wait_for(asyncio.shield(first._exited), 0.6)
        busy[0] = False
        await asyncio.wait_for(first.exited, 10)
        assert not card.running
        assert not card.models.cache.in_vram
        busy[0] = True  # as its worker is, before it asks for an engine
        second = await card.ready()
        assert second.pid != first.pid
        await card.models.ready(second, model(A))
    finally:
        watching.cancel()
        await card.kill()


async def test_work_that_comes_while_an_idle_engine_dies_x_gets_a_living_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", str(fake_engine.install(tmp_path / "fake")))
    card = CardEngine("cpu", TIMERS)
    first = await card.ready()
    ending = asyncio.create_task(card.end())
    await asyncio.sleep(0)
    second = await card.ready()
    try:
        assert second is not first
        await card.models.ready(second, model(A))
        await ending
        assert second.alive
        assert list(card.models.cache.in_vram) == [A]
    finally:
        await card.kill()


HALF = Placement("float16", need=3000)


async def test_laid_out_otherwise_x_is_loaded_again_but_not_for_tiles(
    engine: EngineProcess, tmp_path: Path
) -> None:
    loader = ModelLoader("cuda:0", TIMERS)
    await loader.ready(engine, model(A), HALF)
    await loader.ready(engine, model(A), replace(HALF, vae_tiling=True))
    assert len(asked(tmp_path)) == 1
    await loader.ready(engine, model(A), replace(HALF, dtype="bfloat16"))
    await loader.ready(engine, model(A))
    assert len(asked(tmp_path)) == 3


async def test_offloaded_x_lies_on_its_card_alone(engine: EngineProcess) -> None:
    loader = ModelLoader("cuda:0", TIMERS)
    await loader.ready(engine, model(A), HALF)
    await loader.ready(engine, model(B), replace(HALF, offload="model"))
    assert dict(loader.cache.in_vram) == {B: 0}, "its weights wait in RAM"
    assert loader.beside(model(A)) == 0
    await loader.ready(engine, model(A), HALF)
    assert dict(loader.cache.in_vram) == {A: 1000}
    assert loader.cache.tier(B) == TIER_DISK


async def test_drawing_needs_more_than_the_weights_x_room_is_made_for_that_also_when_it_is_there(
    engine: EngineProcess,
) -> None:
    free = [10_000]
    loader = ModelLoader("cuda:0", TIMERS, free_memory=lambda: free[0])
    await loader.ready(engine, model(A), HALF)
    await loader.ready(engine, model(B), HALF)
    free[0] = 1500  # A larger picture: 1000 of it lie there, 2000 more are needed.
    await loader.ready(engine, model(B), HALF)
    assert list(loader.cache.in_vram) == [B]


async def test_only_models_beside_it_x_are_put_out_to_try_again(engine: EngineProcess) -> None:
    loader = ModelLoader("cuda:0", TIMERS)
    await loader.ready(engine, model(A), HALF)
    assert not await loader.put_out_others(engine, model(A))
    await loader.ready(engine, model(B), HALF)
    assert loader.beside(model(B)) == 1000
    assert await loader.put_out_others(engine, model(B))
    assert list(loader.cache.in_vram) == [B]


@pytest.mark.parametrize("ahead", [True, False], ids=["prefetch", "load"])
async def test_engine_killed_while_it_loads_x_at_once_and_nothing_counts_as_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: bool
) -> None:
    monkeypatch.setattr("sys.executable", str(fake_engine.install(tmp_path / "fake")))
    card = CardEngine("cpu", TIMERS)
    process = await card.ready()
    endless = model(A, "endless", size=1)
    loading = None
    if ahead:
        card.prefetch(endless)
    else:
        loading = asyncio.create_task(card.models.ready(process, endless))
    async with asyncio.timeout(30):
        while not asked(tmp_path):  # noqa: ASYNC110 -- another process writes it
            await asyncio.sleep(0.01)
        await card.kill()
    if loading is not None:
        with pytest.raises(EngineDied):
            await loading
    assert not card.running
    assert not card.models.cache.in_vram
    assert not card.models.cache.in_ram


async def test_idle_x_an_engine_that_is_not_there_is_not_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", str(fake_engine.install(tmp_path / "fake")))
    card = CardEngine("cpu", TIMERS)
    watching = asyncio.create_task(idle_engine.run(card, lambda: False, 0.02))
    card.prefetch(model(A))  # a hint that crosses the giving back
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(watching), 0.3)
    watching.cancel()
    assert not card.running
    assert asked(tmp_path) == []
