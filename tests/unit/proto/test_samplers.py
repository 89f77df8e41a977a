"""What people type for samplers and schedules, and what it is."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foxden_proto.samplers import SAMPLERS, SCHEDULES, UnknownName, resolve


@pytest.mark.parametrize("name", SAMPLERS)
def test_canonical_name_in_any_case_resolves_to_itself(name: str) -> None:
    for typed in (name, name.lower(), name.upper(), f"  {name} "):
        assert resolve(typed, "") == (name, "automatic")


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_in_any_case_resolves_to_itself(name: str) -> None:
    assert resolve("Euler", name.upper()) == ("Euler", name)


@pytest.mark.parametrize(
    ("sampler", "schedule", "expected"),
    [
        ("", "", ("", "automatic")),
        ("", "Karras", ("", "karras")),
        ("DPM++ 2M Karras", "", ("DPM++ 2M", "karras")),
        ("dpm++  2m   karras", "", ("DPM++ 2M", "karras")),
        ("DPM++ 2M Karras", "exponential", ("DPM++ 2M", "exponential")),
        ("DPM++ 2M SDE Exponential", "", ("DPM++ 2M SDE", "exponential")),
        ("DPM++ 2M SGM Uniform", "", ("DPM++ 2M", "sgm_uniform")),
        ("k_euler_a", "", ("Euler a", "automatic")),
        ("k_dpm_2_a", "", ("DPM2 a", "automatic")),
        ("uni_pc", "", ("UniPC", "automatic")),
        ("LMS Karras", "", ("LMS", "karras")),
        ("DPM2 a Karras", "", ("DPM2 a", "karras")),
        ("euler_ancestral karras", "", ("Euler a", "karras")),
        ("PLMS", "", ("PNDM", "automatic")),
        ("Euler", "Normal", ("Euler", "uniform")),
        ("Euler", "SGM Uniform", ("Euler", "sgm_uniform")),
    ],
)
def test_older_and_combined_names_resolve(
    sampler: str, schedule: str, expected: tuple[str, str]
) -> None:
    assert resolve(sampler, schedule) == expected


@pytest.mark.parametrize(
    ("sampler", "schedule", "field", "near"),
    [
        ("Eular", "", "sampler", "Euler"),
        ("DPM++ 2N", "", "sampler", "DPM++ 2M"),
        ("Euler", "karas", "schedule", "karras"),
    ],
)
def test_misspelt_name_is_refused_with_the_near_one(
    sampler: str, schedule: str, field: str, near: str
) -> None:
    with pytest.raises(UnknownName) as caught:
        resolve(sampler, schedule)
    assert caught.value.field == field
    assert near in caught.value.near
    assert "Did you mean" in str(caught.value)


def test_name_like_no_other_is_refused_without_a_guess() -> None:
    with pytest.raises(UnknownName) as caught:
        resolve("zzzzqqq", "")
    assert caught.value.near == ()
    assert "Did you mean" not in str(caught.value)


@given(st.text(max_size=30), st.text(max_size=15))
@settings(deadline=None, max_examples=100)
def test_any_text_resolves_to_known_names_or_is_refused(sampler: str, schedule: str) -> None:
    try:
        name, wanted = resolve(sampler, schedule)
    except UnknownName:
        return
    assert name in ("", *SAMPLERS)
    assert wanted in SCHEDULES
    assert resolve(name, wanted) == (name, wanted)
