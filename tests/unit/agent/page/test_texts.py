"""Every text that page and tray use is in the catalogue, and the catalogue has no other."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

import foxden_agent.page
import foxden_agent.tray
from foxden_agent.page import settings_form, texts
from foxden_agent.page.first_run import STEPS
from foxden_agent.page.plots import FIGURES, mode_name
from foxden_agent.policy.settings_json import KEYS
from foxden_agent.policy.values import SEVERITY

FOLDER = Path(foxden_agent.page.__file__).parent / "files"
TRAY = Path(foxden_agent.tray.__file__).parent
EN = json.loads((FOLDER / "texts/en.json").read_text(encoding="utf-8"))
MODES = [*map(mode_name, SEVERITY), "unread"]
VIEWS = ("locked", "first-run", "starting", "now", "history", "settings", "log")
# Texts whose key a script puts together: `t(`mode.${…}`)`.
FAMILIES: dict[str, Iterable[str]] = {
    "mode": MODES,
    "mode_text": MODES,
    "step": STEPS,
    "state": ("busy", "failed", "done", "skipped", "ready"),
    "pause": ("hour", "tomorrow", "restart", "forever", "finish", "resume"),
    "group": [name for name, _ in settings_form.GROUPS],
    "group_text": [name for name, _ in settings_form.GROUPS],
    "field": KEYS,
    "help": KEYS,
    "title": VIEWS,
    "figure": FIGURES,
    "tray": ("hour", "restart", "tomorrow"),
}


def scripts() -> str:
    files = [*FOLDER.glob("*.js"), FOLDER / "index.html", *TRAY.glob("*.py")]
    return "\n".join(path.read_text(encoding="utf-8") for path in files)


def used() -> set[str]:
    source = scripts()
    families = "|".join({key.partition(".")[0] for key in EN})
    named = set(re.findall(rf'"((?:{families})\.[a-z_.]+|again)"', source)) - {*KEYS}
    named = {name for name in named if not name.endswith((".js", ".json", ".svg", ".css"))}
    return named | {f"{family}.{name}" for family, names in FAMILIES.items() for name in names}


def test_every_text_that_is_used_is_there() -> None:
    assert used() - set(EN) == set()


def test_no_text_is_left_over() -> None:
    assert set(EN) - used() == set()


def test_every_family_is_known() -> None:
    made = set(re.findall(r"t\(`([a-z_]+)\.\$", scripts()))
    assert made <= set(FAMILIES)


@pytest.mark.parametrize("language", sorted(texts.languages()))
def test_language_x_no_unknown_text_and_the_same_gaps(language: str) -> None:
    told = texts.texts(language)
    assert set(told) == set(EN)
    for key, text in told.items():
        assert set(re.findall(r"\{(\w+)\}", text)) == set(re.findall(r"\{(\w+)\}", EN[key])), key


def test_every_setting_has_one_field() -> None:
    fields = [key for _, keys in settings_form.GROUPS for key in keys]
    assert sorted(fields) == sorted(KEYS)


@pytest.mark.parametrize(
    ("wanted", "known", "language"),
    [
        ("", {"en", "ru"}, "en"),
        ("ru-RU,ru;q=0.9,en;q=0.8", {"en", "ru"}, "ru"),
        ("en;q=0.5, ru;q=0.9", {"en", "ru"}, "ru"),
        ("ru", {"en"}, "en"),
        ("de, fr;q=nonsense, *", {"en", "ru"}, "en"),
        ("../../etc/passwd", {"en"}, "en"),
    ],
)
def test_browser_asks_x_the_language_it_gets(wanted: str, known: set[str], language: str) -> None:
    assert texts.chosen(wanted, frozenset(known)) == language
