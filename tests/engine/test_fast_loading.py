"""Networks laid over their files are what their libraries read from them, to the bit."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, T5Config, T5EncoderModel

from foxden_agent.engine.errors import BadModel
from foxden_agent.engine.fast_loading import FileChanged, Unreadable, map_network
from foxden_agent.engine.loading import open_pipeline
from foxden_agent.models import DEMO_MODEL

pytestmark = pytest.mark.engine

CPU = torch.device("cpu")
PARTS = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}


def same(one: Any, other: Any) -> None:
    mine, theirs = one.state_dict(), other.state_dict()
    assert mine.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert mine[name].dtype == tensor.dtype, name
        assert torch.equal(mine[name], tensor), name
    buffers = dict(one.named_buffers())
    for name, buffer in other.named_buffers():  # those that no file holds as well
        assert torch.equal(buffers[name], buffer), name
    assert one.training == other.training


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DEMO_MODEL, tmp_path / "model"))


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_network_is_what_from_pretrained_reads(part: str, dtype: torch.dtype) -> None:
    network = map_network(PARTS[part], DEMO_MODEL / part)
    assert network is not None
    network.to(CPU, dtype)
    theirs = PARTS[part].from_pretrained(str(DEMO_MODEL / part), dtype=dtype)
    same(network.module, theirs)
    network.release()
    network.to(CPU, dtype)  # there and back, and nothing is lost
    same(network.module, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_shared_weights_and_those_kept_in_float32_are_so_here_too(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    config = T5Config(vocab_size=50, d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=4)
    config.feed_forward_proj = "gated-gelu"
    T5EncoderModel(config).save_pretrained(tmp_path)
    network = map_network(T5EncoderModel, tmp_path)
    assert network is not None
    network.to(CPU, dtype)
    same(network.module, T5EncoderModel.from_pretrained(tmp_path, dtype=dtype))
    shared = network.module.shared.weight
    assert shared.data_ptr() == network.module.encoder.embed_tokens.weight.data_ptr()


def test_weights_in_the_files_own_precision_are_not_copied(tmp_path: Path) -> None:
    unet = UNet2DConditionModel.from_pretrained(str(DEMO_MODEL / "unet"), dtype=torch.float32)
    unet.save_pretrained(tmp_path)
    network = map_network(UNet2DConditionModel, tmp_path)
    assert network is not None
    mapped = {name: t.data_ptr() for name, t in network.weights.items()}
    network.to(CPU, torch.float32)
    held = {name: t.data_ptr() for name, t in network.module.state_dict().items()}
    assert held == mapped


def test_names_of_old_files_fit(model: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = model / "text_encoder" / "model.safetensors"
    old = {
        name if name.startswith("text_model.") else f"text_model.{name}": t
        for name, t in load_file(file).items()
    }
    old["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(old, file, metadata={"format": "pt"})
    network = map_network(CLIPTextModel, model / "text_encoder")
    assert network is not None
    network.to(CPU, torch.float32)
    theirs = CLIPTextModel.from_pretrained(str(model / "text_encoder"), dtype=torch.float32)
    same(network.module, theirs)


@pytest.mark.parametrize("harm", ["missing weight", "other shape", "quantised"])
def test_what_does_not_fit_exactly_is_left_to_its_library(model: Path, harm: str) -> None:
    from safetensors.torch import load_file, save_file

    folder = model / "unet"
    file, config = folder / "diffusion_pytorch_model.safetensors", folder / "config.json"
    weights = load_file(file)
    name = next(iter(weights))
    if harm == "missing weight":
        del weights[name]
    elif harm == "other shape":
        weights[name] = torch.zeros(3)
    else:
        config.write_text(json.dumps(json.loads(config.read_text()) | {"quantization_config": {}}))
    save_file(weights, file)
    assert map_network(UNet2DConditionModel, folder) is None


def test_pipeline_draws_the_bytes_of_from_pretrained() -> None:
    opened = open_pipeline("demo", DEMO_MODEL, torch.float32)
    assert opened is not None
    assert opened.networks.keys() == PARTS.keys()
    opened.to(CPU, torch.float32)
    theirs = StableDiffusionPipeline.from_pretrained(
        str(DEMO_MODEL), dtype=torch.float32, safety_checker=None, requires_safety_checker=False
    )

    def draw(pipe: Any) -> bytes:
        seed = torch.Generator().manual_seed(5)
        drawn = pipe("a red cube", num_inference_steps=3, width=64, height=64, generator=seed)
        return bytes(drawn.images[0].tobytes())

    assert draw(opened.pipe) == draw(theirs)


def test_building_one_network_leaves_other_threads_alone() -> None:
    stop, bad = threading.Event(), []

    def build_others() -> None:
        while not stop.is_set():
            layer = torch.nn.Linear(4, 4)
            if layer.weight.is_meta or not bool(layer.weight.any()):
                bad.append(layer)

    thread = threading.Thread(target=build_others)
    thread.start()
    try:
        for _ in range(5):
            assert map_network(UNet2DConditionModel, DEMO_MODEL / "unet") is not None
    finally:
        stop.set()
        thread.join()
    assert not bad


@pytest.mark.parametrize("harm", ["cut", "empty", "gone", "noise"])
def test_broken_file_is_named_with_what_to_do(model: Path, harm: str) -> None:
    file = model / "unet" / "diffusion_pytorch_model.safetensors"
    data = file.read_bytes()
    broken = {"cut": data[: len(data) // 2], "empty": b"", "noise": b"\xff" * 1000}
    if harm == "gone":
        shutil.copy(file, model / "unet" / "diffusion_pytorch_model.other.safetensors")
        file.unlink()
        with pytest.raises(BadModel, match="model 'm' can't be loaded"):
            open_pipeline("m", model, torch.float32)
        return
    file.write_bytes(broken[harm])
    with pytest.raises(Unreadable, match=r"unet/diffusion_pytorch_model\.safetensors .* again"):
        map_network(UNet2DConditionModel, model / "unet")
    with pytest.raises(BadModel, match=r"unet/diffusion_pytorch_model\.safetensors .* again"):
        open_pipeline("m", model, torch.float32)


@pytest.mark.parametrize(("harm", "words"), [("cut", "was cut short"), ("gone", "disappeared")])
def test_file_that_changed_while_mapped_is_not_touched_again(
    model: Path, harm: str, words: str
) -> None:
    network = map_network(UNet2DConditionModel, model / "unet")
    assert network is not None
    file = model / "unet" / "diffusion_pytorch_model.safetensors"
    if harm == "cut":
        with file.open("r+b") as stream:
            stream.truncate(1000)
    else:
        file.unlink()
    with pytest.raises(FileChanged, match=f"diffusion_pytorch_model.safetensors {words}"):
        network.to(CPU, torch.float16)


@pytest.mark.skipif(not hasattr(signal, "SIGBUS"), reason="no such signal here")
def test_bytes_that_are_gone_end_a_process_with_the_signal_the_agent_knows(model: Path) -> None:
    """What fast_loading's second trap says: nothing can be caught, so it must be recognised."""
    program = f"""
import torch
from pathlib import Path
from diffusers import UNet2DConditionModel
from foxden_agent.engine.fast_loading import map_network
network = map_network(UNet2DConditionModel, Path({str(model / "unet")!r}))
with open({str(model / "unet" / "diffusion_pytorch_model.safetensors")!r}, "r+b") as stream:
    stream.truncate(10)
print(sum(float(t.float().sum()) for t in network.weights.values()))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == -signal.SIGBUS
