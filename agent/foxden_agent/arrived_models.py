"""Models that were fetched from a hub while the agent ran: they are offered without a restart.

Only those: they come into the model folder whole (model_hub/folder.py). What an owner copies there
by hand may be half of a model for as long as it is copied; it is read at the next start.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from pathlib import Path

from foxden_agent.mended_models import Shelf
from foxden_agent.model_hub.folder import fetched_whole
from foxden_agent.models import LocalModel
from foxden_agent.placement import ModelFacts
from foxden_agent.placement.placer import read_models

log = logging.getLogger(__name__)


async def run(
    folder: Path,
    found: list[LocalModel],
    facts: dict[str, ModelFacts],
    shelf: Shelf,
    scan: Callable[[], Iterable[LocalModel]],
    changed: Callable[[], None],
    most: int,
    every: float,
) -> None:
    """Look each `every` seconds, until cancelled, into the model folder, and add what came there to
    `found`, `facts` and `shelf`, up to `most` models in all.

    `scan` reads the folder anew; it may take long, and runs on a thread. `changed` is called when
    something was added.
    """
    seen = {one.path.resolve() for one in found}
    while True:
        await asyncio.sleep(every)
        fresh = await asyncio.to_thread(_fresh, folder, seen)
        if not fresh:
            continue
        seen |= fresh  # one that is of no use was named by the scan: once is enough
        known = {one.model.sha256 for one in found} | {*shelf}
        scanned = await asyncio.to_thread(scan)
        new = [
            one for one in scanned if one.path.resolve() in fresh and one.model.sha256 not in known
        ][: max(0, most - len(found))]
        if not new:
            continue
        facts.update(await asyncio.to_thread(read_models, new))
        found += new
        shelf.update((one.model.sha256, one) for one in new)
        log.info("new models are offered: %s", ", ".join(one.model.name for one in new))
        changed()


def _fresh(folder: Path, seen: Iterable[Path]) -> set[Path]:
    """The fetched models in the folder that were not looked at yet."""
    try:
        there = {one.resolve() for one in folder.iterdir() if not one.name.startswith(".")}
    except OSError:
        return set()
    return {one for one in there - {*seen} if fetched_whole(one)}
