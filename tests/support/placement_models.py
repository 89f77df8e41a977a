"""The models of the placement tables, with the numbers of weights that their files have."""

from __future__ import annotations

from foxden_agent.placement import CardFacts, ModelFacts, Part
from foxden_agent.placement.facts import GIB

_M = 1_000_000
_CLIP_L = Part("text", "text_encoder", 123 * _M, 38 * _M, 246 * _M)
_CLIP_G = Part("text", "text_encoder_2", 695 * _M, 63 * _M, 1390 * _M)
_VAE = Part("vae", "vae", 84 * _M, 3 * _M, 167 * _M)


def _t5(name: str) -> Part:
    return Part("text", name, 4762 * _M, 132 * _M, 9524 * _M, keeps_float32=1007 * _M)


MODELS = {
    "SD 1.5": ModelFacts(
        "sd1", (Part("denoiser", "unet", 860 * _M, 30 * _M, 1719 * _M), _CLIP_L, _VAE)
    ),
    "SDXL": ModelFacts(
        "sdxl",
        (Part("denoiser", "unet", 2567 * _M, 30 * _M, 5135 * _M), _CLIP_L, _CLIP_G, _VAE),
        vae_upcast=True,
    ),
    "SD 3.5 medium": ModelFacts(
        "sd3",
        (
            *(Part("denoiser", "transformer", 2470 * _M, 15 * _M, 4940 * _M), _CLIP_L),
            *(_CLIP_G, _t5("text_encoder_3"), _VAE),
        ),
    ),
    "FLUX": ModelFacts(
        "flux",
        (
            *(Part("denoiser", "transformer", 11901 * _M, 57 * _M, 23802 * _M), _CLIP_L),
            *(_t5("text_encoder_2"), _VAE),
        ),
    ),
}


def card(gigabytes: float, capability: str = "8.6", *, ram: int = 64, **more: object) -> CardFacts:
    fields: dict[str, object] = {"ram_total": ram * GIB} | more
    return CardFacts("cuda:0", int(gigabytes * GIB), capability, **fields)  # type: ignore[arg-type]
