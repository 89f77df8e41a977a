"""Small JSON files that are of use where they can be read, and are not missed where they can't."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def told_in(path: Path) -> dict[str, Any]:
    """The file's JSON object; an empty one where it is not there, cannot be read or is damaged."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}
