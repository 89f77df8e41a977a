"""Sizes of models from the headers of real safetensors files; no weights are read."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from foxden_agent.models import DEMO_MODEL
from foxden_agent.placement.model_files import Unreadable, read_model


def write(file: Path, tensors: dict[str, tuple[str, list[int]]]) -> None:
    """A header alone, as a reader of headers sees it: the weights would follow."""
    header = {n: {"dtype": d, "shape": s, "data_offsets": [0, 0]} for n, (d, s) in tensors.items()}
    data = json.dumps({"__metadata__": {"format": "pt"}} | header).encode()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(struct.pack("<Q", len(data)) + data)


def test_demo_model_has_the_bytes_that_its_files_have() -> None:
    facts = read_model(DEMO_MODEL, "sd1")
    assert [part.role for part in facts.parts] == ["text", "denoiser", "vae"]
    for part in facts.parts:
        (file,) = (DEMO_MODEL / part.name).glob("*.safetensors")
        with file.open("rb") as stream:
            (header,) = struct.unpack("<Q", stream.read(8))
        assert part.file_bytes == file.stat().st_size - 8 - header
        assert part.bytes("float32") == 4 * part.numbers
    assert (facts.vae_scale, facts.denoiser_scale) == (16 / 128, 32 / 320)


def test_folder_with_shards_and_a_variant_counts_what_is_loaded(tmp_path: Path) -> None:
    unet, text = tmp_path / "unet", tmp_path / "text_encoder_3"
    write(unet / "diffusion_pytorch_model.safetensors", {"a": ("F32", [10, 10])})
    write(unet / "diffusion_pytorch_model.fp16.safetensors", {"a": ("F16", [10, 10])})
    for number in (1, 2):
        name = f"encoder.block.{number}.layer.1.DenseReluDense.wo.weight"
        write(text / f"model-0000{number}-of-00002.safetensors", {name: ("BF16", [4, 5])})
    write(tmp_path / "safety_checker" / "model.safetensors", {"a": ("F32", [999])})
    parts = {part.name: part for part in read_model(tmp_path, "sd3").parts}
    assert parts.keys() == {"unet", "text_encoder_3"}
    assert (parts["unet"].numbers, parts["unet"].file_bytes) == (100, 400)
    t5 = parts["text_encoder_3"]
    assert (t5.numbers, t5.file_bytes, t5.keeps_float32) == (40, 80, 40)
    assert (t5.bytes("float16"), t5.bytes("bfloat16")) == (160, 80)


def test_single_file_is_taken_apart_by_its_tensors_names(tmp_path: Path) -> None:
    file = tmp_path / "dream.safetensors"
    write(
        file,
        {
            "model.diffusion_model.input_blocks.0.0.weight": ("F16", [320, 4, 3, 3]),
            "first_stage_model.decoder.conv_in.weight": ("F16", [8, 8]),
            "conditioner.embedders.0.transformer.a": ("F16", [3]),
            "conditioner.embedders.1.model.a": ("F16", [5]),
        },
    )
    facts = read_model(file, "sdxl")
    assert {(part.role, part.name, part.numbers) for part in facts.parts} == {
        ("denoiser", "denoiser", 320 * 4 * 9),
        ("vae", "vae", 64),
        ("text", "text_encoder", 3),
        ("text", "text_encoder_2", 5),
    }
    assert facts.vae_upcast  # what its configuration does not deny


def test_vae_that_was_mended_is_not_upcast(tmp_path: Path) -> None:
    write(tmp_path / "unet" / "diffusion_pytorch_model.safetensors", {"a": ("F16", [1])})
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text('{"force_upcast": false}')
    assert not read_model(tmp_path, "sdxl").vae_upcast


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 8,
        struct.pack("<Q", 100) + b"{",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 7) + b'{"a":1}',
        struct.pack("<Q", 16) + b'{"a":{"dtype":1}',
    ],
)
def test_broken_header_is_said_with_the_files_name(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    file.parent.mkdir()
    file.write_bytes(data)
    with pytest.raises(Unreadable, match=r"diffusion_pytorch_model\.safetensors"):
        read_model(tmp_path, "sd1")


def test_folder_without_a_denoiser_is_unreadable(tmp_path: Path) -> None:
    write(tmp_path / "vae" / "diffusion_pytorch_model.safetensors", {"a": ("F16", [1])})
    with pytest.raises(Unreadable, match="neither a unet nor a transformer"):
        read_model(tmp_path, "sd1")
