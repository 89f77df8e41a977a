"""Where a fetched model lies in the model folder, and how one knows it again."""

from __future__ import annotations

from pathlib import Path

from foxden_agent.model_facts import FACTS_FILE
from foxden_agent.told_files import told_in

STAGING = ".fetching"  # in the model folder, whose scan leaves hidden folders out
LOCK = ".lock"  # in that one: one model at a time


def here_already(folder: Path, repo: str, revision: str = "") -> bool:
    """Whether that folder was fetched from there; of this commit, where one is given."""
    told = told_in(folder / FACTS_FILE)
    return told.get("source") == repo and (not revision or told.get("revision") == revision)


def fetched_whole(folder: Path) -> bool:
    """Whether that folder was fetched, and has as many bytes as were: a copy of one that is still
    being made hasn't."""
    told = told_in(folder / FACTS_FILE)
    if "source" not in told:
        return False
    try:
        files = [one for one in folder.rglob("*") if one.is_file() and one.name != FACTS_FILE]
        return sum(one.stat().st_size for one in files) == told.get("bytes")
    except OSError:
        return False


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
