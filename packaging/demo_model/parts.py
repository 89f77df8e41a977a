"""The parts of the demo model: their shapes, how to start, load and save them."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

M = TypeVar("M", bound=nn.Module)
LATENT_SHAPE = (4, 16, 16)
SCALING = 0.4852
"""Makes latents of unit spread; measured on the first encoder, kept since it was frozen."""

TEXT_CONFIG = {
    "vocab_size": 779, "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 77, "projection_dim": 64,
    "bos_token_id": 777, "eos_token_id": 778, "pad_token_id": 778,
}  # fmt: skip
UNET_CONFIG = {
    "sample_size": 16, "in_channels": 4, "out_channels": 4, "layers_per_block": 1,
    "block_out_channels": (32, 64, 80), "norm_num_groups": 16, "cross_attention_dim": 64,
    "attention_head_dim": (1, 2, 2),  # diffusers: the number of heads, despite its name
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
}  # fmt: skip
VAE_CONFIG = {
    "block_out_channels": (16, 24, 48), "layers_per_block": 1, "norm_num_groups": 8,
    "latent_channels": 4, "mid_block_add_attention": False, "sample_size": 64,
    "down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3,
    "scaling_factor": SCALING,
}  # fmt: skip
SCHEDULER_CONFIG = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction", "clip_sample": False, "set_alpha_to_one": False,
    "steps_offset": 1,
}  # fmt: skip


@dataclass
class Parts:
    """The trainable parts, in float32, with the tokenizer they were made for."""

    text: CLIPTextModel
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    tokenizer: CLIPTokenizer

    def tokens(self, captions: list[str]) -> Tensor:
        """Token ids (n, 77), int64, cut and padded as the pipeline does it."""
        out = self.tokenizer(
            captions, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
        )
        ids: Tensor = out.input_ids
        return ids


def load(folder: Path, fresh: bool = False) -> Parts:
    """Parts from a pipeline folder; with ``fresh`` only its tokenizer, the rest at random."""
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    if fresh:
        vae = AutoencoderKL(**VAE_CONFIG)
        with torch.no_grad():  # near-certain latents at first, else the decoder learns nothing
            vae.quant_conv.bias[4:] = -4.0
        text = CLIPTextModel(CLIPTextConfig(**TEXT_CONFIG))
        return Parts(text, UNet2DConditionModel(**UNET_CONFIG), vae, tokenizer)
    return Parts(
        CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32),
        UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32),
        AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32),
        tokenizer,
    )


def encode(vae: AutoencoderKL, pictures: Tensor) -> Tensor:
    """Scaled mean latents (n, 4, 16, 16) of pictures (n, 3, 64, 64) in [-1, 1]."""
    with torch.no_grad():
        latents: Tensor = vae.encode(pictures).latent_dist.mean * SCALING
    return latents


def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Pictures (n, 3, 64, 64), about [-1, 1], of scaled latents; keeps gradients."""
    pictures: Tensor = vae.decode(latents / SCALING).sample
    return pictures


def noise_levels() -> Tensor:
    """Cumulative alpha products (1000,) of the training schedule."""
    levels: Tensor = DDIMScheduler(**SCHEDULER_CONFIG).alphas_cumprod
    return levels


def save(parts: Parts, folder: Path, tokenizer_folder: Path, about: str) -> None:
    """Write a fp16 pipeline folder, with ``about`` as foxden.json, beside ``folder``; swap it in.

    The tokenizer files are copied as they are: transformers 5 writes no vocab.json/merges.txt,
    which older programs want. The text encoder's config says float32, because transformers
    would else load fp16 weights as fp16 beside a float32 UNet, and the first step would fail.
    """
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    pipeline = StableDiffusionPipeline(
        vae=half_copy(parts.vae),
        text_encoder=half_copy(parts.text),
        tokenizer=parts.tokenizer,
        unet=half_copy(parts.unet),
        scheduler=DDIMScheduler(**SCHEDULER_CONFIG),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(fresh)
    shutil.rmtree(fresh / "tokenizer")
    shutil.copytree(tokenizer_folder, fresh / "tokenizer")
    for part in ("text_encoder", "unet", "vae"):
        file = fresh / part / "config.json"
        config = json.loads(file.read_text())
        config.pop("_name_or_path", None)  # a folder of whoever trained it
        if part == "text_encoder":
            config["dtype"] = "float32"
        file.write_text(json.dumps(config, indent=2) + "\n")
    (fresh / "foxden.json").write_text(about)
    for path in fresh.rglob("*"):  # safetensors writes for the owner's eyes only
        path.chmod(0o755 if path.is_dir() else 0o644)
    old = folder.with_name(folder.name + ".old")
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def half_copy(module: M) -> M:
    """A float16 copy; the original keeps training in float32."""
    half: M = copy.deepcopy(module).half()
    return half
