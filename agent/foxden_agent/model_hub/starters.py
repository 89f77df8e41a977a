"""The models that a new PC may begin with, so that its first day isn't the demo model's."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_FILE = Path(__file__).with_name("starters.json")
_SLACK = 0.94  # a card of "8 GB" tells a little less than 8 GiB


@dataclass(frozen=True)
class Starter:
    """A model of the list. What it weighs is the hub's to say."""

    repo: str  # its id on the hub
    title: str
    good_for: str  # one sentence for the owner
    licence: str
    memory: int  # bytes of a card that draws its usual size without layers being swapped
    facts: Mapping[str, Any]  # for its foxden.json: what it is drawn with if nobody says else


@cache
def starters() -> tuple[Starter, ...]:
    """The list, smallest first."""
    told = json.loads(_FILE.read_text(encoding="utf-8"))
    return tuple(
        Starter(
            *(one["repo"], one["title"], one["good_for"], one["licence"]),
            memory=one["memory_gb"] * 1024**3,
            facts=one["facts"],
        )
        for one in told
    )


def suggested(listed: Iterable[Starter], vram_bytes: int) -> list[tuple[Starter, bool]]:
    """The models in the order to offer them in, each with whether it fits such a card: the most
    demanding that fits comes first, what doesn't fit at the end. 0 bytes: no card, nothing fits."""
    told = [(one, vram_bytes >= one.memory * _SLACK) for one in listed]
    # False comes before True, and sorting keeps the list's order among equals.
    return sorted(told, key=lambda one: (not one[1], -one[0].memory if one[1] else 0))


def facts_of(one: Starter | None, licence: str) -> dict[str, Any]:
    """What a fetched model's foxden.json says of it; `licence` is the hub's, for any other."""
    if one is None:
        return {"licence": licence} if licence else {}
    return {"licence": one.licence, "description": one.good_for, **one.facts}


def named(words: str) -> Starter | None:
    """The model of the list that somebody means by its title, its id or the id's last part."""
    wanted = words.casefold()
    for one in starters():
        if wanted in (one.repo.casefold(), one.title.casefold(), short_name(one.repo).casefold()):
            return one
    return None


def short_name(repo: str) -> str:
    """What the model itself is called: the id without who made it."""
    return repo.rpartition("/")[2]
