"""The model folder: what is offered, under which name and hash, and what is left out and why."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from foxden_agent import model_hashes, models
from foxden_agent.models import DEMO_MODEL, LocalModel, model_name, scan

INDEX = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "models"
    path.mkdir()
    return path


def _diffusers(folder: Path, name: str, /, **facts: object) -> Path:
    path = folder / name
    (path / "unet").mkdir(parents=True)
    (path / "model_index.json").write_text(json.dumps(INDEX))
    (path / "unet" / "config.json").write_text("{}")
    (path / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(name.encode())
    if facts:
        (path / "foxden.json").write_text(json.dumps(facts))
    return path


def _scan(folder: Path) -> dict[str, LocalModel]:
    found = scan(folder, folder.parent / "hashes.json")
    return {local.model.name: local for local in found}


def test_missing_folder_offers_the_demo_model(tmp_path: Path) -> None:
    (demo,) = scan(tmp_path / "nowhere", tmp_path / "hashes.json")
    assert demo.model.name == "foxden-demo"
    assert demo.model.demo
    assert demo.path == DEMO_MODEL
    assert (demo.model.default_width, demo.model.family) == (64, "sd1")


def test_folder_with_index_gets_its_family_defaults(folder: Path) -> None:
    _diffusers(folder, "plain")
    model = _scan(folder)["plain"].model
    assert (model.family, model.default_width, model.multiple_of) == ("sd1", 512, 8)
    assert not model.demo


@pytest.mark.parametrize(
    ("pipeline", "text_width", "family", "width"),
    [
        ("StableDiffusionPipeline", 768, "sd1", 512),
        ("StableDiffusionPipeline", 1024, "sd2", 768),
        ("StableDiffusionXLPipeline", 768, "sdxl", 1024),
    ],
)
def test_family_is_read_from_the_configuration(
    folder: Path, pipeline: str, text_width: int, family: str, width: int
) -> None:
    path = _diffusers(folder, "it")
    (path / "model_index.json").write_text(json.dumps(INDEX | {"_class_name": pipeline}))
    (path / "text_encoder").mkdir()
    (path / "text_encoder" / "config.json").write_text(json.dumps({"hidden_size": text_width}))
    model = _scan(folder)["it"].model
    assert (model.family, model.default_width) == (family, width)


def test_facts_file_wins_over_the_family(folder: Path) -> None:
    _diffusers(folder, "x", name="Nice Name", default_steps=8, default_sampler="k_euler")
    model = _scan(folder)["Nice-Name"].model
    assert (model.default_steps, model.default_sampler) == (8, "Euler")


def test_impossible_fact_is_replaced_with_a_warning(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _diffusers(folder, "x", default_steps=100_000, default_width=513, licence="MIT")
    model = _scan(folder)["x"].model
    assert (model.default_steps, model.default_width, model.licence) == (25, 512, "MIT")
    assert "default_steps is ignored" in caplog.text
    assert "default_width is ignored" in caplog.text


@pytest.mark.parametrize("broken", ["model_index.json", "foxden.json"])
def test_broken_json_is_a_warning_that_names_the_file(
    folder: Path, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    path = _diffusers(folder, "x")
    (path / broken).write_text('{"half": ')
    found = _scan(folder)
    assert ("x" in found) == (broken == "foxden.json")
    assert broken in caplog.text
    assert "foxden-demo" in found


def test_two_models_of_one_name_keep_the_first(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _diffusers(folder, "a", name="same")
    _diffusers(folder, "b", name="same")
    assert _scan(folder)["same"].path == folder / "a"
    assert "b is left out: a has the name 'same' already" in caplog.text


@pytest.mark.parametrize("name", ["old.ckpt", "old.pt", "old.bin"])
def test_pickle_file_is_left_out(folder: Path, caplog: pytest.LogCaptureFixture, name: str) -> None:
    (folder / name).write_bytes(b"\x80\x04")
    assert set(_scan(folder)) == {"foxden-demo"}
    assert "only .safetensors" in caplog.text


def test_folder_with_a_pickle_part_is_left_out(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = _diffusers(folder, "x")
    weights = path / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    assert "x" not in _scan(folder)
    assert "unet/diffusion_pytorch_model.bin is a pickle" in caplog.text


def test_pickle_beside_safetensors_does_no_harm(folder: Path) -> None:
    path = _diffusers(folder, "x")
    (path / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x04")
    assert "x" in _scan(folder)


def test_custom_pipeline_is_left_out(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = _diffusers(folder, "x")
    (path / "model_index.json").write_text(json.dumps({"_class_name": ["my_code", "Mine"]}))
    assert "x" not in _scan(folder)
    assert "own code never runs" in caplog.text


def test_link_to_outside_is_refused(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = _diffusers(folder, "x")
    secret = tmp_path / "secret.safetensors"
    secret.write_bytes(b"private")
    (path / "unet" / "linked.safetensors").symlink_to(secret)
    assert "x" not in _scan(folder)
    assert "links to outside" in caplog.text


def test_link_inside_the_folder_is_fine(folder: Path) -> None:
    _diffusers(folder, "x")
    (folder / "y").symlink_to(folder / "x")
    assert {"x", "y"} <= set(_scan(folder))


def test_single_file_has_its_own_hash(folder: Path) -> None:
    (folder / "one.safetensors").write_bytes(b"weights")
    _diffusers(folder, "one.config")
    (folder / "one.foxden.json").write_text(json.dumps({"default_steps": 9}))
    model = _scan(folder)["one"].model
    assert model.sha256 == hashlib.sha256(b"weights").hexdigest()
    assert model.default_steps == 9
    assert set(_scan(folder)) == {"foxden-demo", "one"}


def test_single_file_without_configuration_is_left_out(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "one.safetensors").write_bytes(b"weights")
    assert "one" not in _scan(folder)
    assert "beside it as one.config" in caplog.text


def test_hash_is_the_contents_not_the_place(folder: Path) -> None:
    before = _scan(_diffusers(folder, "x").parent)["x"].model.sha256
    shutil.move(folder / "x", folder / "y")
    assert _scan(folder)["y"].model.sha256 == before
    (folder / "y" / "foxden.json").write_text('{"licence": "MIT"}')
    assert _scan(folder)["y"].model.sha256 == before
    (folder / "y" / "unet" / "config.json").write_text('{"changed": 1}')
    assert _scan(folder)["y"].model.sha256 != before


def test_unchanged_files_are_not_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _diffusers(folder, "x")
    first = _scan(folder)["x"].model.sha256

    def never(*_: object) -> None:
        raise AssertionError("a known file was read again")

    monkeypatch.setattr(model_hashes.hashlib, "file_digest", never)
    assert _scan(folder)["x"].model.sha256 == first


@pytest.mark.parametrize("text", ["{", "[]", '{"/x": 3}', "\xff"])
def test_broken_cache_is_made_anew(folder: Path, text: str) -> None:
    cache = folder.parent / "hashes.json"
    cache.write_text(text, encoding="latin-1")
    assert "foxden-demo" in _scan(folder)
    assert str(DEMO_MODEL) in cache.read_text()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Dream Shaper (v8)!", "Dream-Shaper-v8"),
        ("über_modell.2", "uber_modell.2"),
        ("../../etc", "etc"),
        ("模型", "model"),
        ("a" * 300, "a" * 100),
    ],
)
def test_names_are_made_valid(text: str, name: str) -> None:
    assert model_name(text) == name


def test_unreadable_entry_is_a_warning(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    _diffusers(folder, "x")

    def broken(path: Path, root: Path, hashes: object) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(models, "_look_at", broken)
    assert _scan(folder) == {}
    assert "x is left out: it can't be read: the disk is gone" in caplog.text
