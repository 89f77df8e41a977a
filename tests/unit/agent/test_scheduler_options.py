"""The table of samplers: pure, without torch. That each pair draws is in tests/engine."""

import subprocess
import sys

import pytest

from foxden_agent.engine.samplers import (
    NoSuchCombination,
    effective_schedule,
    offered,
    samplers,
    scheduler_options,
    schedules,
)
from foxden_proto.samplers import SAMPLERS, SCHEDULES


def test_every_sampler_of_the_contract_is_run() -> None:
    assert samplers() == SAMPLERS


def test_every_offered_pair_has_options() -> None:
    for sampler in samplers():
        for schedule in schedules(sampler):
            name, options = scheduler_options(sampler, schedule)
            assert name.endswith("Scheduler")
            assert sum(options.get(f"use_{s}_sigmas") is True for s in SCHEDULES) <= 1


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        ("DPM++ 2M", "karras"),
        ("DPM++ SDE", "karras"),
        ("DPM++ 2M SDE", "exponential"),
        ("DPM++ 3M SDE", "exponential"),
        ("DPM2 a", "karras"),
        ("Euler", "uniform"),
        ("Euler a", "uniform"),
        ("DDIM", "uniform"),
    ],
)
def test_automatic_is_what_a1111_takes(sampler: str, expected: str) -> None:
    assert effective_schedule(sampler, "automatic") == expected


def test_named_schedule_switches_the_others_off() -> None:
    _, options = scheduler_options("DPM++ 2M", "exponential")
    assert options["use_exponential_sigmas"] is True
    assert options["use_karras_sigmas"] is False
    assert options["use_beta_sigmas"] is False


def test_automatic_keeps_trailing_of_a_zero_snr_model() -> None:
    assert scheduler_options("Euler", "automatic", "trailing")[1]["timestep_spacing"] == "trailing"
    assert scheduler_options("Euler", "automatic", "leading")[1]["timestep_spacing"] == "linspace"
    assert scheduler_options("Euler", "uniform", "trailing")[1]["timestep_spacing"] == "linspace"


@pytest.mark.parametrize(
    ("sampler", "schedule"),
    [("Euler a", "karras"), ("DDIM", "beta"), ("LCM", "simple"), ("DPM++ 3M SDE", "beta")],
)
def test_pair_that_cannot_run_is_refused_with_what_can(sampler: str, schedule: str) -> None:
    with pytest.raises(NoSuchCombination) as caught:
        scheduler_options(sampler, schedule)
    assert caught.value.possible == schedules(sampler)
    assert "automatic" in str(caught.value)


def test_what_needs_a_missing_library_is_not_offered() -> None:
    assert offered(()) == {name: schedules(name) for name in samplers()}
    without = offered({"scipy", "torchsde"})
    assert set(samplers()) - set(without) == {"LMS", "DPM++ SDE"}
    assert not any("beta" in names for names in without.values())
    assert "karras" in without["DPM++ 2M"]


def test_unknown_sampler_is_refused_with_all_names() -> None:
    with pytest.raises(NoSuchCombination, match="there is no sampler 'Magic': use Euler,"):
        scheduler_options("Magic", "automatic")


@pytest.mark.parametrize(
    "module",
    [
        "foxden_agent.engine",
        "foxden_agent.engine.server",
        "foxden_agent.engine.infotext",
        "foxden_agent.engine_client",
        "foxden_agent.models",
    ],
)
def test_import_brings_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'diffusers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
