"""The list of models to begin with: sound in itself, and what of it is offered first."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from placement_models import MODELS, card

from foxden_agent.model_facts import read_facts
from foxden_agent.model_hub.starters import named, starters, suggested
from foxden_agent.placement.facts import GIB, Placement, Work
from foxden_agent.placement.ladder import place


def test_every_model_of_the_list_says_what_an_owner_has_to_know() -> None:
    assert 4 <= len(starters()) <= 6
    for one in starters():
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", one.repo)
        assert one.good_for.endswith(".")
        assert one.title
        assert one.licence
    assert [one.memory for one in starters()] == sorted(one.memory for one in starters())
    assert any(one.memory <= 4 * GIB for one in starters())


def test_defaults_of_the_list_are_read_without_a_complaint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for one in starters():
        file = tmp_path / "foxden.json"
        file.write_text(json.dumps(dict(one.facts)))
        facts = read_facts(file, {"_class_name": "StableDiffusionXLPipeline"}, tmp_path)
        assert facts.default_steps == one.facts["default_steps"]
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("title", "kind"), [("Stable Diffusion 1.5", "SD 1.5"), ("Stable Diffusion XL 1.0", "SDXL")]
)
def test_memory_of_the_list_is_what_placement_needs_for_the_usual_size(
    title: str, kind: str
) -> None:
    one = named(title)
    assert one is not None
    pixels = one.facts["default_width"] * one.facts["default_height"]
    placed = place(MODELS[kind], card(one.memory / GIB * 0.95), Work(pixels))
    assert isinstance(placed, Placement)
    assert placed.offload in ("", "model")


def test_large_card_x_the_most_demanding_first() -> None:
    offered = suggested(starters(), 24 * GIB)
    assert all(fits for _, fits in offered)
    assert [one.memory for one, _ in offered] == sorted(
        (s.memory for s in starters()), reverse=True
    )


def test_card_of_8_gb_that_tells_a_little_less_x_gets_what_needs_8() -> None:
    offered = suggested(starters(), 8188 * 1024**2 - 300 * 1024**2)
    assert offered[0][0].memory == 8 * GIB


def test_small_card_x_what_fits_first_and_the_rest_told_apart() -> None:
    offered = suggested(starters(), 4 * GIB)
    fits = [fits for _, fits in offered]
    assert fits == sorted(fits, reverse=True)
    assert {one.memory <= 4 * GIB for one, good in offered if good} == {True}
    assert {one.repo for one, _ in offered} == {one.repo for one in starters()}


def test_no_card_x_nothing_fits_and_all_is_shown() -> None:
    offered = suggested(starters(), 0)
    assert [one for one, _ in offered] == list(starters())
    assert not any(fits for _, fits in offered)


@pytest.mark.parametrize("words", ["SSD-1B", "ssd-1b", "segmind/SSD-1B"])
def test_model_of_the_list_is_known_by_title_or_id(words: str) -> None:
    found = named(words)
    assert found is not None
    assert found.repo == "segmind/SSD-1B"
    assert named("somebody/SSD-1B") is None
