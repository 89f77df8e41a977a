"""The data types that a card is good at. Pure.

Compute capabilities and what they can: CUDA C++ Programming Guide, "Arithmetic Instructions".
"""

from __future__ import annotations

import re

from foxden_agent.placement.facts import CardFacts, Dtype

# Turing without tensor cores: it says 7.5 like an RTX 2080, but convolutions in float16 give NaN
# there, that is black pictures (github.com/pytorch/pytorch/issues/58123). A VAE in float32 alone
# does not help, the unet has them too: all of it is float32.
_NO_GOOD_FLOAT16 = re.compile(
    r"GTX 16\d0|\bMX[45]50\b|\bT(400|500|550|600|1000|1200|2000)\b|CMP 30HX", re.IGNORECASE
)


def dtypes(card: CardFacts, family: str) -> tuple[Dtype, ...]:
    """Fastest first; every one of them gives right pictures with this family.

    Never float32 on a card that is fast in 16 bits: it takes twice the memory and the time.
    """
    capability = _capability(card)
    if not card.cuda:
        return ("float32",)
    if _NO_GOOD_FLOAT16.search(card.name):
        return ("float32",)
    if capability >= (8, 0):
        # FLUX and SD 3.5 were trained in bfloat16 and come near float16's limits; the older
        # families are published in float16, which has three bits more.
        return ("bfloat16",) if family in ("sd3", "flux") else ("float16",)
    if (0, 0) < capability < (7, 0) and capability != (6, 0):
        # Pascal and older compute float16 at 1/64 of the rate (6.1) or not at all; stored as
        # float16 and computed as float32 it is a little slower than float32, and half as big.
        return ("float32", "float16")
    return ("float16",)


def efficient_attention(card: CardFacts) -> bool:
    """Whether torch has an attention here whose memory grows with the picture, not with its square
    (scaled_dot_product_attention's flash and memory-efficient kernels; on a CPU flash)."""
    return not card.cuda or _capability(card) >= (5, 0)


def _capability(card: CardFacts) -> tuple[int, int]:
    """(0, 0) where the card is none of NVIDIA's, or does not say."""
    found = re.fullmatch(r"(\d+)\.(\d+)", card.compute_capability)
    return (int(found[1]), int(found[2])) if found else (0, 0)
