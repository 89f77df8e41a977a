"""Several models in one engine, moved between its tiers, with real diffusers on the CPU."""

from __future__ import annotations

import shutil
import threading
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from foxden_agent.engine import warm_models
from foxden_agent.engine.diffusers_engine import DiffusersEngine
from foxden_agent.engine.errors import BadModel, OutOfMemory
from foxden_agent.engine.loading import Opened
from foxden_agent.engine.warm_models import WarmModels
from foxden_agent.models import DEMO_MODEL
from foxden_proto.v1.engine_pb2 import ModelSource, Placement
from foxden_proto.v1.pool_pb2 import TIER_DISK, TIER_RAM, TIER_VRAM

pytestmark = pytest.mark.engine

AS_IT_IS = Placement()


@pytest.fixture
def models(tmp_path: Path) -> list[ModelSource]:
    found = []
    for name in "ab":
        path = shutil.copytree(DEMO_MODEL, tmp_path / name)
        found.append(ModelSource(name=name, sha256=name, path=str(path), family="sd1"))
    return found


@pytest.fixture
def warm() -> WarmModels:
    return WarmModels(torch.device("cpu"), lambda doing: nullcontext())


def draw(engine: DiffusersEngine, batch: Any) -> bytes:
    events: list[Any] = []
    engine.generate(batch, events.append, set)
    (picture,) = [event.picture.png for event in events if event.HasField("picture")]
    return bytes(picture)


def test_several_models_stay_warm_and_draw_the_same_after_every_move(
    models: list[ModelSource], make_batch: Any
) -> None:
    engine = DiffusersEngine("cpu", "test")
    a, b = models
    fresh = draw(engine, make_batch(model=a, steps=2))
    assert engine.load(b).came_from == TIER_DISK
    again = engine.load(a)
    assert (again.seconds, again.came_from) == (0, TIER_VRAM)
    assert draw(engine, make_batch(model=a, steps=2)) == fresh
    engine.unload(["a", "never heard of"], TIER_RAM)
    assert engine._models.tiers() == {"a": TIER_RAM, "b": TIER_VRAM}
    assert draw(engine, make_batch(model=a, steps=2)) == fresh
    engine.unload(["a"], TIER_DISK)
    assert engine._models.tiers() == {"b": TIER_VRAM}
    assert engine.load(a).came_from == TIER_DISK
    assert draw(engine, make_batch(model=a, steps=2)) == fresh


def test_prefetched_while_another_draws_is_loaded_from_ram(
    models: list[ModelSource], make_batch: Any
) -> None:
    engine = DiffusersEngine("cpu", "test")
    a, b = models
    alone = draw(engine, make_batch(model=a, steps=8))
    answers: list[Any] = []
    drawing = threading.Event()

    def prefetch() -> None:
        drawing.wait(20)
        answers.append(engine.prefetch(b))

    beside = threading.Thread(target=prefetch)
    beside.start()
    events: list[Any] = []

    def on_event(event: Any) -> None:
        drawing.set()
        events.append(event)

    engine.generate(make_batch(model=a, steps=8), on_event, set)
    beside.join()
    (picture,) = [event.picture for event in events if event.HasField("picture")]
    assert picture.png == alone
    assert answers[0].memory > 0
    assert engine._models.tiers()["b"] == TIER_RAM
    loaded = engine.load(b)
    assert (loaded.came_from, loaded.seconds > 0) == (TIER_RAM, True)


def test_out_of_memory_puts_out_everything_else_and_tries_once_more(
    warm: WarmModels, models: list[ModelSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = models
    warm.bring(a, AS_IT_IS)
    tries: list[dict[str, Any]] = []
    honest = Opened.to

    def full(self: Opened, *args: Any) -> None:
        tries.append(warm.tiers())
        if "a" in warm.tiers():
            raise OutOfMemory("cpu", "loading b")
        honest(self, *args)

    monkeypatch.setattr(Opened, "to", full)
    assert warm.bring(b, AS_IT_IS).came_from == TIER_DISK
    assert tries == [{"a": TIER_VRAM}, {}]
    assert warm.tiers() == {"b": TIER_VRAM}


def test_out_of_memory_alone_on_the_card_is_said_and_leaves_nothing(
    warm: WarmModels, models: list[ModelSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OutOfMemory("cpu", "loading a")

    monkeypatch.setattr(Opened, "to", full)
    with pytest.raises(OutOfMemory):
        warm.bring(models[0], AS_IT_IS)
    assert warm.tiers() == {}


def test_full_card_that_nobody_made_room_on_loses_what_was_used_longest_ago(
    warm: WarmModels, models: list[ModelSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = models
    warm.bring(a, AS_IT_IS)
    room = warm_models._WORKING_BYTES + 10**9
    monkeypatch.setattr(
        WarmModels, "_free", lambda self, device: 0 if TIER_VRAM in self.tiers().values() else room
    )
    warm.bring(b, AS_IT_IS)
    assert warm.tiers() == {"a": TIER_RAM, "b": TIER_VRAM}


def test_file_changed_while_it_waited_in_ram_is_refused_by_name_and_forgotten(
    warm: WarmModels, models: list[ModelSource]
) -> None:
    a = models[0]
    warm.prefetch(a)
    file = Path(a.path) / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(BadModel, match=r"unet/diffusion_pytorch_model\.safetensors was cut short"):
        warm.bring(a, AS_IT_IS)
    assert warm.tiers() == {}


def test_prefetch_of_what_only_its_library_can_read_warms_the_files_alone(
    warm: WarmModels, models: list[ModelSource]
) -> None:
    from safetensors.torch import load_file, save_file

    a = models[0]
    file = Path(a.path) / "vae" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["an.old.name"] = weights.pop(next(iter(weights)))
    save_file(weights, file)
    assert warm.prefetch(a) is None
    assert warm.tiers() == {}


def test_other_precision_lays_the_model_out_anew_and_leaves_the_others(
    warm: WarmModels, models: list[ModelSource]
) -> None:
    a, b = models
    warm.bring(a, Placement(dtype="float32"))
    warm.bring(b, Placement(dtype="float32"))
    same = warm.bring(a, Placement(dtype="float32", vae_tiling=True))
    assert (same.came_from, same.seconds) == (TIER_VRAM, 0)
    other = warm.bring(a, Placement(dtype="bfloat16"))
    assert (other.came_from, other.seconds > 0) == (TIER_RAM, True)
    assert {p.dtype for p in other.warm.opened.pipe.unet.parameters()} == {torch.bfloat16}
    assert warm.tiers() == {"a": TIER_VRAM, "b": TIER_VRAM}


def test_offloaded_model_is_read_by_its_library_and_stays_beside_no_other(
    warm: WarmModels, models: list[ModelSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    # What the hooks do needs a card (make gpu-check); who is put out for them does not.
    monkeypatch.setattr(warm_models.placing, "place", lambda *_: None)
    a, b = models
    offloaded = Placement(dtype="float32", offload="model")
    warm.bring(a, AS_IT_IS)
    brought = warm.bring(b, offloaded)
    assert brought.warm.opened.networks == {}
    assert warm.tiers() == {"a": TIER_RAM, "b": TIER_VRAM}
    assert warm.bring(a, AS_IT_IS).came_from == TIER_RAM
    assert warm.tiers() == {"a": TIER_VRAM}
    assert warm.bring(a, offloaded).warm.opened.networks == {}
