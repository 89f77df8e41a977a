"""How much memory a layout takes: weights by their number, the rest by rules of thumb. Pure.

A picture is made in stages (the text encoders, the steps, the VAE); each has something that must
lie on the card and something it works with. The peak is the largest of the sums.

Sources: ComfyUI, `comfy/model_base.py` and `comfy/sd.py` (area x bytes x 0.01 MB x a factor of the
family for a step with an efficient attention, area x 0.15 MB x that factor without; 2178 x latent
height x width x 64 x bytes for a decode) and `comfy/model_management.py` (what to leave to driver
and desktop). InvokeAI, `util/vae_working_memory.py`, has 2200 for 2178. Areas are in latent pixels,
8 x 8 picture pixels each.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from foxden_agent.placement.facts import (
    BYTES,
    GIB,
    MIB,
    CardFacts,
    Dtype,
    ModelFacts,
    Offload,
    Part,
    Placement,
    Work,
)
from foxden_agent.placement.precision import efficient_attention

CONTEXT = 300 * MIB  # what CUDA and its libraries take beside torch's own memory (100 to 300 MiB)
# An engine without a model, in RAM. Measured: 450 MiB resident once torch 2.13 (CPU build) and
# diffusers are imported, 503 MiB after its first picture of the demo model (x86-64 Linux, 2 cores).
# The rest is a guess at what the CUDA build takes beyond that; no card was at hand to measure it.
PROCESS = 640 * MIB
TILE = 512  # pixels, either side; engine/placing.py decodes in tiles of this

_LATENT = 8 * 8
_STEP_FACTORS = {"sd1": 1.0, "sd2": 1.0, "sdxl": 0.8, "sd3": 1.2, "flux": 3.1}
_STEP = 0.01 * MIB  # per latent pixel and byte
_STEP_INEFFICIENT = 0.15 * MIB  # per latent pixel
_DECODE = 2178 * 64  # numbers per latent pixel
_CANVAS = 4 * 3  # numbers per picture pixel where tiles are put together
_LEAST = 64 * MIB  # of any stage: buffers that don't depend on the picture
_ENCODE = 128 * MIB  # a text of 512 tokens in T5
_LAYERS_AHEAD = 4  # of its largest; a stream copies the next ones while one computes
_LAYERS_AT_ONCE = 2
# Torch's blocks are never quite full. Beside the peaks that the engine reports, which count what
# was asked for, not what was taken.
_FRAGMENTS = 1.1


@dataclass(frozen=True, slots=True)
class Stage:
    """Bytes that lie there, and bytes that the stage works with."""

    fixed: float
    working: float


def stages(
    model: ModelFacts, card: CardFacts, placement: Placement, work: Work
) -> tuple[Stage, ...]:
    """What each stage takes: of the card, or of RAM where it is computed on the processor."""
    on_cpu = placement.cpu or not card.cuda
    base = PROCESS if on_cpu else CONTEXT
    working = (
        _ENCODE,
        _step_bytes(model, card, placement, work, on_cpu),
        _decode_bytes(model, placement, work, _vae_dtype(model, placement.dtype)),
    )
    return tuple(
        Stage(base + held, max(_LEAST, needed) * _FRAGMENTS)
        for held, needed in zip(_held(model, placement), working, strict=True)
    )


@lru_cache(maxsize=1024)  # asked for each rung of each decision; the sums are most of the time
def _held_of(model: ModelFacts, dtype: Dtype, offload: Offload) -> tuple[int, int, int]:
    """Bytes of weights that lie there while texts are encoded, in the steps, and in the decode."""
    text, denoiser, vae = model.of("text"), model.of("denoiser"), model.of("vae")
    vae_dtype = _vae_dtype(model, dtype)
    vae_bytes = _bytes(vae, vae_dtype)
    match offload:
        case "":
            weights = _bytes(model.parts, dtype)
            return (weights, weights, weights + vae_bytes - _bytes(vae, dtype))
        case "model":  # one part after the other
            largest = max((part.bytes(dtype) for part in text), default=0)
            return (largest, _bytes(denoiser, dtype), vae_bytes)
        case "group":  # layers come and go, but the VAE stays
            encoding, stepping = (_layers(p, dtype, _LAYERS_AHEAD) for p in (text, denoiser))
            return (vae_bytes + encoding, vae_bytes + stepping, vae_bytes)
        case "sequential":
            encoding, stepping = (_layers(p, dtype, _LAYERS_AT_ONCE) for p in (text, denoiser))
            return (encoding, stepping, _layers(vae, vae_dtype, _LAYERS_AT_ONCE))


def _held(model: ModelFacts, placement: Placement) -> tuple[int, int, int]:
    return _held_of(model, placement.dtype, placement.offload)


def _vae_dtype(model: ModelFacts, dtype: Dtype) -> Dtype:
    return "float32" if model.vae_upcast and dtype == "float16" else dtype


def peak(found: Iterable[Stage], factor: float = 1.0) -> int:
    """Bytes at most, where stages work with `factor` times what was thought."""
    return int(max(stage.fixed + factor * stage.working for stage in found))


def factor_of(found: Iterable[Stage], measured: float) -> float:
    """The factor with which `peak` says what was measured; it may be any number."""
    return min((measured - stage.fixed) / stage.working for stage in found)


def ram_bytes(model: ModelFacts, placement: Placement) -> int:
    """RAM that holds what waits beside the card."""
    return PROCESS + _bytes(model.parts, placement.dtype) if placement.offload else 0


def usable(card: CardFacts) -> int:
    """Bytes of the card that we may fill, our own context included."""
    left = card.memory_total - _reserve(card)
    if card.memory_free is not None:
        left = min(left, card.memory_free)
    return min(left, card.budget) if card.budget else left


def usable_ram(card: CardFacts) -> int:
    """Bytes of RAM that we may fill beside a card."""
    return card.ram_total - _ram_reserve(card.ram_total)


def memory_limit(card: CardFacts) -> int:
    """What torch is to be held to: an owner's budget; on Windows always, since the driver there
    puts what is beyond the VRAM into RAM and everything gets ten times slower. 0: no limit."""
    if not card.cuda or not card.memory_total or not (card.budget or card.windows):
        return 0
    left = card.memory_total - _reserve(card)
    return max(CONTEXT, (min(left, card.budget) if card.budget else left) - CONTEXT)


def _reserve(card: CardFacts) -> int:
    """Bytes for everybody else: the driver and a desktop on a card, other programs in RAM."""
    if not card.cuda:
        return _ram_reserve(card.memory_total)
    if card.windows:
        return 700 * MIB if card.memory_total > 15 * GIB else 600 * MIB
    return 400 * MIB


def _ram_reserve(total: int) -> int:
    return min(2 * GIB, total // 4)


def _step_bytes(
    model: ModelFacts, card: CardFacts, placement: Placement, work: Work, on_cpu: bool
) -> float:
    twice = 2 if work.guided and model.family != "flux" else 1  # FLUX takes guidance as a number
    area = work.images * twice * work.pixels / _LATENT
    factor = _STEP_FACTORS.get(model.family, max(_STEP_FACTORS.values())) * model.denoiser_scale
    needed = area * BYTES[placement.dtype] * _STEP * factor
    if on_cpu or efficient_attention(card):
        return needed
    attention = area * _STEP_INEFFICIENT * factor
    return max(needed, attention / 2 if placement.attention_slicing else attention)


def _decode_bytes(model: ModelFacts, placement: Placement, work: Work, dtype: Dtype) -> float:
    """Pictures of a batch are decoded one by one."""
    pixels, canvas = work.pixels, 0
    if placement.vae_tiling and pixels > TILE * TILE:
        pixels, canvas = TILE * TILE, _CANVAS * work.pixels
    return (_DECODE * pixels / _LATENT * model.vae_scale + canvas) * BYTES[dtype]


def _bytes(parts: Iterable[Part], dtype: Dtype) -> int:
    return sum(part.bytes(dtype) for part in parts)


def _layers(parts: Iterable[Part], dtype: Dtype, layers: int) -> int:
    """The most that one of the parts has on the card when its layers come and go."""
    sizes = [min(part.bytes(dtype), layers * part.largest * BYTES[dtype]) for part in parts]
    return max(sizes, default=0)
