"""Which files of a repository make a model: what is chosen, what never is, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hub_server import ODD, UNET, UNET_16, demo_files

from foxden_agent.model_hub.choosing import Chosen, HubFile, NotUsable, choose

INDEX = {
    "_class_name": "StableDiffusionXLPipeline",
    "force_zeros_for_empty_prompt": True,
    "image_encoder": [None, None],
    "scheduler": ["diffusers", "EulerDiscreteScheduler"],
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "unet": ["diffusers", "UNet2DConditionModel"],
}
PLAIN = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder_2/config.json",
    "text_encoder_2/model.safetensors",
    "unet/config.json",
    UNET,
)


def files(*names: str) -> list[HubFile]:
    return [HubFile(name, 10, "a" * 64) for name in names]


def names(chosen: tuple[Chosen, ...]) -> dict[str, str]:
    """Where each is kept, by where it comes from."""
    return {one.path: one.name for one in chosen}


def shards(pattern: str, of: int) -> list[str]:
    return [f"unet/{pattern.format(f'{n:05}-of-{of:05}')}" for n in range(1, of + 1)]


def test_demo_model_in_a_hubs_layout_x_its_parts_and_nothing_odd() -> None:
    there = demo_files()
    chosen = names(choose(json.loads(there["model_index.json"]), files(*there)))
    assert not {*chosen} & {*ODD, UNET}
    assert chosen[UNET_16] == UNET
    assert {"tokenizer/merges.txt", "tokenizer/vocab.json", "vae/config.json"} <= {*chosen}
    assert all(".." not in name and not name.startswith(("/", ".")) for name in chosen.values())


def test_plain_model_x_as_it_is() -> None:
    chosen = names(choose(INDEX, files(*PLAIN, "unet/diffusion_pytorch_model.bin")))
    assert chosen == {name: name for name in PLAIN}


def test_fp16_of_one_part_alone_x_that_part_by_its_plain_name() -> None:
    chosen = names(choose(INDEX, files(*PLAIN, UNET_16)))
    assert chosen[UNET_16] == UNET
    assert "text_encoder_2/model.safetensors" in chosen
    assert UNET not in chosen


@pytest.mark.parametrize(
    ("index", "pattern"),
    [
        (
            "diffusion_pytorch_model.safetensors.index.json",
            "diffusion_pytorch_model-{}.safetensors",
        ),
        (
            "diffusion_pytorch_model.safetensors.index.fp16.json",
            "diffusion_pytorch_model.fp16-{}.safetensors",
        ),
        (
            "diffusion_pytorch_model.fp16.safetensors.index.json",
            "diffusion_pytorch_model-{}.fp16.safetensors",
        ),
    ],
)
def test_weights_in_several_files_x_all_of_them_with_their_list(index: str, pattern: str) -> None:
    several = [f"unet/{index}", *shards(pattern, 3)]
    rest = [name for name in PLAIN if name != UNET]
    chosen = names(choose(INDEX, files(*rest, *several)))
    assert chosen[f"unet/{index}"] == "unet/diffusion_pytorch_model.safetensors.index.json"
    assert {chosen[name] for name in several[1:]} == {*several[1:]}
    with pytest.raises(NotUsable, match="not there"):
        choose(INDEX, files(*rest, *several[:-1]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"unet": ["custom_unet", "MyUNet"]}, "brings code of its own"),
        ({"unet": ["diffusers"]}, "brings code of its own"),
        ({"../unet": ["diffusers", "UNet2DConditionModel"]}, "doesn't know"),
        ({"nul": ["diffusers", "UNet2DConditionModel"]}, "doesn't know"),
        ({"vae": ["diffusers", "AutoencoderKL"]}, "not there as"),
        ({"tokenizer": ["transformers", "CLIPTokenizer"]}, "has no files"),
    ],
)
def test_part_that_is_not_for_us_x_says_which(change: dict[str, object], words: str) -> None:
    with pytest.raises(NotUsable, match=words):
        choose(INDEX | change, files(*PLAIN))


def test_weights_as_pickles_alone_x_refused_by_that_name() -> None:
    there = [name for name in PLAIN if name != UNET]
    with pytest.raises(NotUsable, match="pickles"):
        choose(INDEX, files(*there, "unet/diffusion_pytorch_model.bin"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size": -1}, "bytes"),
        ({"size": 10**12}, "bytes"),
        ({"sha256": ""}, "no hash"),
        ({"sha256": "A" * 64}, "no hash"),
        ({"sha256": "", "blob": "x"}, "no hash"),
    ],
)
@pytest.mark.parametrize("name", ["model_index.json", UNET])
def test_file_without_a_sound_size_or_hash_x_refused(
    name: str, change: dict[str, object], words: str
) -> None:
    there = [
        replace(one, **change) if one.path == name else one  # type: ignore[arg-type]
        for one in files(*PLAIN)
    ]
    with pytest.raises(NotUsable, match=words):
        choose(INDEX, there)


def test_too_many_bytes_together_x_refused() -> None:
    index = {"unet": INDEX["unet"], "vae": ["diffusers", "AutoencoderKL"]}
    vae = "vae/diffusion_pytorch_model.safetensors"
    there = [replace(one, size=49 * 1000**3) for one in files(UNET, vae)]
    several = [
        replace(one, size=49 * 1000**3)
        for one in files(*shards("diffusion_pytorch_model-{}.safetensors", 4))
    ]
    listed = files("model_index.json", "unet/diffusion_pytorch_model.safetensors.index.json")
    assert choose(index, [*there, *listed])
    with pytest.raises(NotUsable, match="more bytes"):
        choose(index, [there[1], *several, *listed])
