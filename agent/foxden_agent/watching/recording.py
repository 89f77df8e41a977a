"""Readings as a file: one JSON object a line, which a person can read and a program can write.

    {"foxden_readings": 1, "begun": "2026-11-20T21:03:00"}
    {"t": 0, "machine": {"full_screen": ""}, "cards": {"cuda:0": {"temperature": 41, ...}}}
    {"t": 1, "cards": {"cuda:0": {"temperature": 42}}}

`begun` is the wall clock's local time at t = 0, without a zone: a timetable reads the same hours
wherever the file is played. `t` counts seconds and never goes back. The first line of readings
names every card and holds all that is not None or the field's default; later ones hold what
changed. Fields are those of foxden_agent.readings, without `device` and `at`; `processes` are
[id, name, memory] each; `clock_offset` is how far the wall clock is ahead of begun + t. Names of
programs are all that it holds of the owner: no paths, no user's name, and nothing of a client's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from foxden_agent.readings import CardProcess, CardReadings, MachineReadings, Readings

VERSION = 1
_LONGEST_LINE = 256 * 1024
_MOST_CARDS = 64

Values = dict[str, Any]  # as in the file


class BadRecording(Exception):
    """The file is no recording that can be played; the text says which line, and why."""


@dataclass(frozen=True, slots=True)
class Moment:
    """One line: the readings with `at` and `wall` counted from the beginning of the recording."""

    t: float
    readings: Readings


def header(begun: datetime, policy: Mapping[str, Any] | None = None) -> str:
    """The first line. `begun` is local time; `policy` what the owner had set then, as in
    policy.json, so that a replay decides as it was decided."""
    text = begun.replace(tzinfo=None).isoformat(timespec="milliseconds")
    line: dict[str, Any] = {"foxden_readings": VERSION, "begun": text}
    return json.dumps(line | ({"policy": dict(policy)} if policy else {}))


class Encoder:
    """Lines of one file, each with what changed since the one before."""

    def __init__(self) -> None:
        self._machine: Values = dict(_MACHINE_DEFAULTS)
        self._cards: dict[str, Values] = {}

    def line(self, t: float, clock_offset: float, readings: Readings) -> str:
        """`t`: seconds since the beginning; see the module's text for `clock_offset`."""
        # A clock that is kept right by small steps is no news.
        offset = round(clock_offset) if abs(clock_offset) >= 2 else 0
        line: Values = {"t": round(t, 3)}
        machine = {**_encoded(readings.machine, _MACHINE), "clock_offset": offset}
        if changed := _difference(self._machine, machine):
            line["machine"] = changed
        self._machine = machine
        cards = {}
        for card in readings.cards:
            values = _encoded(card, _CARD)
            changed = _difference(self._cards.get(card.device, _CARD_DEFAULTS), values)
            if changed or card.device not in self._cards:
                cards[card.device] = changed
            self._cards[card.device] = values
        if cards:
            line["cards"] = cards
        return json.dumps(line, separators=(",", ":"))


class Recording:
    """A file that was looked through from end to end: it can be played. Raises BadRecording."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.devices: tuple[str, ...] = ()
        self.length = 0.0  # seconds
        try:
            with path.open("rb") as file:
                self.begun, self.policy = _header(file.readline(_LONGEST_LINE))
            for moment in self.moments():
                self.devices = tuple(card.device for card in moment.readings.cards)
                self.length = moment.t
        except OSError as error:
            raise BadRecording(
                f"{path} cannot be read ({error.strerror}): check --replay."
            ) from None
        except BadRecording as error:
            raise BadRecording(
                f"{path} is not a recording that can be played: {error}. Record it again."
            ) from None
        if not self.devices:
            raise BadRecording(f"{path} holds no readings: record it again.")

    def moments(self) -> Iterator[Moment]:
        """Line by line; the file is read again each time. Raises BadRecording."""
        machine = dict(_MACHINE_DEFAULTS)
        cards: dict[str, Values] = {}
        last = 0.0
        with self.path.open("rb") as file:
            file.readline(_LONGEST_LINE)
            for number in range(2, 1 << 31):
                raw = file.readline(_LONGEST_LINE)
                if not raw:
                    return
                try:
                    line = _object(raw)
                    t = _number(line.pop("t", None))
                    if t < last:
                        raise BadRecording("its time goes back")
                    last = t
                    _merge(machine, line.pop("machine", {}), {**_MACHINE, **_CLOCK})
                    for device, changed in _mapping(line.pop("cards", {})).items():
                        if device not in cards and (cards and number > 2):
                            raise BadRecording(f"the card {device!r} is new")
                        _merge(cards.setdefault(device, dict(_CARD_DEFAULTS)), changed, _CARD)
                    if line:
                        raise BadRecording(f"{min(line)!r} is unknown")
                    if not 1 <= len(cards) <= _MOST_CARDS:
                        raise BadRecording("it names no card, or far too many")
                    yield Moment(t, _readings(t, machine, cards))
                except BadRecording as error:
                    raise BadRecording(f"line {number}: {error}") from None


def _header(raw: bytes) -> tuple[datetime, dict[str, Any]]:
    if not raw:
        raise BadRecording("it is empty")
    try:
        line = _object(raw)
        if "foxden_readings" not in line:
            raise BadRecording("its first line is not that of a recording")
        if line["foxden_readings"] != VERSION:
            raise BadRecording(
                f"its version is {line['foxden_readings']!r}, and this program plays {VERSION}"
            )
        policy = line.get("policy", {})
        if not isinstance(policy, dict):
            raise BadRecording("its policy is no JSON object")
        return datetime.fromisoformat(line["begun"]).replace(tzinfo=None), policy
    except (KeyError, TypeError, ValueError):
        raise BadRecording("its first line does not say when it was begun") from None


def _readings(t: float, machine: Values, cards: Mapping[str, Values]) -> Readings:
    told = {name: _MACHINE[name](value) for name, value in machine.items() if name in _MACHINE}
    return Readings(
        MachineReadings(at=t, wall=t + machine["clock_offset"], **told),
        tuple(
            CardReadings(device, t, **{name: _CARD[name](value) for name, value in values.items()})
            for device, values in cards.items()
        ),
    )


# Each field's check and conversion from the file's value; raises BadRecording.


def _optional(kind: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else kind(value)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e15:
        raise BadRecording(f"{value!r} is not a number")
    return float(value)


def _positive(value: Any) -> float:
    if (number := _number(value)) < 0:
        raise BadRecording(f"{value!r} is below 0")
    return number


def _share(value: Any) -> float:
    if not 0 <= _number(value) <= 1:
        raise BadRecording(f"{value!r} is not from 0 to 1")
    return float(value)


def _bytes(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 60:
        raise BadRecording(f"{value!r} is not a number of bytes")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 1000:
        raise BadRecording("a text is expected")
    return value


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise BadRecording(f"{value!r} is not true or false")
    return value


def _texts(value: Any) -> frozenset[str]:
    if not isinstance(value, list) or len(value) > 1000:
        raise BadRecording("a list of texts is expected")
    return frozenset(_text(item) for item in value)


def _processes(value: Any) -> tuple[CardProcess, ...]:
    if not isinstance(value, list) or any(
        not isinstance(item, list) or len(item) != 3 for item in value
    ):
        raise BadRecording("processes are lists of [id, name, memory]")
    return tuple(
        CardProcess(_bytes(pid), _text(name), _optional(_bytes)(memory))
        for pid, name, memory in value
    )


_MACHINE: dict[str, Callable[[Any], Any]] = {
    "full_screen": _optional(_text),
    "programs": _texts,
    "on_battery": _optional(_truth),
    "battery": _optional(_share),
    "idle_seconds": _optional(_positive),
    "memory_free": _optional(_bytes),
}
_CLOCK = {"clock_offset": _number}
_CARD: dict[str, Callable[[Any], Any]] = {
    "present": _truth,
    **dict.fromkeys(("memory_total", "memory_used", "memory_free"), _optional(_bytes)),
    **dict.fromkeys(
        ("temperature", "temperature_slowdown", "temperature_shutdown"), _optional(_number)
    ),
    **dict.fromkeys(("utilisation", "fan"), _optional(_share)),
    **dict.fromkeys(("power", "power_limit", "energy", "clock"), _optional(_positive)),
    "throttled": _texts,
    "processes": _optional(_processes),
    "problem": _text,
}


def _encoded(readings: MachineReadings | CardReadings, known: Mapping[str, object]) -> Values:
    return {name: _plain(getattr(readings, name)) for name in known}


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, tuple):
        return [[process.pid, process.name, process.memory] for process in value]
    return value


def _defaults(kind: type, known: Mapping[str, object]) -> Values:
    return {f.name: _plain(f.default) for f in fields(kind) if f.name in known}


_MACHINE_DEFAULTS: Values = {**_defaults(MachineReadings, _MACHINE), "clock_offset": 0}
_CARD_DEFAULTS: Values = _defaults(CardReadings, _CARD)


def _difference(before: Values, now: Values) -> Values:
    return {name: value for name, value in now.items() if before[name] != value}


def _merge(values: Values, changed: Any, known: Mapping[str, Callable[[Any], Any]]) -> None:
    for name, value in _mapping(changed).items():
        if name not in known:
            raise BadRecording(f"{name!r} is unknown")
        try:
            known[name](value)
        except BadRecording as error:
            raise BadRecording(f"{name}: {error}") from None
        values[name] = value


def _mapping(value: Any) -> Values:
    if not isinstance(value, dict):
        raise BadRecording("an object is expected")
    return value


def _object(raw: bytes) -> Values:
    if not raw.endswith(b"\n"):
        raise BadRecording("it is cut, or far too long")
    try:
        return _mapping(json.loads(raw, parse_constant=_refuse))
    except (ValueError, RecursionError):
        raise BadRecording("it is not a JSON object") from None


def _refuse(name: str) -> None:
    raise BadRecording(f"{name} is not a number")
