"""The agent's part in an update: it ends when the service asks for it and nobody minds.

The service writes a small file, the agent looks at it. The agent alone knows whether it draws and
whether its owner plays; the service knows what there is to start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path

from foxden_proto.v1.pool_pb2 import MODE_GAMING, Mode

ASKED = "restart-asked"  # in the agent's folder; its text says why
EXIT_CODE = 75  # "try again" (EX_TEMPFAIL): start me again, I ended for your sake
_LOOK_SECONDS = 2.0
_QUIET_LOOKS = 5  # in a row: a batch that has just ended may be followed by the next


class RestartAsked(Exception):
    """The service may start another version now: this agent holds nothing and disturbs nobody."""


def ask(folder: Path, why: str) -> None:
    """Ask the agent of this folder to end when nobody minds."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    (folder / ASKED).write_text(why)


def withdraw(folder: Path) -> None:
    (folder / ASKED).unlink(missing_ok=True)


def nobody_minds(*, busy: bool, modes: Collection[Mode.ValueType]) -> bool:
    """Whether an agent may be started anew: nothing is drawn, and no card is its owner's game's.

    A restart reads files and starts processes, which a game would feel; pauses by hand, quiet
    hours or a hot card are no reason to wait.
    """
    return not busy and MODE_GAMING not in modes


async def run(
    folder: Path,
    minds: Callable[[], bool],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Look until an asked-for restart disturbs nobody. Raises RestartAsked then."""
    quiet = 0
    while True:
        await sleep(_LOOK_SECONDS)
        quiet = quiet + 1 if (folder / ASKED).exists() and not minds() else 0
        if quiet >= _QUIET_LOOKS:
            withdraw(folder)
            raise RestartAsked("another version is ready, and nothing is being drawn")
