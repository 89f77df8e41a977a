"""The engine as the agent sees it: a child process that draws, refuses, falls silent and dies."""

import asyncio
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from foxden_agent.engine_client import EngineProcess
from foxden_agent.engine_errors import EngineDied, EngineRefused, EngineSilent
from foxden_agent.models import DEMO_MODEL
from foxden_proto.timers import Timers
from foxden_proto.v1.engine_pb2 import DescribeRequest, ModelSource
from foxden_proto.v1.engine_pb2_grpc import EngineStub

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[EngineProcess]:
    async with await EngineProcess.start("cpu", timers=Timers()) as process:
        yield process


@pytest.fixture
def broken_model(tmp_path: Path) -> ModelSource:
    path = tmp_path / "broken"
    shutil.copytree(DEMO_MODEL, path)
    return ModelSource(name="broken", sha256="b", path=str(path), family="sd1")


def _socket(engine: EngineProcess) -> Path:
    assert engine._folder is not None
    return Path(engine._folder.name) / "engine"


def _folders() -> set[Path]:
    return set(Path("/tmp").glob("foxden-*"))


def _past_step(event: Any, step: int) -> bool:
    return bool(event.HasField("step") and event.step.step >= step)


async def _all(engine: EngineProcess, batch: Any) -> list[Any]:
    return [event async for event in engine.generate(batch)]


async def test_describe_names_device_samplers_and_versions(engine: EngineProcess) -> None:
    description = await engine.describe()
    assert description.device.device == "cpu"
    assert description.device.memory_total > 1e9
    offers = {offer.name: list(offer.schedules) for offer in description.samplers}
    assert "karras" in offers["DPM++ 2M"]
    assert "karras" not in offers["Euler a"]
    assert description.versions.startswith("torch ")


async def test_load_twice_reads_once(engine: EngineProcess, make_batch: Any) -> None:
    first = await engine.load(make_batch().model)
    assert first.memory > 5e6
    assert (await engine.load(make_batch().model)).seconds == 0


async def test_generate_draws_the_prompt_step_by_step(
    engine: EngineProcess, make_batch: Any, drawn: Any, red_on_blue: Any
) -> None:
    result = drawn(await _all(engine, make_batch()))
    assert result.steps == sorted(set(result.steps))
    assert result.steps[-1] == 20
    assert result.stages[-3:] == ["encoding", "sampling", "decoding"]
    assert red_on_blue(result.image())
    picture = result.pictures["0"]
    assert (picture.width, picture.height, picture.batch_size) == (64, 64, 1)
    assert picture.placement.startswith("cpu float32 threads=")
    text = result.image().text["parameters"]
    assert "Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 3, Seed: 1, Size: 64x64" in text


async def test_same_seed_twice_is_the_same_to_the_byte(
    engine: EngineProcess, make_batch: Any, drawn: Any
) -> None:
    one, two = [drawn(await _all(engine, make_batch(2))) for _ in range(2)]
    assert one.pictures["0"].png == two.pictures["0"].png
    assert one.pictures["1"].png == two.pictures["1"].png
    assert one.pictures["0"].png != one.pictures["1"].png


async def test_stop_ends_the_batch_without_a_picture(
    engine: EngineProcess, make_batch: Any, drawn: Any
) -> None:
    events = []
    async for event in engine.generate(make_batch(steps=150)):
        events.append(event)
        if _past_step(event, 3):
            await engine.stop(["0", "of another batch"])
    result = drawn(events)
    assert result.stopped == ["0"]
    assert not result.pictures
    assert result.steps[-1] < 150


async def test_second_batch_meanwhile_is_refused_for_now(
    engine: EngineProcess, make_batch: Any
) -> None:
    running = engine.generate(make_batch(steps=150))
    async for event in running:
        if event.HasField("step"):
            break
    with pytest.raises(EngineRefused, match="another batch") as caught:
        await _all(engine, make_batch())
    assert caught.value.retryable
    assert (await engine.describe()).device.device == "cpu"  # answered while it draws
    await engine.stop(["0"])
    async for _ in running:
        pass


async def test_leaving_the_stream_frees_the_engine(engine: EngineProcess, make_batch: Any) -> None:
    running = engine.generate(make_batch(steps=150))
    async for event in running:
        if event.HasField("step"):
            break
    await running.aclose()  # type: ignore[attr-defined] # an async generator
    await _until_free(engine, make_batch(steps=1))


async def _use(engine: EngineProcess, batch: Any) -> None:
    assert await _all(engine, batch)


async def _until_free(engine: EngineProcess, batch: Any) -> None:
    """A batch that nobody wants any more ends at its next step, not before."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await _use(engine, batch)
            except EngineRefused:
                await asyncio.sleep(0.05)


async def test_wrong_secret_is_refused(engine: EngineProcess) -> None:
    async with grpc.aio.insecure_channel(f"unix:{_socket(engine)}") as channel:
        for metadata in ((), (("foxden-secret", "0" * 64),)):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await EngineStub(channel).Describe(DescribeRequest(), metadata=metadata)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_socket_lies_in_a_private_folder(engine: EngineProcess) -> None:
    assert os.stat(_socket(engine).parent).st_mode & 0o777 == 0o700


async def test_broken_weights_are_refused_by_name_and_the_engine_lives(
    engine: EngineProcess, broken_model: ModelSource, make_batch: Any
) -> None:
    weights = Path(broken_model.path) / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    with pytest.raises(EngineRefused, match="model 'broken' can't be loaded") as caught:
        await _all(engine, make_batch(model=broken_model))
    assert not caught.value.retryable
    assert engine.alive
    await _use(engine, make_batch(steps=1))


async def test_pickled_weights_are_refused(
    engine: EngineProcess, broken_model: ModelSource
) -> None:
    weights = Path(broken_model.path) / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(EngineRefused, match="model 'broken' can't be loaded"):
        await engine.load(broken_model)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("unet", ["my_unet", "MyUNet"]),
        ("_class_name", ["my_pipeline", "MyPipeline"]),
        ("_class_name", "os.system"),
    ],
)
async def test_code_of_the_models_own_is_refused(
    engine: EngineProcess, broken_model: ModelSource, key: str, value: object
) -> None:
    index = Path(broken_model.path) / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {key: value}))
    (Path(broken_model.path) / "my_unet.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(EngineRefused, match="model 'broken' can't be loaded"):
        await engine.load(broken_model)
    assert engine.alive


async def test_prompts_reach_no_log(
    engine: EngineProcess, make_batch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    await _use(engine, make_batch(steps=1, prompt="unutterable " * 200))
    with pytest.raises(EngineRefused):
        await _use(engine, make_batch(steps=1, width=60, prompt="unutterable"))
    await asyncio.sleep(0.2)
    assert "unutterable" not in caplog.text


async def test_silence_then_death_mid_picture_are_told_apart(make_batch: Any) -> None:
    async def draw_and_send(what: signal.Signals) -> None:
        async for event in engine.generate(make_batch(steps=150)):
            if _past_step(event, 2):
                os.kill(engine.pid, what)
        raise AssertionError("the picture was finished")

    async with await EngineProcess.start("cpu", timers=Timers(engine_silent=3.0)) as engine:
        with pytest.raises(EngineSilent, match="no sign of life for 3 s while sampling"):
            await draw_and_send(signal.SIGSTOP)
        os.kill(engine.pid, signal.SIGCONT)
        await _until_free(engine, make_batch(steps=1))
        with pytest.raises(EngineDied, match="SIGKILL") as caught:
            await draw_and_send(signal.SIGKILL)
        assert caught.value.exit_code == -signal.SIGKILL
        assert await asyncio.wait_for(engine.exited, 1.0) == -signal.SIGKILL
        assert not engine.alive
    assert not _folders() & {_socket(engine).parent}
    with pytest.raises(EngineDied):
        await engine.describe()


async def test_closed_stdin_ends_the_process_and_its_folder() -> None:
    engine = await EngineProcess.start("cpu", timers=Timers())
    try:
        assert engine._process.stdin is not None
        engine._process.stdin.close()
        assert await asyncio.wait_for(engine.exited, 2.0) == 0
        assert not _folders() & {_socket(engine).parent}
    finally:
        await engine.kill()


async def test_child_that_cannot_start_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", shutil.which("false"))
    before = _folders()
    with pytest.raises(EngineDied, match="exit code 1"):
        await EngineProcess.start("cpu", timers=Timers())
    assert _folders() <= before
