"""The owner's settings as a form: groups of fields, their values, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from foxden_agent.policy import owner_files, settings_json
from foxden_agent.policy.settings import Policy
from foxden_agent.policy.settings_json import KEYS

# In the order in which an owner asks: when is it mine, what may it take, how warm may it be.
GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("times", ("quiet_hours", "start_delay", "only_when_away", "away_after", "on_battery")),
    ("games", ("programs", "full_screen", "full_screen_ignored", "hold")),
    ("sharing", ("foreign_use.stop", "foreign_use.resume", "foreign_use.hold")),
    (
        "memory",
        (
            "memory_in_use",
            "memory_away",
            "memory_taken",
            "memory_room.stop",
            "memory_room.resume",
            "memory_room.hold",
        ),
    ),
    (
        "heat",
        (
            "temperature.stop",
            "temperature.resume",
            "temperature.hold",
            "temperature_slow",
            "share_least",
        ),
    ),
)


def form(folder: Path) -> dict[str, Any]:
    """Every setting with its value, its default and its kind, by groups; and what of the file is
    not followed, by key. Raises owner_files.BadFile."""
    data = owner_files.read_json(folder / owner_files.POLICY)
    policy, bad = settings_json.read(data)
    values = settings_json.flat(settings_json.to_json(policy))
    defaults = settings_json.flat(settings_json.to_json(Policy()))
    fields = {
        key: {
            "value": values[key],
            "default": defaults[key],
            "kind": _kind(key, defaults[key]),
            "range": KEYS[key].range,
        }
        for key in KEYS
    }
    groups = [{"name": name, "keys": list(keys)} for name, keys in GROUPS]
    return {"groups": groups, "fields": fields, "errors": errors(bad)}


def save(folder: Path, values: dict[str, Any]) -> dict[str, str]:
    """Save all of these, or none where one is refused: then the complaints by key.

    Raises owner_files.BadFile or OSError.
    """
    return errors(owner_files.set_policies(folder, values))


def errors(bad: list[settings_json.BadValue]) -> dict[str, str]:
    """Complaints by the field that they belong to: the first of each."""
    return {one.key: str(one) for one in reversed(bad)}


def _kind(key: str, default: Any) -> str:
    if KEYS[key].is_list:
        return "list"
    if isinstance(default, bool):
        return "flag"
    return "number" if isinstance(default, int | float) else "text"
