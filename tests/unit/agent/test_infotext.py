"""The text in a PNG: what A1111, Civitai and others read back."""

import pytest

from foxden_agent.engine.infotext import infotext
from foxden_proto.v1.generation_pb2 import ImageRequest


def _request(**changes: object) -> ImageRequest:
    fields: dict[str, object] = {
        "model": "dreamshaper-8",
        "model_sha256": "879db523c30d3b9017143d56705015e15a2cb5628762c11d086fed9538abd7fd",
        "prompt": "a red cube",
        "steps": 20,
        "sampler": "DPM++ 2M",
        "schedule": "automatic",
        "guidance_scale": 7.0,
        "seed": 42,
    }
    return ImageRequest(**(fields | changes))


def _text(**changes: object) -> str:
    return infotext(_request(**changes), width=512, height=768, version="0.1.0")


def test_full_request_is_written_as_a1111_writes_it() -> None:
    assert _text(negative_prompt="blurry, dark") == (
        "a red cube\n"
        "Negative prompt: blurry, dark\n"
        "Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 42, "
        "Size: 512x768, Model hash: 879db523c3, Model: dreamshaper-8, Version: foxden 0.1.0"
    )


def test_no_negative_prompt_leaves_its_line_out() -> None:
    assert len(_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("sampler", "schedule", "label"),
    [
        ("Euler", "automatic", "Uniform"),
        ("Euler", "", "Uniform"),
        ("DPM++ 2M SDE", "automatic", "Exponential"),
        ("Euler", "sgm_uniform", "SGM Uniform"),
    ],
)
def test_schedule_named_is_the_one_that_was_used(sampler: str, schedule: str, label: str) -> None:
    assert f"Schedule type: {label}," in _text(sampler=sampler, schedule=schedule)


def test_value_with_comma_or_colon_is_quoted() -> None:
    assert 'Model: "mix, v2: final"' in _text(model="mix, v2: final")


def test_prompt_keeps_its_lines_and_characters() -> None:
    assert _text(prompt="ein Würfel,\nrot").startswith("ein Würfel,\nrot\nSteps: 20")


def test_fractional_scale_keeps_its_fraction() -> None:
    assert "CFG scale: 4.5," in _text(guidance_scale=4.5)
