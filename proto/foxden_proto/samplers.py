"""Names of samplers and schedules, with the older names people still type.

The names are the field's (A1111's); which of them an engine can run it says itself.
"""

from __future__ import annotations

import difflib

SAMPLERS = (
    "Euler",
    "Euler a",
    "DPM++ 2M",
    "DPM++ 2M SDE",
    "DPM++ SDE",
    "DPM++ 3M SDE",
    "Heun",
    "LMS",
    "DDIM",
    "PNDM",
    "UniPC",
    "DPM2",
    "DPM2 a",
    "DEIS",
    "LCM",
    "TCD",
)
SCHEDULES = ("automatic", "uniform", "karras", "exponential", "sgm_uniform", "beta", "simple")

# A1111's older names, AI Horde's ("k_…") and ComfyUI's.
_SAMPLER_ALIASES = {
    "plms": "PNDM",
    "k_euler": "Euler",
    "k_euler_a": "Euler a",
    "k_dpm_2": "DPM2",
    "k_dpm_2_a": "DPM2 a",
    "k_dpmpp_2m": "DPM++ 2M",
    "k_dpmpp_sde": "DPM++ SDE",
    "dpm_2": "DPM2",
    "dpm_2_ancestral": "DPM2 a",
    "uni_pc": "UniPC",
    "euler_ancestral": "Euler a",
    "euler ancestral": "Euler a",
    "k_lms": "LMS",
    "k_heun": "Heun",
    "dpmpp_2m": "DPM++ 2M",
    "dpm++ 2m sde": "DPM++ 2M SDE",
    "dpmpp_2m_sde": "DPM++ 2M SDE",
    "dpmpp_sde": "DPM++ SDE",
    "dpmpp_3m_sde": "DPM++ 3M SDE",
    "dpm2 ancestral": "DPM2 a",
}
_SCHEDULE_ALIASES = {"": "automatic", "normal": "uniform", "sgm uniform": "sgm_uniform"}
_BY_LOWER = {name.lower(): name for name in SAMPLERS} | _SAMPLER_ALIASES
_SCHEDULES_BY_LOWER = {name: name for name in SCHEDULES} | _SCHEDULE_ALIASES


class UnknownName(ValueError):
    """A sampler or schedule that nobody knows; `near` holds up to three names like it."""

    def __init__(self, field: str, name: str, near: tuple[str, ...]) -> None:
        self.field, self.name, self.near = field, name, near
        hint = f" Did you mean {', '.join(near)}?" if near else ""
        super().__init__(f"there is no {field} named {name!r}.{hint}")


def resolve(sampler: str, schedule: str) -> tuple[str, str]:
    """The canonical (sampler, schedule) for what somebody typed, in any case.

    "DPM++ 2M Karras" is ("DPM++ 2M", "karras"), unless a schedule was named beside it.
    An empty sampler stays empty; an empty schedule is "automatic". Raises UnknownName.
    """
    text = " ".join(sampler.lower().split())
    wanted = _schedule(schedule)
    if not text:
        return "", wanted
    if text not in _BY_LOWER:
        words = text.split()
        for cut in range(len(words) - 1, 0, -1):  # a schedule's name has a word or two
            head, tail = " ".join(words[:cut]), " ".join(words[cut:])
            if head in _BY_LOWER and tail in _SCHEDULES_BY_LOWER:
                return _BY_LOWER[head], wanted if schedule else _SCHEDULES_BY_LOWER[tail]
        raise UnknownName("sampler", sampler, _near(text, _BY_LOWER))
    return _BY_LOWER[text], wanted


def _schedule(schedule: str) -> str:
    text = " ".join(schedule.lower().split())
    if text not in _SCHEDULES_BY_LOWER:
        raise UnknownName("schedule", schedule, _near(text, _SCHEDULES_BY_LOWER))
    return _SCHEDULES_BY_LOWER[text]


def _near(text: str, names: dict[str, str]) -> tuple[str, ...]:
    found = difflib.get_close_matches(text, list(names), n=5, cutoff=0.5)
    return tuple(dict.fromkeys(names[key] for key in found))[:3]
