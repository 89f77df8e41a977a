"""The values that go into a placement and come out of it. Sizes are bytes unless they say else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from foxden_proto.v1 import engine_pb2

Dtype = Literal["float32", "float16", "bfloat16"]
Offload = Literal["", "model", "group", "sequential"]
Role = Literal["denoiser", "text", "vae"]

BYTES: dict[Dtype, int] = {"float32": 4, "float16": 2, "bfloat16": 2}
MIB, GIB = 1024**2, 1024**3


@dataclass(frozen=True, slots=True)
class Part:
    """One network of a model. Counts are numbers (weights), whatever the file stores them as."""

    role: Role
    name: str  # as its folder is called: "unet", "text_encoder_2"
    numbers: int
    largest: int  # numbers of its largest tensor: what offloading by layers must hold at once
    file_bytes: int  # of its tensors on disk
    keeps_float32: int = 0  # numbers that stay in float32 where the rest is float16 (T5's `wo`)

    def bytes(self, dtype: Dtype) -> int:
        more = 2 * self.keeps_float32 if dtype == "float16" else 0
        return self.numbers * BYTES[dtype] + more


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model as far as its memory goes."""

    family: str  # sd1, sd2, sdxl, sd3, flux
    parts: tuple[Part, ...]
    # SDXL's own VAE overflows in float16: diffusers then decodes in float32 (force_upcast).
    vae_upcast: bool = False
    # Widths of the networks' first layers beside those of the family's full-size ones, which the
    # rules of thumb were made for. 1.0: full size.
    vae_scale: float = 1.0
    denoiser_scale: float = 1.0

    def of(self, role: Role) -> tuple[Part, ...]:
        return tuple(part for part in self.parts if part.role == role)


@dataclass(frozen=True, slots=True)
class CardFacts:
    """A card as far as placement goes."""

    device: str  # "cuda:0", "cpu"
    memory_total: int  # VRAM, or RAM for "cpu"; 0: it does not tell
    compute_capability: str = ""  # "8.9"; empty: no NVIDIA card
    name: str = ""
    ram_total: int = 0  # of the machine; 0: not known, then nothing is put there
    memory_free: int | None = None  # now, what the engine holds counted as free; None: not known
    budget: int = 0  # bytes of the card that its owner lets us use; 0: all
    windows: bool = False  # its desktop takes more, and its driver spills VRAM into RAM

    @property
    def cuda(self) -> bool:
        return self.device.startswith("cuda")


@dataclass(frozen=True, slots=True)
class Work:
    """What shall be drawn at once."""

    pixels: int  # of one picture
    images: int = 1
    guided: bool = True  # each step computes with and without the prompt


@dataclass(frozen=True, slots=True)
class Placement:
    """A layout; the fields are those of engine.proto."""

    dtype: Dtype
    vae_tiling: bool = False
    attention_slicing: bool = False
    offload: Offload = ""
    cpu: bool = False
    memory_limit: int = 0
    need: int = 0  # bytes that it is expected to take of the card (RAM, where `cpu`)

    @property
    def name(self) -> str:
        """In words, and what measurements are kept by: "float16 tiled offload=model"."""
        words = [
            "on the processor" if self.cpu else "",
            self.dtype,
            "tiled" if self.vae_tiling else "",
            "sliced" if self.attention_slicing else "",
            f"offload={self.offload}" if self.offload else "",
        ]
        return " ".join(filter(None, words))

    def message(self) -> engine_pb2.Placement:
        return engine_pb2.Placement(
            dtype=self.dtype,
            vae_tiling=self.vae_tiling,
            attention_slicing=self.attention_slicing,
            offload=self.offload,
            cpu=self.cpu,
            memory_limit=self.memory_limit,
        )


@dataclass(frozen=True, slots=True)
class Refusal:
    """It fits in no way. The text is for people."""

    need: int  # bytes that the smallest layout takes of what is short
    usable: int  # bytes that there are of it
    short_of: Literal["memory", "RAM"]  # RAM: the card would do, if weights could wait beside it
    largest_pixels: int  # of a single picture that would fit on this card; 0: none
    card_memory: int  # bytes of the smallest common card that would do; 0: none of them

    @property
    def would_fit(self) -> str:
        """What to ask for instead."""
        ways = []
        if self.largest_pixels:
            side = int(self.largest_pixels**0.5) // 8 * 8
            ways.append(f"up to {side} x {side} pixels fit here")
        if self.card_memory:
            ways.append(f"a card with {self.card_memory // GIB} GB can draw it")
        return ", ".join(ways) or "no common card can draw it: choose a smaller model"

    @property
    def reason(self) -> str:
        return (
            f"it takes {self.need / GIB:.1f} GB of {self.short_of} and "
            f"{max(0, self.usable) / GIB:.1f} GB may be used: {self.would_fit}"
        )
