"""The engine's installation as the owner's page wants it: on the event loop, in its own words."""

from __future__ import annotations

import asyncio
import importlib.util
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from foxden_agent.installing import environment
from foxden_agent.installing.environment import EngineInstaller, InstallPlan
from foxden_agent.installing.shell import frozen
from foxden_agent.installing.torch_builds import Refusal
from foxden_agent.installing.uv_run import InstallFailed
from foxden_agent.page.plugs import CannotInstall, Part, Progress
from foxden_agent.updating import gently


class _Cancelled(Exception):
    """The page does not want it any more."""


class EngineForPage:
    """What the page's first run calls `Installs`."""

    def __init__(self, installer: EngineInstaller) -> None:
        self._installer = installer

    def ready(self) -> bool:
        """Whether an engine can be started: then nothing is fetched."""
        if not frozen():
            return importlib.util.find_spec("torch") is not None
        return self._installer.ready()

    async def plan(self) -> tuple[Part, ...]:
        """What has to be fetched, with its size. Raises CannotInstall."""
        plan = await self._planned()
        notes = [plan.build.reason]
        if not plan.exact:
            notes.append("The size is an estimate.")
        if not plan.build.locked:
            notes.append("Foxden knows no hash of this build of torch: its server's is checked.")
        return (Part(plan.name, plan.download, " ".join(notes)),)

    async def install(self, tell: Callable[[Progress], None]) -> None:
        """Fetch and install it; goes on where it was broken off. Raises CannotInstall.

        At the lowest priority: whoever uses the PC meanwhile is not to feel it. Where it is
        cancelled, uv is ended before this returns.
        """
        plan = await self._planned()
        loop, stop = asyncio.get_running_loop(), threading.Event()

        def told(progress: environment.Progress) -> None:
            if stop.is_set():
                raise _Cancelled
            shown = Progress(progress.text, progress.done, progress.total)
            loop.call_soon_threadsafe(tell, shown)

        def install() -> None:
            gently.this_thread()
            self._installer.install(plan, told)

        # A thread of its own: what gives way once does so for good.
        thread = ThreadPoolExecutor(1, "engine's installation")
        working = loop.run_in_executor(thread, install)
        try:
            await asyncio.shield(working)
        except InstallFailed as error:
            raise CannotInstall(str(error)) from error
        except asyncio.CancelledError:
            stop.set()
            await asyncio.gather(working, return_exceptions=True)
            raise
        finally:
            thread.shutdown(wait=False)

    async def _planned(self) -> InstallPlan:
        plan = await asyncio.to_thread(self._installer.plan)
        if isinstance(plan, Refusal):
            raise CannotInstall(f"{plan.reason} {plan.advice}")
        return plan
