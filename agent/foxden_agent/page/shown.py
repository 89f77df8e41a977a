"""What there is to show, over all of the agent's life: before it has joined, while it starts, while
it runs, and after it could not."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from foxden_agent.joining.pools import pools
from foxden_agent.page.first_run import FirstRun
from foxden_agent.page.log_tail import LogTail
from foxden_agent.page.seen import Seen
from foxden_agent.page.status import status


@dataclass
class Shown:
    """Filled in by whoever runs the agent; read by the page."""

    folder: Path  # the agent's, with the owner's files
    version: str
    log: LogTail = field(default_factory=LogTail)
    broker: str = ""  # where it is, for people
    first_run: FirstRun | None = None
    seen: Seen | None = None  # a running agent
    problem: str = ""  # why there is none, where it died
    served: bool = False  # whether there is a page at all
    may_quit: bool = True  # nobody would start it again
    stop: asyncio.Event = field(default_factory=asyncio.Event)  # the owner wants it to end

    @property
    def phase(self) -> str:
        """first_run, starting or running."""
        if self.seen is not None:
            return "running"
        if self.first_run is not None and not self.first_run.membership.done():
            return "first_run"
        return "starting"

    def status(self, language: str) -> dict[str, Any]:
        """What the page and the tray ask for every second."""
        told: dict[str, Any] = {
            "phase": self.phase,
            "version": self.version,
            "broker": self.broker,
            "problem": self.problem,
            "may_quit": self.may_quit,
        }
        if self.seen is not None:
            told |= status(self.seen, language)
            told["pools"] = [
                {"title": pool.title, "state": pool.state, "reason": pool.state_reason}
                for pool in pools(self.folder)
                if pool.enrolled
            ]
        if self.first_run is not None:
            told["first_run"] = self.first_run.state()
        return told

    def decide_again(self) -> None:
        """The owner's files are others now: follow them without waiting for a reading."""
        if self.seen is not None:
            self.seen.owner.again()
