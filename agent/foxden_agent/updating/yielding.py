"""The agent's part in an update: it says when its owner is away, and ends when nobody minds.

The agent alone knows whether it draws and whether its owner plays; the service knows what there is
to fetch and to start. They talk through small files in the agent's folder:

    restart-asked    the service's: end when nobody minds; its text says why
    update-waits     the service's: there is something heavy to do, or being done
    update-may       the agent's answer while that one is there: "yes", or "no: " and why. It counts
                     for nothing once it isn't renewed: then the agent is gone, or hangs
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from pathlib import Path
from threading import Event

from foxden_agent.policy.sentences import sentence
from foxden_agent.policy.values import Code, Decision, Reason

log = logging.getLogger(__name__)

ASKED, WAITS, MAY = "restart-asked", "update-waits", "update-may"
EXIT_CODE = 75  # "try again" (EX_TEMPFAIL): start me again, I ended for your sake
_LOOK_SECONDS = 2.0
_QUIET_LOOKS = 5  # in a row: a batch that has just ended may be followed by the next
_FRESH_SECONDS = 10.0  # that the agent's answer holds
_CHECK_SECONDS = 1.0  # between the service's looks at it
_ANSWER_SECONDS = 3 * _LOOK_SECONDS  # for the first one
_SILENT_SECONDS = 3600.0  # without an answer; then only the update may mend the agent that is here

_YES, _NO = "yes", "no: "
_SILENT = "the agent has not said yet whether its owner uses the PC"
_GAME = frozenset({Code.PROGRAM, Code.FULL_SCREEN, Code.FOREIGN_USE, Code.MEMORY_TAKEN})
# Reasons that say nothing of the owner: the card, its heat, our engine.
_NOT_THE_OWNER = frozenset(
    {Code.CARD_GONE, Code.ENGINE_BROKEN, Code.OVER_BUDGET, Code.HOT, Code.WARM}
)


class RestartAsked(Exception):
    """The service may start another version now: this agent holds nothing and disturbs nobody."""


class OwnerCame(Exception):
    """The heavy part of an update waits; the text says for what."""


class Stopped(Exception):
    """The service ends, and so does what it was doing."""


def ask(folder: Path, why: str) -> None:
    """Ask the agent of this folder to end when nobody minds; once more is no more."""
    if (folder / ASKED).exists():
        return
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    (folder / ASKED).write_text(why)


def withdraw(folder: Path) -> None:
    (folder / ASKED).unlink(missing_ok=True)


def nobody_minds(*, busy: bool, decisions: Collection[Decision]) -> bool:
    """Whether an agent may be started anew: nothing is drawn, and no card is its owner's game's.

    A restart reads files and starts processes, which a game would feel; pauses by hand, quiet
    hours or a hot card are no reason to wait. A card's mode would not do: one that is paused by
    hand may be played on too.
    """
    return not busy and not any(reason.code in _GAME for reason in _reasons(decisions))


def why_waits(decisions: Collection[Decision]) -> Reason | None:
    """Why this is no time to download, unpack and install: the owner has his PC, or may have it.
    None where it is lent, or nobody uses it."""
    return next((one for one in _reasons(decisions) if one.code not in _NOT_THE_OWNER), None)


def _reasons(decisions: Collection[Decision]) -> list[Reason]:
    return [reason for decision in decisions for reason in decision.reasons]


async def run(
    folder: Path,
    busy: Callable[[], bool],
    decisions: Callable[[], Collection[Decision]],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Answer the service, until an asked-for restart disturbs nobody. Raises RestartAsked then.

    `decisions`: of all cards, empty before the first reading.
    """
    answer, quiet = _Answer(folder), 0
    while True:
        await sleep(_LOOK_SECONDS)
        answer.give(decisions())
        minds = not nobody_minds(busy=busy(), decisions=decisions())
        quiet = quiet + 1 if (folder / ASKED).exists() and not minds else 0
        if quiet >= _QUIET_LOOKS:
            withdraw(folder)
            raise RestartAsked("another version is ready, and nothing is being drawn")


class _Answer:
    """The agent's file, renewed with each look, and written where the answer is another."""

    def __init__(self, folder: Path) -> None:
        self._waits, self._file = folder / WAITS, folder / MAY
        self._given: Code | str = ""
        with suppress(OSError):  # of the agent before
            self._file.unlink(missing_ok=True)

    def give(self, decisions: Collection[Decision]) -> None:
        with suppress(OSError):  # a full disk: no answer, and the update waits
            if not self._waits.exists():
                self._file.unlink(missing_ok=True)
                self._given = ""
                return
            if not decisions:  # nobody knows yet whether the owner plays
                return
            why = why_waits(decisions)
            code = why.code if why is not None else _YES
            if code == self._given and self._file.exists():
                os.utime(self._file)
                return
            self._file.write_text(f"{_NO}{sentence(why)}" if why is not None else _YES)
            if why is not None:
                log.info("an update waits to be made ready (%s)", sentence(why))
            self._given = code


class Asking:
    """The service's side: whether heavy work may go on. Used on one thread."""

    def __init__(self, folder: Path, stop: Event) -> None:
        self._folder, self._stop = folder, stop
        self._heard = time.monotonic()  # when the agent last said anything
        self._looked = self._fresh = float("-inf")
        self._stamp = -1  # when the answer was written, as the disk says; 0: there was none
        self._why = ""

    def check(self) -> None:
        """May be called as often as one likes; the first answer is waited for. Raises OwnerCame, or
        Stopped."""
        now = time.monotonic()
        until = now + _ANSWER_SECONDS if self._stamp < 0 else now
        if now - self._looked >= _CHECK_SECONDS:
            self._why = self._look(now)
            while self._why == _SILENT and now < until and not self._stop.wait(_CHECK_SECONDS):
                now = time.monotonic()
                self._why = self._look(now)
            self._looked = now
        if self._stop.is_set():
            raise Stopped
        if self._why:
            raise OwnerCame(self._why)

    def wait(self) -> str:
        """After a while, why it waits by now; empty where it may go on. Raises Stopped."""
        self._stop.wait(_CHECK_SECONDS)
        try:
            self.check()
        except OwnerCame as why:
            return str(why)
        return ""

    def close(self) -> None:
        """There is nothing heavy to do any more."""
        with suppress(OSError):
            (self._folder / WAITS).unlink(missing_ok=True)
        self._stamp = -1

    def _look(self, now: float) -> str:
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            (self._folder / WAITS).touch()
        said = self._answer(now)
        if said:
            self._heard = now
        if said == _YES or now - self._heard >= _SILENT_SECONDS:
            return ""
        return said.removeprefix(_NO) or _SILENT

    def _answer(self, now: float) -> str:
        """What the agent says now; empty: nothing. By stamps that change and not by their age: the
        clock of the disk may be another's."""
        file = self._folder / MAY
        try:
            stamp, said = file.stat().st_mtime_ns, file.read_text()
        except OSError:
            stamp, said = 0, ""
        if stamp != self._stamp and self._stamp >= 0:
            self._fresh = now
        self._stamp = stamp
        # Just made, it is empty, and stays so on a full disk: that is no yes.
        told = said == _YES or said.startswith(_NO)
        return said if told and now - self._fresh < _FRESH_SECONDS else ""
