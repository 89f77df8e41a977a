"""How models lie on cards: a table to be read, and what must hold of every decision."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from placement_models import MODELS, card

from foxden_agent.placement import CardFacts, Placement, Refusal, Remembered, Work, estimates, place
from foxden_agent.placement.facts import GIB, MIB
from foxden_agent.placement.ladder import ladder, largest_pixels
from foxden_proto.sizes import SIZE_CLASSES, size_class

SIDES = (512, 768, 1024, 1536, 2048)
# An RTX 30 (8.6) with 64 GB of RAM, one picture, with guidance. "full": everything on the card in
# 16 bits; "-": refused.
TABLE = {
    "SD 1.5": {
        2: "tiled sequential | tiled sequential | tiled sequential | - | -",
        4: "full | tiled | tiled | tiled model | tiled group",
        6: "full | full | tiled | tiled | tiled",
        8: "full | full | full | tiled | tiled",
        12: "full | full | full | tiled | tiled",
        16: "full | full | full | full | tiled",
        24: "full | full | full | full | full",
    },
    "SDXL": {
        2: "processor | - | - | - | -",
        4: "tiled group | tiled group | tiled group | tiled group | tiled group",
        6: "model | tiled model | tiled group | tiled group | tiled group",
        8: "model | model | tiled model | tiled model | tiled model",
        12: "full | tiled | tiled | tiled | tiled",
        16: "full | full | tiled | tiled | tiled",
        24: "full | full | full | tiled | tiled",
    },
    "SD 3.5 medium": {
        2: "tiled sequential | tiled sequential | tiled sequential | - | -",
        4: "tiled group | tiled group | tiled group | tiled group | -",
        6: "tiled group | tiled group | tiled group | tiled group | tiled group",
        8: "tiled group | tiled group | tiled group | tiled group | tiled group",
        12: "model | model | model | model | tiled model",
        16: "model | model | model | model | tiled model",
        24: "full | full | full | tiled | tiled",
    },
    "FLUX": {
        2: "tiled sequential | tiled sequential | tiled sequential | - | -",
        4: "tiled group | tiled group | tiled group | tiled group | -",
        6: "tiled group | tiled group | tiled group | tiled group | tiled group",
        8: "tiled group | tiled group | tiled group | tiled group | tiled group",
        12: "tiled group | tiled group | tiled group | tiled group | tiled group",
        16: "tiled group | tiled group | tiled group | tiled group | tiled group",
        24: "model | model | model | tiled group | tiled group",
    },
}


def word(found: Placement | Refusal) -> str:
    if isinstance(found, Refusal):
        return "-"
    if found.cpu:
        return "processor"
    words = ["tiled"] * found.vae_tiling + ["sliced"] * found.attention_slicing
    return " ".join(words + [found.offload] * bool(found.offload)) or "full"


@pytest.mark.parametrize("model", TABLE)
@pytest.mark.parametrize("gigabytes", [2, 4, 6, 8, 12, 16, 24])
def test_table(model: str, gigabytes: int) -> None:
    found = [place(MODELS[model], card(gigabytes), Work(side * side)) for side in SIDES]
    assert " | ".join(map(word, found)) == TABLE[model][gigabytes]
    for placement in found:
        if isinstance(placement, Placement) and not placement.cpu:
            assert placement.need <= estimates.usable(card(gigabytes))


# What must hold of all

models = st.sampled_from(sorted(MODELS)).map(MODELS.__getitem__)
memories = st.integers(256 * MIB, 96 * GIB)
works = st.builds(
    Work, st.sampled_from(SIZE_CLASSES), images=st.integers(1, 16), guided=st.booleans()
)
capabilities = st.sampled_from(["", "5.2", "6.1", "7.5", "8.6", "12.0"])
names = st.sampled_from(["RTX 4070", "GTX 1660 SUPER"])
factors = st.floats(0.25, 8.0)


@st.composite
def cards(draw: st.DrawFn) -> CardFacts:
    return CardFacts(
        draw(st.sampled_from(["cuda:0", "cpu"])),
        draw(memories),
        draw(capabilities),
        draw(names),
        ram_total=draw(memories),
        memory_free=draw(st.none() | memories),
        budget=draw(st.just(0) | memories),
        windows=draw(st.booleans()),
    )


@st.composite
def remembered(draw: st.DrawFn) -> Remembered:
    names = ["float16", "float16 tiled", "float16 offload=model", "bfloat16", "float32"]
    return Remembered({name: draw(factors) for name in draw(st.sets(st.sampled_from(names)))})


def rung(model: object, card: CardFacts, found: Placement | Refusal) -> int:
    """Its place on the ladder; a refusal lies below everything."""
    names = [one.name for one in ladder(model, card)]  # type: ignore[arg-type]
    return names.index(found.name) if isinstance(found, Placement) else len(names)


@given(models, cards(), works, remembered(), st.integers(0, 32 * GIB))
def test_more_memory_never_gives_a_slower_rung(
    model: object, card: CardFacts, work: Work, known: Remembered, more: int
) -> None:
    free = None if card.memory_free is None else card.memory_free + more
    bigger = replace(
        card,
        memory_total=card.memory_total + more,
        memory_free=free,
        budget=card.budget and card.budget + more,
    )
    less = place(model, card, work, known)  # type: ignore[arg-type]
    much = place(model, bigger, work, known)  # type: ignore[arg-type]
    assert rung(model, bigger, much) <= rung(model, card, less)


@given(models, cards(), works, works, remembered())
def test_bigger_picture_never_gets_a_faster_rung(
    model: object, card: CardFacts, one: Work, other: Work, known: Remembered
) -> None:
    big = Work(
        max(one.pixels, other.pixels), max(one.images, other.images), one.guided or other.guided
    )
    first = place(model, card, one, known)  # type: ignore[arg-type]
    assert rung(model, card, place(model, card, big, known)) >= rung(model, card, first)  # type: ignore[arg-type]


@given(models, cards(), works, remembered())
def test_every_placement_fits_and_every_refusal_says_what_would(
    model: object, card: CardFacts, work: Work, known: Remembered
) -> None:
    found = place(model, card, work, known)  # type: ignore[arg-type]
    if isinstance(found, Placement):
        there = estimates.usable_ram(card) if found.cpu else estimates.usable(card)
        assert found.need <= there
        return
    assert found.need > found.usable
    assert found.would_fit in found.reason
    if found.largest_pixels:
        single = Work(found.largest_pixels, guided=work.guided)
        assert isinstance(place(model, card, single, known), Placement)  # type: ignore[arg-type]
    if found.card_memory:
        other = CardFacts(
            "cuda:0",
            found.card_memory,
            card.compute_capability or "8.6",
            ram_total=card.ram_total,
            windows=card.windows,
        )
        assert isinstance(place(model, other, work), Placement)  # type: ignore[arg-type]


@given(models, cards(), remembered())
def test_largest_picture_is_the_last_that_fits(
    model: object, card: CardFacts, known: Remembered
) -> None:
    largest = largest_pixels(model, card, known)  # type: ignore[arg-type]
    for pixels in SIZE_CLASSES:
        fits = isinstance(place(model, card, Work(pixels), known), Placement)  # type: ignore[arg-type]
        assert fits == (pixels <= largest)


# Single rules


@pytest.mark.parametrize(
    ("name", "capability", "model", "dtypes"),
    [
        ("RTX 4070", "8.9", "SDXL", ["float16"]),
        ("RTX 4070", "8.9", "FLUX", ["bfloat16"]),
        ("RTX 2080", "7.5", "FLUX", ["float16"]),  # bfloat16 is emulated there
        ("NVIDIA GeForce GTX 1660 SUPER", "7.5", "SD 1.5", ["float32"]),  # NaN in float16
        ("NVIDIA GeForce GTX 1650", "7.5", "SD 1.5", ["float32"]),
        ("GTX 1080", "6.1", "SD 1.5", ["float32", "float16"]),
        ("Tesla P100", "6.0", "SD 1.5", ["float16"]),
        ("Radeon RX 7800", "", "SD 1.5", ["float16"]),
    ],
)
def test_data_types_by_card(name: str, capability: str, model: str, dtypes: list[str]) -> None:
    rungs = ladder(MODELS[model], replace(card(8, capability), name=name))
    found = dict.fromkeys(one.dtype for one in rungs if not one.cpu)
    assert list(found) == dtypes


def test_slow_float16_is_used_only_where_float32_does_not_fit() -> None:
    small, large = (place(MODELS["SD 1.5"], card(gb, "6.1"), Work(512 * 512)) for gb in (4, 11))
    assert isinstance(small, Placement)
    assert isinstance(large, Placement)
    assert (small.dtype, large.dtype) == ("float16", "float32")


def test_attention_is_sliced_only_without_an_efficient_one() -> None:
    amd = replace(card(6, ""), name="Radeon RX 6600M")
    assert word(place(MODELS["SD 1.5"], amd, Work(1024 * 1024))) == "tiled sliced"
    assert not any(one.attention_slicing for one in ladder(MODELS["SD 1.5"], card(8)))
    assert not any(one.attention_slicing for one in ladder(MODELS["FLUX"], amd))


def test_sdxl_decodes_in_float32_where_its_vae_overflows() -> None:
    sdxl = MODELS["SDXL"]
    fixed = replace(sdxl, vae_upcast=False)
    whole = Placement("float16")
    takes = [
        estimates.peak(estimates.stages(one, card(24), whole, Work(1024 * 1024)))
        for one in (sdxl, fixed)
    ]
    assert takes[0] - takes[1] > 4 * GIB  # 2178 x 128 x 128 x 64 numbers of two bytes more each


def test_decode_of_1024_in_float16_is_what_was_published() -> None:
    stage = estimates.stages(MODELS["SD 1.5"], card(24), Placement("float16"), Work(1024 * 1024))[2]
    assert stage.working / 1.1 == pytest.approx(4.25 * GIB, rel=0.01)


def test_budget_of_the_owner_is_kept_and_passed_on() -> None:
    mine = replace(card(24), budget=6 * GIB)
    found = place(MODELS["SDXL"], mine, Work(1024 * 1024))
    assert isinstance(found, Placement)
    assert found.need <= 6 * GIB
    assert found.memory_limit == 6 * GIB - estimates.CONTEXT


def test_windows_is_held_to_the_card_so_that_nothing_spills() -> None:
    found = place(MODELS["SD 1.5"], replace(card(8), windows=True), Work(512 * 512))
    assert isinstance(found, Placement)
    assert 7 * GIB < found.memory_limit + estimates.CONTEXT < 8 * GIB
    free = place(MODELS["SD 1.5"], card(8), Work(512 * 512))
    assert isinstance(free, Placement)
    assert free.memory_limit == 0


def test_game_that_holds_memory_makes_the_placement_smaller() -> None:
    playing = replace(card(12), memory_free=4 * GIB)
    assert word(place(MODELS["SDXL"], playing, Work(1024 * 1024))) == "tiled group"


def test_offload_needs_ram_and_the_refusal_says_so() -> None:
    found = place(MODELS["FLUX"], card(12, ram=16), Work(1024 * 1024))
    assert isinstance(found, Refusal)
    assert found.short_of == "RAM"
    assert "it takes 32.0 GB of RAM and 14.0 GB may be used" in found.reason
    assert "a card with 48 GB can draw it" in found.reason


def test_refusal_names_the_size_and_the_card_that_would_do() -> None:
    found = place(MODELS["SD 1.5"], card(2), Work(2048 * 2048))
    assert isinstance(found, Refusal)
    assert found.largest_pixels == size_class(1248 * 1248)
    assert "up to 1248 x 1248 pixels fit here, a card with 4 GB can draw it" in found.reason


def test_card_that_does_not_tell_its_memory_gets_the_first_rung() -> None:
    assert word(place(MODELS["FLUX"], card(0), Work(2048 * 2048))) == "full"


def test_what_was_measured_corrects_other_sizes_too() -> None:
    work = Work(1024 * 1024)
    assert word(place(MODELS["SDXL"], card(12), work)) == "tiled"
    half = Remembered({"float16": 0.3})  # it takes less than was thought
    assert word(place(MODELS["SDXL"], card(12), work, half)) == "full"
    twice = Remembered({"float16 tiled": 3.0})
    assert word(place(MODELS["SDXL"], card(12), work, twice)) == "model"
