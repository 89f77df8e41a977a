"""The policy as JSON: what is taken, what is refused and in which words."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest

from foxden_agent.policy import settings_json
from foxden_agent.policy.settings import Budget, Policy
from foxden_agent.policy.settings_json import KEYS, PARTS, BadValue
from foxden_agent.policy.thresholds import Threshold
from foxden_agent.policy.timetable import Window


def test_every_setting_has_a_key_and_every_key_a_setting() -> None:
    wanted = set()
    for field in fields(Policy):
        parts = PARTS if isinstance(field.default, Threshold) else ("",)
        wanted |= {f"{field.name}.{part}" if part else field.name for part in parts}
    assert wanted == set(KEYS)


def test_default_policy_comes_back_from_its_own_json() -> None:
    data = json.loads(json.dumps(settings_json.to_json(Policy())))
    assert settings_json.read(data) == (Policy(), [])


def test_what_is_said_counts_and_what_is_missing_is_the_default() -> None:
    data = {
        "programs": ["a.exe"], "temperature": {"stop": 90}, "memory_in_use": "6 GB",
        "quiet_hours": ["daily 22:00-06:00"], "of_tomorrow": 1,
    }  # fmt: skip
    policy, bad = settings_json.read(data)
    assert not bad
    assert policy.programs == ("a.exe",)
    assert policy.temperature == Threshold(90, 75, 120)
    assert policy.memory_in_use == Budget(size=6 * 2**30)
    assert policy.quiet_hours == (Window.parse("daily 22:00-06:00"),)
    assert policy.hold == Policy().hold


REFUSED: list[tuple[Any, str]] = [
    ({"temperature": {"stop": 200}}, "temperature.stop is 200: give a number from 40 to 110"),
    ({"temperature": {"stop": True}}, "temperature.stop is True: give a number"),
    ({"temperature": {"stop": float("nan")}}, "temperature.stop is nan: give a number"),
    ({"temperature": {"resume": 88}}, "temperature.resume is 88: give a number below"),
    ({"memory_room": {"resume": 0.1}}, "memory_room.resume is 0.1: give a number above"),
    ({"temperature_slow": 70}, "temperature_slow is 70: give a number between"),
    ({"temperature": 80}, "temperature is 80: give an object with stop, resume, hold"),
    ({"full_screen": "yes"}, "full_screen is 'yes': give true or false"),
    ({"programs": "witcher3.exe"}, "programs is 'witcher3.exe': give a list"),
    ({"programs": [""]}, "programs is ['']: give a list"),
    ({"programs": ["x" * 5000]}, "programs is ['xxx"),
    ({"memory_away": "200%"}, "memory_away is '200%': give a text like"),
    ({"memory_away": 6}, "memory_away is 6: give a text like"),
    ({"quiet_hours": ["mon"]}, "quiet_hours is ['mon']: give a list"),
    ({"hold": -1}, "hold is -1: give a number from 0 to 3600 (seconds)"),
]


@pytest.mark.parametrize(("data", "sentence"), REFUSED, ids=[s.split(":")[0] for _, s in REFUSED])
def test_bad_value_is_refused_by_key_and_range_and_the_default_stands_in(
    data: dict[str, Any], sentence: str
) -> None:
    policy, bad = settings_json.read(data)
    assert len(bad) == 1
    assert str(bad[0]).startswith(sentence)
    assert len(str(bad[0])) < 300
    assert policy == Policy()


@pytest.mark.parametrize("data", [[], 5, "x", None])
def test_no_object_is_no_policy(data: Any) -> None:
    policy, bad = settings_json.read(data)
    assert policy == Policy()
    assert len(bad) == 1


def test_setting_one_key_keeps_the_others_and_the_unknown() -> None:
    before = {"temperature": {"resume": 70}, "of_tomorrow": [1]}
    after = settings_json.with_value(before, "temperature.stop", 85)
    assert after == {"temperature": {"resume": 70, "stop": 85}, "of_tomorrow": [1]}
    assert before == {"temperature": {"resume": 70}, "of_tomorrow": [1]}


def test_setting_an_unknown_key_names_the_known_ones() -> None:
    with pytest.raises(BadValue, match=r"no setting 'temprature': take one of programs, .*hold"):
        settings_json.with_value({}, "temprature", 1)


def test_one_bad_value_of_two_can_be_mended_by_itself() -> None:
    broken = {"hold": -1, "full_screen": 7}
    mended = settings_json.with_value(broken, "hold", 5)
    assert mended == {"hold": 5, "full_screen": 7}
    with pytest.raises(BadValue, match="hold is -2"):
        settings_json.with_value(broken, "hold", -2)
    with pytest.raises(BadValue, match="hold is -1"):
        settings_json.with_value(broken, "hold", -1)


@pytest.mark.parametrize(
    ("text", "total", "size"),
    [("80%", 10, 8), ("6 GB", 8 * 2**30, 6 * 2**30), ("6.5gib", 2**30, 2**30)],
)
def test_budget_of_a_card(text: str, total: int, size: int) -> None:
    assert Budget.parse(text).of(total) == size
    assert Budget.parse(str(Budget.parse(text))) == Budget.parse(text)
