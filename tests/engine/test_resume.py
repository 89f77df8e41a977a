"""Half-finished pictures go on elsewhere as if nothing had happened: real diffusers, all samplers.

Drawn by one engine, gone on with by another that loaded the model itself, so that scheduler and
pipeline are fresh; some in another process. 64 pixels and few steps keep all of it quick.
"""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import pytest_asyncio
from PIL import Image

from foxden_agent.engine.samplers import samplers
from foxden_agent.engine_client import EngineProcess
from foxden_agent.engine_errors import EngineRefused
from foxden_proto.timers import Timers
from foxden_proto.v1.engine_pb2 import Batch, EngineEvent

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:numpy"),
]

STEPS = 4
POSITION = {"_step_index", "_begin_index", "is_scale_input_called"}
# Whose next step needs more than that, the latents and the generators. The others' doesn't.
STATEFUL = [
    "DPM++ 2M",
    "DPM++ 2M SDE",
    "DPM++ SDE",
    "DPM++ 3M SDE",
    "Heun",
    "LMS",
    "PNDM",
    "UniPC",
    "DPM2",
    "DPM2 a",
    "DEIS",
]


@dataclass(frozen=True)
class Run:
    """One run to the end: pictures by item, and by model calls behind them the checkpoints."""

    pictures: dict[str, bytes]
    checkpoints: dict[int, dict[str, bytes]]

    @property
    def calls(self) -> int:
        return max(self.checkpoints) + 1

    def some_calls(self) -> list[int]:
        """The first, one in the middle and the last of which there are checkpoints."""
        return sorted({1, self.calls // 2, self.calls - 1})


def _run(events: list[EngineEvent]) -> Run:
    checkpoints: dict[int, dict[str, bytes]] = {}
    for event in events:
        if event.HasField("checkpoint"):
            made = event.checkpoint
            checkpoints.setdefault(made.step, {})[made.item_id] = made.data
    pictures = {e.picture.item_id: e.picture.png for e in events if e.HasField("picture")}
    return Run(pictures, checkpoints)


@pytest.fixture(scope="module", autouse=True)
def _every_call_has_its_checkpoint() -> Iterator[None]:
    from foxden_agent.engine import checkpoint_writer, sampler_driver

    put = checkpoint_writer.CheckpointWriter.put

    def put_and_wait(self: Any, snapshot: Any) -> None:
        put(self, snapshot)
        self.flush()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint_writer, "_LEAST_SECONDS", 0.0)
        patch.setattr(checkpoint_writer, "_MOST_SECONDS", 0.0)
        patch.setattr(checkpoint_writer.CheckpointWriter, "put", put_and_wait)
        patch.setattr(sampler_driver, "_PROGRESS_SECONDS", 0.0)
        yield


def _engine() -> Any:
    from foxden_agent.engine.diffusers_engine import DiffusersEngine
    from foxden_agent.engine.server import _version, quiet_libraries

    quiet_libraries()
    return DiffusersEngine("cpu", _version())  # it stands in the infotext


@pytest.fixture(scope="module")
def engine() -> Any:
    return _engine()


@pytest.fixture(scope="module")
def other() -> Any:
    """Another card's engine, with the model loaded."""
    return _engine()


def draw(engine: Any, batch: Batch) -> Run:
    events: list[EngineEvent] = []
    engine.generate(batch, events.append, set)
    return _run(events)


def going_on(batch: Batch, checkpoints: dict[str, bytes]) -> Batch:
    """The same batch, to go on from these."""
    new = Batch()
    new.CopyFrom(batch)
    for item in new.items:
        item.checkpoint = checkpoints[item.item_id]
    return new


@pytest.fixture(scope="module")
def whole(engine: Any, make_batch: Any) -> Callable[..., tuple[Batch, Run]]:
    """A batch of a sampler and what came of it uninterrupted, drawn once."""

    @cache
    def run(sampler: str, count: int) -> tuple[Batch, Run]:
        batch = make_batch(count, sampler=sampler, steps=STEPS, seed=11)
        batch.checkpoints = True
        return batch, draw(engine, batch)

    return run


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("sampler", samplers())
def test_batch_that_goes_on_elsewhere_gives_the_uninterrupted_bytes(
    sampler: str, count: int, whole: Any, other: Any
) -> None:
    batch, run = whole(sampler, count)
    assert sorted(run.checkpoints) == list(range(1, run.calls))
    for calls in run.some_calls():
        resumed = draw(other, going_on(batch, run.checkpoints[calls]))
        assert resumed.pictures == run.pictures, f"from call {calls} of {run.calls}"
        # Nor has it only come back to the same picture: each later checkpoint is the same state.
        assert sorted(resumed.checkpoints) == list(range(calls + 1, run.calls))
        for later, data in resumed.checkpoints.items():
            assert _states(data) == _states(run.checkpoints[later])


def _states(checkpoints: dict[str, bytes]) -> dict[str, bytes]:
    """The tensors of checkpoints as bytes; the header, with its salt, left out."""
    return {k: v[8 + struct.unpack("<Q", v[:8])[0] :] for k, v in checkpoints.items()}


@pytest.mark.parametrize("sampler", STATEFUL)
def test_without_the_schedulers_state_the_picture_is_another(
    sampler: str, whole: Any, other: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from foxden_agent.engine.errors import BadNumbers
    from foxden_agent.engine.scheduler_state import SchedulerState

    batch, run = whole(sampler, 1)
    calls = run.calls // 2
    put_back = SchedulerState.put_back

    def put_back_where_it_is(self: Any, changes: Any, shape: Any) -> None:
        put_back(self, {k: v for k, v in changes.items() if k in POSITION}, shape)

    monkeypatch.setattr(SchedulerState, "put_back", put_back_where_it_is)
    try:
        resumed = draw(other, going_on(batch, run.checkpoints[calls]))
    except BadNumbers:  # in the middle of a step they compute NaN without their first half
        return
    assert resumed.pictures.keys() == run.pictures.keys()
    assert resumed.pictures != run.pictures


def test_skipped_calls_never_reach_the_network(whole: Any, other: Any) -> None:
    batch, run = whole("Heun", 1)
    draw(other, batch)  # loads the model
    made = []
    hook = other._pipe.unet.conv_in.register_forward_hook(lambda *args: made.append(args))
    try:
        draw(other, going_on(batch, run.checkpoints[5]))
    finally:
        hook.remove()
    assert len(made) == run.calls - 5


def test_progress_of_a_resumed_batch_begins_where_it_was(whole: Any, other: Any) -> None:
    batch, run = whole("Euler", 1)
    events: list[EngineEvent] = []
    other.generate(going_on(batch, run.checkpoints[3]), events.append, set)
    assert [e.step.step for e in events if e.HasField("step")] == [3, 4]


def test_images_released_apart_and_joined_again_are_exact(
    whole: Any, engine: Any, other: Any
) -> None:
    """Each image alone reached call 2 of its own batch of 3; a batch of them goes on."""
    batch, run = whole("DPM++ 2M SDE", 3)
    shuffled = Batch(model=batch.model, items=[batch.items[i] for i in (2, 0, 1)])
    resumed = draw(other, going_on(shuffled, run.checkpoints[2]))
    assert resumed.pictures == run.pictures


@pytest.mark.parametrize("sampler", ["DPM++ 2M", "DPM++ SDE", "UniPC", "PNDM"])
def test_image_that_leaves_its_batch_goes_on_within_tolerance(
    sampler: str, whole: Any, other: Any
) -> None:
    batch, run = whole(sampler, 3)
    for item in batch.items:
        alone = Batch(model=batch.model, items=[item])
        resumed = draw(other, going_on(alone, run.checkpoints[3]))
        assert _difference(resumed.pictures[item.item_id], run.pictures[item.item_id]) <= 2.0


def _difference(one: bytes, another: bytes) -> float:
    """Mean absolute difference of two pictures, of 255."""
    a, b = (Image.open(io.BytesIO(png)).convert("RGB").tobytes() for png in (one, another))
    return sum(abs(x - y) for x, y in zip(a, b, strict=True)) / len(a)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("sampler", samplers())
def test_image_to_image_that_goes_on_elsewhere_gives_the_uninterrupted_bytes(
    sampler: str, count: int, whole: Any, engine: Any, other: Any
) -> None:
    batch, drawn = whole(sampler, count)
    start = Image.open(io.BytesIO(drawn.pictures["0"])).convert("RGB")
    run = _image_to_image(engine, batch, start)
    assert run.calls > 1
    for calls in run.some_calls():
        resumed = _image_to_image(other, batch, start, run.checkpoints[calls])
        assert resumed.pictures == run.pictures, f"from call {calls} of {run.calls}"


def _image_to_image(
    engine: Any, batch: Batch, start: Any, resume: dict[str, bytes] | None = None
) -> Run:
    """The driver inside a pipeline that the engine itself does not offer yet."""
    import diffusers
    import torch

    from foxden_agent.engine import checkpoints
    from foxden_agent.engine.sampler_driver import SamplerDriver

    engine.load(batch.model)
    requests = [item.request for item in batch.items]
    parts = dict(engine._pipe.components)
    parts["scheduler"] = engine._build_scheduler(requests[0], [r.seed for r in requests])
    pipe = diffusers.StableDiffusionImg2ImgPipeline(**parts, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    identity = dataclasses.replace(
        engine._identity(batch.model, requests[0]), pipeline=type(pipe).__name__
    )
    generators = [torch.Generator("cpu").manual_seed(r.seed) for r in requests]
    events: list[EngineEvent] = []
    driver = SamplerDriver(
        [item.item_id for item in batch.items],
        requests[0].steps,
        events.append,
        set,
        generators=generators,
        write=lambda i, snapshot: checkpoints.write(snapshot, identity, requests[i], "test"),
        resume=resume
        and checkpoints.join(
            [checkpoints.read(resume[i.item_id], identity, i.request) for i in batch.items]
        ),
    )
    with driver.attached(pipe) as after_call:
        images = pipe(
            prompt=[r.prompt for r in requests],
            image=start,
            strength=0.7,
            num_inference_steps=requests[0].steps,
            guidance_scale=requests[0].guidance_scale,
            generator=generators,
            callback_on_step_end=after_call,
        ).images
    run = _run(events)
    return Run({str(i): image.tobytes() for i, image in enumerate(images)}, run.checkpoints)


# Checkpoints that do not fit, or are broken, or hostile.


def _tampered(data: bytes, change: Callable[[dict[str, Any], dict[str, Any]], object]) -> bytes:
    """The checkpoint with its tensors and its JSON changed, and written again as a valid file."""
    import safetensors.torch

    length = struct.unpack("<Q", data[:8])[0]
    about = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["foxden"])
    tensors = safetensors.torch.load(data)
    change(tensors, about)
    return bytes(safetensors.torch.save(tensors, {"foxden": json.dumps(about)}))


def _tensor(*shape: int, fill: float = 0.0) -> Any:
    import torch

    return torch.full(shape, fill)


TAMPERINGS: dict[str, Callable[[dict[str, Any], dict[str, Any]], object]] = {
    "its format is 99": lambda t, a: a.update(format=99),
    "its diffusers is '0.1'": lambda t, a: a["identity"].update(diffusers="0.1"),
    "its scheduler is": lambda t, a: a["identity"].update(scheduler="PNDMScheduler"),
    "its model is": lambda t, a: a["identity"].update(model="0" * 64),
    "its seed is 12": lambda t, a: a["identity"].update(seed=12),
    "another request": lambda t, a: a.update(request="00"),
    "no number of model calls": lambda t, a: a.update(calls="1"),
    "of call 4 of 4": lambda t, a: a.update(calls=4),
    "don't fit": lambda t, a: t.update(latents=_tensor(1, 4, 8, 8)),
    "are not one image's": lambda t, a: t.update(latents=_tensor(1, 4, 16, 16).long()),
    r"infinite or none \(NaN\)": lambda t, a: t.update(
        latents=_tensor(1, 4, 16, 16, fill=float("inf"))
    ),
    "generator's state is none": lambda t, a: t.update(generator=t["generator"][:100].clone()),
    "mt19937": lambda t, a: t["generator"].fill_(255),
    "nothing refers to": lambda t, a: t.update(more=_tensor(1)),
    "more than 63 tensors": lambda t, a: t.update({str(i): _tensor(1) for i in range(66)}),
    "'step' is no state": lambda t, a: a["state"].update(step=1),
    "'__class__' is no state": lambda t, a: a["state"].update(__class__=1),
    "'_internal_dict' is no state": lambda t, a: a["state"].update(_internal_dict=1),
    "'sigmas' has the shape": lambda t, a: (
        a["state"].update(sigmas={"tensor": "s", "channels_last": False}),
        t.update(s=_tensor(3)),
    ),
    "'lower_order_nums' is a list": lambda t, a: a["state"].update(lower_order_nums=[[1]]),
    "going on failed": lambda t, a: a["state"].update(_step_index=10**6),
    "it can't be read": lambda t, a: a.pop("identity"),
}


@pytest.mark.parametrize("why", TAMPERINGS)
def test_checkpoint_that_does_not_fit_is_refused_and_the_engine_draws_on(
    why: str, whole: Any, other: Any
) -> None:
    from foxden_agent.engine.errors import BadCheckpoint

    batch, run = whole("DPM++ 2M", 1)
    data = _tampered(run.checkpoints[2]["0"], TAMPERINGS[why])
    with pytest.raises(BadCheckpoint, match=why):
        draw(other, going_on(batch, {"0": data}))
    assert draw(other, batch).pictures == run.pictures


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: b"x",
        lambda data: data[:-10],
        lambda data: data[:200],
        lambda data: b"\xff" * 8 + data[8:],
        lambda data: struct.pack("<Q", 2) + b"{}",
        lambda data: struct.pack("<Q", 50_000) + b"[" * 50_000,
        lambda data: data + bytes(40 * 2**20),
        # A header that promises eight exabytes.
        lambda data: data.replace(b'"shape":[1,4,16,16]', b'"shape":[9,9999999]', 1),
    ],
)
def test_bytes_that_are_no_checkpoint_are_refused(
    spoil: Callable[[bytes], bytes], whole: Any, other: Any
) -> None:
    from foxden_agent.engine.errors import BadCheckpoint

    batch, run = whole("DPM++ 2M", 1)
    with pytest.raises(BadCheckpoint, match="from the beginning"):
        draw(other, going_on(batch, {"0": spoil(run.checkpoints[2]["0"])}))


def test_checkpoints_of_different_steps_or_of_some_images_only_are_refused(
    whole: Any, other: Any
) -> None:
    from foxden_agent.engine.errors import BadCheckpoint

    batch, run = whole("Euler", 3)
    mixed = run.checkpoints[2] | {"1": run.checkpoints[3]["1"]}
    with pytest.raises(BadCheckpoint, match="of steps 2 and 3"):
        draw(other, going_on(batch, mixed))
    with pytest.raises(BadCheckpoint, match="others of the batch have none"):
        draw(other, going_on(batch, run.checkpoints[2] | {"1": b""}))


def test_checkpoint_of_another_image_is_refused(whole: Any, other: Any) -> None:
    from foxden_agent.engine.errors import BadCheckpoint

    batch, run = whole("Euler", 3)
    made = run.checkpoints[2]
    with pytest.raises(BadCheckpoint, match="its seed is 12, and this one's 11"):
        draw(other, going_on(batch, made | {"0": made["1"]}))
    changed = going_on(batch, made)
    changed.items[0].request.prompt = "something else"
    with pytest.raises(BadCheckpoint, match="made for another request"):
        draw(other, changed)


def test_no_prompt_is_in_a_checkpoint(engine: Any, make_batch: Any) -> None:
    batch = make_batch(steps=3, prompt="unutterable", negative_prompt="unspeakable")
    batch.checkpoints = True
    for made in draw(engine, batch).checkpoints.values():
        assert b"unutterable" not in made["0"]
        assert b"unspeakable" not in made["0"]


def test_checkpoints_come_only_when_asked_for(engine: Any, make_batch: Any) -> None:
    assert not draw(engine, make_batch(steps=3)).checkpoints


def test_taking_checkpoints_does_not_disturb_the_run(
    whole: Any, engine: Any, make_batch: Any
) -> None:
    for sampler in ("DPM++ SDE", "UniPC", "Euler a"):
        _, run = whole(sampler, 1)
        plain = draw(engine, make_batch(sampler=sampler, steps=STEPS, seed=11))
        assert plain.pictures == run.pictures


# In another process.


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def process() -> AsyncIterator[EngineProcess]:
    async with await EngineProcess.start("cpu", timers=Timers()) as started:
        yield started


@pytest.mark.asyncio(loop_scope="module")
async def test_killed_process_leaves_checkpoints_that_others_go_on_from(
    make_batch: Any, other: Any, process: EngineProcess
) -> None:
    """A process is killed in the middle; what it left goes on here, and in another process."""
    batch = make_batch(2, sampler="DPM++ SDE", steps=30)
    batch.checkpoints = True
    newest: dict[str, Any] = {}
    async with await EngineProcess.start("cpu", timers=Timers()) as first:
        async for event in first.generate(batch):
            if event.HasField("checkpoint"):
                newest[event.checkpoint.item_id] = event.checkpoint
            steps = {made.step for made in newest.values()}
            if len(newest) == 2 and len(steps) == 1 and min(steps) >= 4:
                break
        await first.kill()
    released = going_on(batch, {item_id: made.data for item_id, made in newest.items()})
    pictures = (await asyncio.to_thread(draw, other, batch)).pictures
    assert (await asyncio.to_thread(draw, other, released)).pictures == pictures
    events = [event async for event in process.generate(released)]
    assert _run(events).pictures == pictures
    first = next(iter(newest.values())).step
    assert min(e.step.step for e in events if e.HasField("step")) >= first * 30 // 59


@pytest.mark.asyncio(loop_scope="module")
async def test_refused_checkpoint_is_told_apart_from_a_failure(
    make_batch: Any, process: EngineProcess
) -> None:
    damaged = going_on(make_batch(), {"0": b"broken"})
    with pytest.raises(EngineRefused, match="from the beginning") as caught:
        _ = [event async for event in process.generate(damaged)]
    assert caught.value.retryable
    assert caught.value.about_the_checkpoint
    assert not caught.value.unforeseen


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("sampler", ["DPM++ SDE", "DPM++ 3M SDE", "PNDM", "UniPC", "LMS"])
async def test_new_process_goes_on_to_the_uninterrupted_bytes(
    sampler: str, whole: Any, process: EngineProcess
) -> None:
    batch, run = whole(sampler, 3)
    for calls in run.some_calls():
        resumed = going_on(batch, run.checkpoints[calls])
        events = [event async for event in process.generate(resumed)]
        assert _run(events).pictures == run.pictures, f"from call {calls} of {run.calls}"


@pytest.mark.asyncio(loop_scope="module")
async def test_share_of_the_time_changes_no_picture_and_is_checked(
    make_batch: Any, process: EngineProcess
) -> None:
    batch = make_batch(steps=3)
    full = [event async for event in process.generate(batch)]
    with pytest.raises(EngineRefused, match="a share of 0 is not above 0") as caught:
        await process.set_share(0.0)
    assert not caught.value.retryable
    await process.set_share(0.5)
    rested = [event async for event in process.generate(batch)]
    await process.set_share(1.0)
    assert _run(rested).pictures == _run(full).pictures
