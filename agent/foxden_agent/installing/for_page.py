"""The engine's installation as the owner's page wants it: on the event loop, in its own words."""

from __future__ import annotations

import asyncio
import importlib.util
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from foxden_agent.installing.environment import EngineInstaller, InstallPlan, Progress
from foxden_agent.installing.shell import frozen
from foxden_agent.installing.torch_builds import Refusal
from foxden_agent.installing.uv_run import InstallFailed

PartT = TypeVar("PartT")
ProgressT = TypeVar("ProgressT")


class _Cancelled(Exception):
    """The page does not want it any more."""


class EngineForPage(Generic[PartT, ProgressT]):
    """What the page's first run calls `Installs`.

    `part(name, size, note)` and `progress(doing, done, total)` make what the page shows, with sizes
    in bytes; `cannot(text)` is the error that it understands.
    """

    def __init__(
        self,
        installer: EngineInstaller,
        part: Callable[[str, int, str], PartT],
        progress: Callable[[str, int, int], ProgressT],
        cannot: Callable[[str], Exception],
    ) -> None:
        self._installer = installer
        self._part, self._progress, self._cannot = part, progress, cannot

    def ready(self) -> bool:
        """Whether an engine can be started: then nothing is fetched."""
        if not frozen():
            return importlib.util.find_spec("torch") is not None
        status = self._installer.status()
        return bool(status.python) and not status.broken

    async def plan(self) -> tuple[PartT, ...]:
        """What has to be fetched, with its size. Raises `cannot`."""
        plan = await self._planned()
        notes = [plan.build.reason]
        if not plan.exact:
            notes.append("The size is an estimate.")
        if not plan.build.locked:
            notes.append("Foxden knows no hash of this build of torch: its server's is checked.")
        return (self._part(plan.name, plan.download, " ".join(notes)),)

    async def install(self, tell: Callable[[ProgressT], None]) -> None:
        """Fetch and install it; goes on where it was broken off. Raises `cannot`.

        Where it is cancelled, uv is ended before this returns.
        """
        plan = await self._planned()
        loop, stop = asyncio.get_running_loop(), threading.Event()

        def told(progress: Progress) -> None:
            if stop.is_set():
                raise _Cancelled
            shown = self._progress(progress.text, progress.done, progress.total)
            loop.call_soon_threadsafe(tell, shown)

        working = asyncio.ensure_future(asyncio.to_thread(self._installer.install, plan, told))
        try:
            await asyncio.shield(working)
        except InstallFailed as error:
            raise self._cannot(str(error)) from error
        except asyncio.CancelledError:
            stop.set()
            await asyncio.gather(working, return_exceptions=True)
            raise

    async def _planned(self) -> InstallPlan:
        plan = await asyncio.to_thread(self._installer.plan)
        if isinstance(plan, Refusal):
            raise self._cannot(f"{plan.reason} {plan.advice}")
        return plan
