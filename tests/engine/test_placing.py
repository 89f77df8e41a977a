"""Placements on a real pipeline: what a CPU can do of them, and the decisions of the rest."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from foxden_agent.engine import placing
from foxden_agent.engine.diffusers_engine import DiffusersEngine
from foxden_agent.engine.errors import BadModel
from foxden_agent.engine.loading import open_pipeline
from foxden_agent.engine.placing import Reading
from foxden_agent.models import DEMO_MODEL
from foxden_proto.v1.engine_pb2 import EngineEvent, Placement

pytestmark = pytest.mark.engine
GIB, CPU = 1024**3, torch.device("cpu")


class Drawing:
    """What an engine in this process makes of a batch."""

    def __init__(self) -> None:
        self.engine = DiffusersEngine("cpu", "0")

    def __call__(self, batch: Any, **placement: Any) -> list[EngineEvent]:
        batch.placement.CopyFrom(Placement(**placement))
        events: list[EngineEvent] = []
        self.engine.generate(batch, events.append, set)
        return events


def laid_out(device: torch.device, placement: Placement) -> Any:
    opened = open_pipeline("demo", DEMO_MODEL, torch.float32, mapped=not placement.offload)
    assert opened is not None
    opened.lay_out(placement, device)
    return opened.pipe


@pytest.fixture(scope="module")
def draw() -> Drawing:
    return Drawing()


def pixels(events: list[EngineEvent]) -> Any:
    (png,) = [event.picture.png for event in events if event.HasField("picture")]
    return np.asarray(Image.open(io.BytesIO(png)), dtype=np.float32)


def recorded(events: list[EngineEvent]) -> str:
    return next(event.picture.placement for event in events if event.HasField("picture"))


def test_sliced_attention_draws_the_same_and_can_be_taken_back(
    draw: Drawing, make_batch: Any
) -> None:
    plain = draw(make_batch(steps=8))
    sliced = draw(make_batch(steps=8), attention_slicing=True)
    again = draw(make_batch(steps=8))
    assert np.abs(pixels(sliced) - pixels(plain)).mean() < 1.0
    assert np.abs(pixels(again) - pixels(plain)).max() == 0
    assert "sliced" in recorded(sliced)
    assert "sliced" not in recorded(again)


def test_tiles_draw_nearly_the_same_and_can_be_taken_back(draw: Drawing, make_batch: Any) -> None:
    # Tiles of 64 pixels, the demo model's own size; a tile's norms see less of the picture.
    plain = draw(make_batch(steps=8, width=128, height=128))
    tiled = draw(make_batch(steps=8, width=128, height=128), vae_tiling=True)
    again = draw(make_batch(steps=8, width=128, height=128))
    difference = np.abs(pixels(tiled) - pixels(plain))
    assert 0 < difference.mean() < 8.0
    assert np.abs(pixels(again) - pixels(plain)).max() == 0
    assert "tiled" in recorded(tiled)


def test_tiles_are_of_512_pixels_however_large_the_vae_was_made_for() -> None:
    pipe = laid_out(CPU, Placement())
    pipe.vae.tile_sample_min_size = 1024  # SDXL's
    placing.adjust(pipe, Placement(vae_tiling=True))
    assert (pipe.vae.tile_sample_min_size, pipe.vae.tile_latent_min_size) == (512, 128)


def test_switching_tiles_and_slices_reads_nothing_again_but_a_data_type_does(
    draw: Drawing, make_batch: Any
) -> None:
    draw(make_batch(steps=1), dtype="float32")
    loaded = draw.engine._pipe
    draw(make_batch(steps=1), dtype="float32", vae_tiling=True, attention_slicing=True)
    assert draw.engine._pipe is loaded
    events = draw(make_batch(steps=1), dtype="bfloat16")
    assert {p.dtype for p in draw.engine._pipe.unet.parameters()} == {torch.bfloat16}
    assert recorded(events).startswith("cpu bfloat16 threads=")
    (measured,) = [event.measured for event in events if event.HasField("measured")]
    assert measured.load_seconds > 0


def test_measured_comes_last_with_the_peak_of_this_batch(draw: Drawing, make_batch: Any) -> None:
    events = draw(make_batch(steps=1))
    assert events[-1].HasField("measured")
    small = events[-1].measured
    assert 50e6 < small.memory_used <= small.peak_memory
    assert not small.spilled
    large = draw(make_batch(steps=1, width=256, height=256))[-1].measured
    after = draw(make_batch(steps=1))[-1].measured
    assert large.peak_memory >= after.peak_memory  # the peak is the batch's, not the process's


@pytest.mark.parametrize(
    ("placement", "why"),
    [
        ({"offload": "model"}, "nothing can be offloaded from cpu"),
        ({"offload": "sideways"}, "no way of offloading"),
    ],
)
def test_offload_that_cannot_be_is_refused(placement: dict[str, str], why: str) -> None:
    with pytest.raises(BadModel, match=why):
        laid_out(CPU, Placement(**placement))


def test_processor_is_used_beside_a_card_when_the_placement_says_so() -> None:
    cuda = torch.device("cuda:0")
    placement = Placement(cpu=True, dtype="float32")
    assert placing.device_of(placement, cuda) == CPU
    assert placing.torch_dtype(Placement(cpu=True), cuda) is torch.float32
    assert placing.torch_dtype(Placement(), cuda) is torch.float16
    pipe = laid_out(cuda, placement)
    assert pipe.device == CPU
    assert placing.describe(placement, cuda, torch.float32).startswith("cpu float32 threads=")


class Calls:
    """Stands where a pipeline stands, and writes down what it is told: offloading itself needs a
    card (tests/gpu runs it)."""

    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **options: self.told.append((name, {"args": args} | options))


@pytest.mark.parametrize(
    ("offload", "method"),
    [
        ("", "to"),
        ("model", "enable_model_cpu_offload"),
        ("group", "enable_group_offload"),
        ("sequential", "enable_sequential_cpu_offload"),
    ],
)
def test_each_rung_is_one_method_that_diffusers_has(offload: str, method: str) -> None:
    import inspect

    import diffusers

    calls = Calls()
    placing.place(calls, Placement(offload=offload), torch.device("cuda:0"), 5 * GIB)
    ((called, options),) = calls.told
    assert called == method
    if offload:
        takes = inspect.signature(getattr(diffusers.DiffusionPipeline, method)).parameters
        assert options.keys() - {"args"} <= takes.keys()


def test_weights_are_pinned_while_they_are_less_than_half_of_the_ram() -> None:
    assert placing.may_pin(7 * GIB, 16 * GIB)
    assert not placing.may_pin(9 * GIB, 16 * GIB)


@pytest.mark.parametrize(
    ("before", "after", "spilled"),
    [
        (Reading(8 * GIB, 0), Reading(2 * GIB, 6 * GIB), False),  # as it should be
        (Reading(4 * GIB, 0), Reading(0, 7 * GIB), True),  # three of it are not on the card
        (Reading(1 * GIB, 0), Reading(6 * GIB, 2 * GIB), False),  # a game ended meanwhile
        (Reading(6 * GIB, 0), Reading(0, 3 * GIB), False),  # a game began: full, but not by us
        (Reading(4 * GIB, 3 * GIB), Reading(0, 7 * GIB), False),
    ],
)
def test_spill_is_more_reserved_than_has_gone_from_a_full_card(
    before: Reading, after: Reading, spilled: bool
) -> None:
    assert placing.spilled(before, after) is spilled


def test_unknown_data_type_is_refused() -> None:
    with pytest.raises(ValueError, match="'float8' is no data type"):
        placing.torch_dtype(Placement(dtype="float8"), CPU)


def test_cuda_device_is_told_as_the_driver_writes_it() -> None:
    known = SimpleNamespace(
        uuid="4f6a1b2c-0000-11ee-be56-0242ac120002",
        pci_domain_id=0,
        pci_bus_id=0x4B,
        pci_device_id=1,
    )
    assert placing.uuid_of(known) == "4f6a1b2c-0000-11ee-be56-0242ac120002"
    assert placing.pci_bus_id_of(known) == "00000000:4b:01.0"


@pytest.mark.parametrize("uuid", [{}, {"uuid": "00000000-0000-0000-0000-000000000000"}])
def test_device_that_torch_or_driver_cannot_name_is_told_by_nothing(uuid: dict[str, str]) -> None:
    unknown = SimpleNamespace(name="a card", **uuid)
    assert placing.uuid_of(unknown) == placing.pci_bus_id_of(unknown) == ""
