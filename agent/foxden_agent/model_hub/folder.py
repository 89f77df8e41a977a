"""Where a fetched model lies in the model folder, and how one knows it again."""

from __future__ import annotations

import json
from pathlib import Path

from foxden_agent.model_facts import FACTS_FILE

STAGING = ".fetching"  # in the model folder, whose scan leaves hidden folders out
LOCK = ".lock"  # in that one: one model at a time


def here_already(folder: Path, repo: str, revision: str = "") -> bool:
    """Whether that folder was fetched from there; of this commit, where one is given."""
    try:
        told = json.loads((folder / FACTS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if not isinstance(told, dict) or told.get("source") != repo:
        return False
    return not revision or told.get("revision") == revision


def has_models(folder: Path) -> bool:
    """Whether anything lies there that looks like a model; nothing of it is read."""
    try:
        found = list(folder.iterdir())
    except OSError:
        return False
    return any(
        not one.name.startswith(".")
        and (one.suffix == ".safetensors" or (one / "model_index.json").is_file())
        for one in found
    )
