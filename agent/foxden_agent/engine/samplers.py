"""Which diffusers scheduler draws as which sampler and schedule of the field. Pure: no torch.

The names are A1111's (`foxden_proto.samplers`). Only pairs that diffusers really runs are here;
tests/engine/test_samplers.py draws with every one of them. Schedules choose where the steps lie:

- uniform: evenly spaced timesteps over the whole range ("linspace"; "leading" for DDIM and PNDM,
  as their authors had it), the usual of k-diffusion and A1111
- simple, sgm_uniform: evenly spaced, starting at the last timestep and leaving the first out
  ("trailing"); A1111's two differ by less than one timestep, diffusers has the one
- karras, exponential, beta: spaced by noise level
- automatic: what A1111 takes for that sampler where nobody chose (its `samplers_k_diffusion`
  table): karras for DPM++ 2M, DPM++ SDE, DPM2 and DPM2 a, exponential for DPM++ 2M SDE and
  DPM++ 3M SDE, else uniform. A model whose own configuration says "trailing" keeps that instead
  of uniform: models trained to zero terminal SNR draw washed-out pictures from anything else.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from foxden_proto.samplers import SAMPLERS, SCHEDULES

Options = dict[str, bool | int | str]

_ALL = frozenset(SCHEDULES)
_SPACED = frozenset({"automatic", "uniform", "simple", "sgm_uniform"})  # no choice of noise levels
_OWN = frozenset({"automatic", "uniform"})  # distilled: the steps are those it was trained on

_SIGMAS = ("karras", "exponential", "beta")


@dataclass(frozen=True)
class _Row:
    scheduler: str  # class in diffusers
    automatic: str = "uniform"
    schedules: frozenset[str] = _ALL
    uniform: str = "linspace"  # timestep_spacing
    options: Mapping[str, bool | int | str] = field(default_factory=dict)


_TABLE: Mapping[str, _Row] = {
    "Euler": _Row("EulerDiscreteScheduler"),
    "Euler a": _Row("EulerAncestralDiscreteScheduler", schedules=_SPACED),
    "DPM++ 2M": _Row("DPMSolverMultistepScheduler", "karras"),
    "DPM++ 2M SDE": _Row(
        "DPMSolverMultistepScheduler", "exponential", options={"algorithm_type": "sde-dpmsolver++"}
    ),
    "DPM++ SDE": _Row("DPMSolverSDEScheduler", "karras"),
    "DPM++ 3M SDE": _Row(
        "DPMSolverMultistepScheduler",
        "exponential",
        schedules=_ALL - {"beta"},  # seen to diverge: its last steps are too long for third order
        options={"algorithm_type": "sde-dpmsolver++", "solver_order": 3},
    ),
    "Heun": _Row("HeunDiscreteScheduler"),
    "LMS": _Row("LMSDiscreteScheduler"),
    "DDIM": _Row("DDIMScheduler", schedules=_SPACED, uniform="leading"),
    # Without skip_prk_steps it would begin with twelve Runge-Kutta calls of the model.
    "PNDM": _Row(
        "PNDMScheduler", schedules=_SPACED, uniform="leading", options={"skip_prk_steps": True}
    ),
    "UniPC": _Row("UniPCMultistepScheduler"),
    "DPM2": _Row("KDPM2DiscreteScheduler", "karras"),
    "DPM2 a": _Row("KDPM2AncestralDiscreteScheduler", "karras"),
    "DEIS": _Row("DEISMultistepScheduler"),
    "LCM": _Row("LCMScheduler", schedules=_OWN, uniform=""),
    "TCD": _Row("TCDScheduler", schedules=_OWN, uniform=""),
}


# Libraries that diffusers needs for a sampler; "beta" needs scipy with every sampler.
_NEEDS = {"LMS": "scipy", "DPM++ SDE": "torchsde"}


class NoSuchCombination(ValueError):
    """A sampler that can't be run with this schedule; `possible` holds those it can."""

    def __init__(self, sampler: str, schedule: str, possible: tuple[str, ...]) -> None:
        self.sampler, self.schedule, self.possible = sampler, schedule, possible
        if possible:
            text = f"sampler {sampler!r} has no schedule {schedule!r}: use {', '.join(possible)}"
        else:
            text = f"there is no sampler {sampler!r}: use {', '.join(samplers())}"
        super().__init__(text)


def samplers() -> tuple[str, ...]:
    """The samplers this engine runs, in the field's order."""
    return tuple(name for name in SAMPLERS if name in _TABLE)


def offered(missing: Collection[str]) -> dict[str, tuple[str, ...]]:
    """What can be published of it where libraries are `missing` ("scipy", "torchsde"): by sampler
    its schedules. diffusers has the classes without them, too, and fails when they are used."""
    offers = {}
    for name in samplers():
        if _NEEDS.get(name) not in missing:
            without = {"beta"} if "scipy" in missing else set()
            offers[name] = tuple(s for s in schedules(name) if s not in without)
    return offers


def schedules(sampler: str) -> tuple[str, ...]:
    """The schedules of a sampler, "automatic" first; empty where it is unknown."""
    row = _TABLE.get(sampler)
    return tuple(name for name in SCHEDULES if name in row.schedules) if row else ()


def effective_schedule(sampler: str, schedule: str) -> str:
    """The schedule itself, or the one that "automatic" stands for. Raises NoSuchCombination."""
    row = _TABLE.get(sampler)
    if row is None or schedule not in row.schedules:
        raise NoSuchCombination(sampler, schedule, schedules(sampler))
    return row.automatic if schedule == "automatic" else schedule


def scheduler_options(
    sampler: str, schedule: str, model_spacing: str = "leading"
) -> tuple[str, Options]:
    """The diffusers scheduler class, by name, and what to change in the model's configuration.

    Prediction type, betas and the like stay the model's. `model_spacing` is `timestep_spacing` in
    its configuration. Every option of the table is named each time: a configuration that was
    saved with use_karras_sigmas must not bend the schedule that was asked for.
    Raises NoSuchCombination.
    """
    chosen = effective_schedule(sampler, schedule)
    row = _TABLE[sampler]
    options: Options = dict(row.options)
    if "karras" in row.schedules:
        options |= {f"use_{name}_sigmas": chosen == name for name in _SIGMAS}
    keeps_own = schedule == "automatic" and chosen == "uniform" and model_spacing == "trailing"
    if keeps_own or chosen in ("simple", "sgm_uniform"):
        options["timestep_spacing"] = "trailing"
    elif row.uniform:
        options["timestep_spacing"] = row.uniform
    return row.scheduler, options
