"""The page's words, one file per language: texts/en.json. To add a language, add its file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files

DEFAULT = "en"
_FOLDER = files("foxden_agent.page") / "files" / "texts"


def languages() -> frozenset[str]:
    """Those that there is a file of."""
    names = (entry.name for entry in _FOLDER.iterdir())
    return frozenset(name.removesuffix(".json") for name in names if name.endswith(".json"))


def chosen(accept_language: str, known: frozenset[str]) -> str:
    """The language that a browser wants most of those there are.

    >>> chosen("ru-RU,ru;q=0.9,en;q=0.8", frozenset({"en", "ru"}))
    'ru'
    >>> chosen("fr, de;q=0.5", frozenset({"en", "ru"}))
    'en'
    """
    wanted: list[tuple[float, int, str]] = []
    for place, part in enumerate(accept_language[:1000].split(",")):
        tag, _, weight = part.strip().partition(";q=")
        try:
            much = float(weight or 1)
        except ValueError:
            much = 0.0
        wanted.append((-much, place, tag.strip().lower().partition("-")[0]))
    for much, _, tag in sorted(wanted):
        if much < 0 and tag in known:
            return tag
    return DEFAULT


def texts(language: str) -> Mapping[str, str]:
    """All texts of a language by their keys; what it lacks is English."""
    return {**_read(DEFAULT), **(_read(language) if language != DEFAULT else {})}


def _read(language: str) -> dict[str, str]:
    told: dict[str, str] = json.loads((_FOLDER / f"{language}.json").read_text(encoding="utf-8"))
    return told
