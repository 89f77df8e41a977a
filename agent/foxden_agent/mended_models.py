"""Models whose files changed while the agent ran, and how they come back to be offered.

A worker takes such a model off the shelf (worker.py): its images wait, or go to another card. Here
its files are looked at now and then, and it is put back once they have the bytes that the pool was
told of. Other bytes are another model, which the agent reads at its start.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from pathlib import Path

from foxden_agent.model_files import FileStamp
from foxden_agent.models import LocalModel

log = logging.getLogger(__name__)

Shelf = dict[str, LocalModel]  # what is offered, by sha256


async def run(
    found: Iterable[LocalModel],
    shelf: Shelf,
    scan: Callable[[], Iterable[LocalModel]],
    changed: Callable[[], None],
    every: float,
) -> None:
    """Look each `every` seconds, until cancelled, at those of `found` that are not on the shelf.

    `scan` reads the model folder anew; it may take long, and runs on a thread. `changed` is called
    when something was put back.
    """
    last: list[FileStamp | str] = []
    while True:
        await asyncio.sleep(every)
        away = [one for one in found if one.model.sha256 not in shelf]
        if not away:
            continue
        stamps = await asyncio.to_thread(_stamps, away)
        if stamps == last:
            continue
        # Somebody works on the files. A copy of the right ones has another time at least, so that
        # only their bytes tell.
        last = stamps
        back = same_bytes(away, await asyncio.to_thread(scan))
        for one in back:
            shelf[one.model.sha256] = one
            log.info("the files of model %s are whole again: it is offered again", one.model.name)
        if back:
            changed()


def same_bytes(away: Iterable[LocalModel], scanned: Iterable[LocalModel]) -> list[LocalModel]:
    """Of what was scanned, the models that are away, by their bytes. Pure."""
    wanted = {one.model.sha256 for one in away}
    return [one for one in scanned if one.model.sha256 in wanted]


def _stamps(models: Iterable[LocalModel]) -> list[FileStamp | str]:
    return [_stamp(file.path) for one in models for file in one.files]


def _stamp(path: Path) -> FileStamp | str:
    try:
        return FileStamp.of(path)
    except OSError as error:
        return str(error)
