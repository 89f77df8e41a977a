"""A policy from and to JSON: every value is checked by its key. Pure.

A threshold's three parts are keys of their own: "temperature.stop".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from foxden_agent.policy.settings import Budget, Policy
from foxden_agent.policy.thresholds import Threshold
from foxden_agent.policy.timetable import Window

PARTS = ("stop", "resume", "hold")
_MOST_NAMES = 200
_NAME_CHARACTERS = 100
_MOST_WINDOWS = 50


class BadValue(ValueError):
    """A value that cannot be: the text names its key, the value, and what to give instead.

    `key` is that key, or empty where it is about the file as a whole.
    """

    def __init__(self, text: str, key: str = "") -> None:
        super().__init__(text)
        self.key = key


@dataclass(frozen=True, slots=True)
class Key:
    """How one key is read: `read` raises ValueError or TypeError for what is not in `range`."""

    read: Callable[[Any], Any]
    range: str  # in words: "a number from 0 to 1"
    is_list: bool = False


def _number(low: float, high: float, unit: str = "") -> Key:
    def read(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError
        if not math.isfinite(value) or not low <= value <= high:
            raise ValueError
        return value

    return Key(read, f"a number from {low:g} to {high:g}" + (f" ({unit})" if unit else ""))


def _flag() -> Key:
    def read(value: Any) -> bool:
        if not isinstance(value, bool):
            raise TypeError
        return value

    return Key(read, "true or false")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _name(value: Any) -> str:
    text = _text(value).strip()
    if not 1 <= len(text) <= _NAME_CHARACTERS or not text.isprintable():
        raise ValueError
    return text


def _list(one: Callable[[Any], Any], most: int, of: str) -> Key:
    def read(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list) or len(value) > most:
            raise TypeError
        return tuple(one(item) for item in value)

    return Key(read, f"a list of up to {most} {of}", is_list=True)


_NAMES = _list(_name, _MOST_NAMES, f"names of programs of 1 to {_NAME_CHARACTERS} characters")
_WINDOWS = _list(
    lambda value: Window.parse(_text(value)),
    _MOST_WINDOWS,
    'texts like "mon-fri 18:00-23:30" or "22:00-08:00"',
)
_BUDGET = Key(lambda value: Budget.parse(_text(value)), 'a text like "80%" (5 to 100) or "6 GB"')
_SHARE = _number(0, 1)
_DEGREES = _number(40, 110, "degrees Celsius")
_HOLD = _number(0, 3600, "seconds")

KEYS: Mapping[str, Key] = {
    "programs": _NAMES,
    "full_screen": _flag(),
    "full_screen_ignored": _NAMES,
    "foreign_use.stop": _SHARE,
    "foreign_use.resume": _SHARE,
    "foreign_use.hold": _HOLD,
    "memory_taken": _SHARE,
    "memory_room.stop": _SHARE,
    "memory_room.resume": _SHARE,
    "memory_room.hold": _HOLD,
    "memory_in_use": _BUDGET,
    "memory_away": _BUDGET,
    "temperature.stop": _DEGREES,
    "temperature.resume": _DEGREES,
    "temperature.hold": _HOLD,
    "temperature_slow": _DEGREES,
    "share_least": _number(0.05, 1),
    "on_battery": _flag(),
    "only_when_away": _flag(),
    "away_after": _number(10, 86_400, "seconds"),
    "quiet_hours": _WINDOWS,
    "start_delay": _number(0, 1440, "minutes"),
    "hold": _HOLD,
}


def read(data: object) -> tuple[Policy, list[BadValue]]:
    """The policy that the JSON object says, and a complaint for every value that it cannot have.

    What is missing or refused is the default; keys that are not known are left alone. Of values
    that do not go with each other all are refused.
    """
    if not isinstance(data, Mapping):
        return Policy(), [BadValue("the file is not a JSON object: write {} and begin anew")]
    bad: list[BadValue] = []
    found: dict[str, Any] = {}
    for name, key in KEYS.items():
        whole, _, part = name.partition(".")
        value = data.get(whole)
        if part and value is not None:
            if not isinstance(value, Mapping):
                if part == PARTS[0]:
                    bad.append(_refusal(whole, value, f"an object with {', '.join(PARTS)}"))
                continue
            value = value.get(part)
        if value is None:
            continue
        try:
            found[name] = key.read(value)
        except (ValueError, TypeError):
            bad.append(_refusal(name, value, key.range))
    return _together(found, bad), bad


def to_json(policy: Policy) -> dict[str, Any]:
    """The whole policy as `read` takes it."""
    return {field.name: _plain(getattr(policy, field.name)) for field in fields(policy)}


def with_value(data: Mapping[str, Any], name: str, value: Any) -> dict[str, Any]:
    """A file's object with one key set; `value` is as JSON gives it. Other keys stay.

    Raises BadValue, for an unknown key with the known ones.
    """
    if name not in KEYS:
        known = ", ".join(KEYS)
        raise BadValue(f"there is no setting {name!r}: take one of {known}")
    whole, _, part = name.partition(".")
    if part:
        before = data.get(whole)
        value = {**(before if isinstance(before, Mapping) else {}), part: value}
    changed = {**data, whole: value}
    before_it = {str(problem) for problem in read(data)[1]}  # of a hand that wrote there before
    for problem in read(changed)[1]:
        if str(problem) not in before_it or problem.key == name:
            raise problem
    return changed


def with_values(
    data: Mapping[str, Any], values: Mapping[str, Any]
) -> tuple[dict[str, Any], list[BadValue]]:
    """A file's object with several keys set at once, and every complaint about it.

    Together, because values that go with each other can only be changed together.
    """
    changed = dict(data)
    bad = []
    for name, value in values.items():
        if name not in KEYS:
            bad.append(BadValue(f"there is no setting {name!r}", name))
            continue
        whole, _, part = name.partition(".")
        if part:
            before = changed.get(whole)
            value = {**(before if isinstance(before, Mapping) else {}), part: value}
        changed[whole] = value
    return changed, [*bad, *read(changed)[1]]


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """What `to_json` gives, by the names of KEYS: a threshold is three keys."""
    made: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            made |= {f"{name}.{part}": value[part] for part in PARTS}
        else:
            made[name] = value
    return made


def _together(found: dict[str, Any], bad: list[BadValue]) -> Policy:
    values: dict[str, Any] = {}
    for field in fields(Policy):
        default = field.default
        if not isinstance(default, Threshold):
            values[field.name] = found.get(field.name, default)
            continue
        parts = {p: found.get(f"{field.name}.{p}", getattr(default, p)) for p in PARTS}
        made = Threshold(**parts)
        less_is_worse = default.resume > default.stop
        if (made.resume > made.stop) if less_is_worse else (made.resume < made.stop):
            values[field.name] = made
        else:
            values[field.name] = default
            side = "above" if less_is_worse else "below"
            range_ = f"a number {side} {field.name}.stop, which is {made.stop:g}"
            bad.append(_refusal(f"{field.name}.resume", made.resume, range_))
    hot, slow = values["temperature"], values["temperature_slow"]
    if not hot.resume < slow < hot.stop:
        limits = f"{hot.resume:g} and {hot.stop:g}"
        range_ = (
            f"a number between temperature.resume and temperature.stop, which are {limits}, "
            "or change those first"
        )
        bad.append(_refusal("temperature_slow", slow, range_))
        normal = Policy()
        values |= {
            "temperature": normal.temperature,
            "temperature_slow": normal.temperature_slow,
        }
    return Policy(**values)


def _plain(value: Any) -> Any:
    if isinstance(value, Threshold):
        return {part: getattr(value, part) for part in PARTS}
    if isinstance(value, tuple):
        return [str(item) for item in value]
    return str(value) if isinstance(value, Budget) else value


def _refusal(name: str, value: object, range_: str) -> BadValue:
    shown = repr(value)
    return BadValue(f"{name} is {shown[:60]}{'…' * (len(shown) > 60)}: give {range_}", name)
