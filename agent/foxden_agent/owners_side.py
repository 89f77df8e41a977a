"""What runs beside the agent for its owner: page and tray. The agent needs neither of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from foxden_agent import clock
from foxden_agent.doctor.facts import gather
from foxden_agent.doctor.judging import Finding, judge
from foxden_agent.installing.environment import EngineInstaller, engine_python
from foxden_agent.installing.for_page import EngineForPage
from foxden_agent.model_hub.for_page import ModelsForPage
from foxden_agent.page import first_picture
from foxden_agent.page.first_run import FirstRun
from foxden_agent.page.plugs import Installs, Joins, Membership
from foxden_agent.page.pool_joins import PoolJoins
from foxden_agent.page.shown import Shown
from foxden_agent.tray import starting
from foxden_agent.watching.machine import desktop_of_this_system
from foxden_proto.programs import until_stopped
from foxden_proto.timers import Timers

log = logging.getLogger(__name__)

_LOOK = 2.0  # seconds between two looks at what was done by command


@dataclass(frozen=True)
class OwnersSide:
    """What of it is wanted."""

    home: Path  # as AgentSettings has it
    page: bool = True  # whether the owner has a page on 127.0.0.1
    page_port: int = 7481  # of it; any free one where that is taken
    tray: bool = True  # whether he has an icon in the tray, where there is one
    supervised: bool = False  # another program starts the agent again: nothing here can end it
    device: str = "auto"  # that the first run draws its test picture with
    models: Path | None = None  # the model folder, as AgentSettings has it

    @property
    def folder(self) -> Path:
        return self.home / "agent"

    @property
    def models_folder(self) -> Path:
        return self.models or self.home / "models"


def plugs(folder: Path) -> tuple[Joins, Installs]:
    """Who joins and who installs the engine in this installation: the one place that says so."""
    return PoolJoins(folder), EngineForPage(EngineInstaller(folder.parent))


@asynccontextmanager
async def beside_the_agent(side: OwnersSide) -> AsyncIterator[Shown]:
    """Page and tray, as far as there can be any, for as long as the context lasts. The caller holds
    the installation. Fill in what is yielded."""
    shown = Shown(side.folder, version("foxden"), may_quit=not side.supervised)
    async with AsyncExitStack() as stack:
        if side.page and await _page(shown, side.page_port, stack):
            logging.getLogger().addHandler(shown.log)
            stack.callback(logging.getLogger().removeHandler, shown.log)
            if side.tray:
                tray = asyncio.create_task(starting.run(side.home), name="tray")
                stack.push_async_callback(_ended, tray)
        yield shown


async def _page(shown: Shown, port: int, stack: AsyncExitStack) -> bool:
    try:
        from foxden_agent.page.server import served  # brings starlette and uvicorn

        await stack.enter_async_context(served(shown, port))
        shown.served = True
    except ImportError as error:
        log.warning(
            "the owner has no page: %s is not installed; `pip install 'foxden[agent]'` brings it",
            error.name,
        )
        return False
    except OSError as error:
        log.warning("the owner has no page (%s); the agent works without", error.strerror or error)
        return False
    return True


async def first_run(side: OwnersSide, shown: Shown, timers: Timers) -> Membership | None:
    """Wait until the owner has joined on his page and gone online, or somebody has joined this PC
    and installed its engine by command. None: told to stop instead."""
    joins, installs = plugs(side.folder)
    refused = joins.memberships() if shown.problem else ()
    models = ModelsForPage(side.home, side.models_folder)
    run = FirstRun(joins, installs, models, _checks(side), _draws(side, timers), refused)
    shown.first_run = run
    if shown.problem:
        run.say(shown.problem)
    log.info("this installation is not ready yet: `foxden page` opens its first run")
    desktop = desktop_of_this_system()
    never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    stopped = asyncio.create_task(
        until_stopped(never, supervised=side.supervised, also=shown.stop), name="until stopped"
    )
    try:
        both: set[asyncio.Future[Any]] = {run.membership, stopped}
        while not any(one.done() for one in both):
            await asyncio.wait(both, timeout=_LOOK, return_when=asyncio.FIRST_COMPLETED)
            if not run.membership.done():
                screen = await asyncio.to_thread(desktop.look, clock.now())
                run.notice(in_use=bool(screen.full_screen))
        return None if stopped.done() else run.membership.result()
    finally:
        await run.close()
        await _ended(stopped)


def _checks(side: OwnersSide) -> Callable[[Membership], Awaitable[Sequence[Finding]]]:
    async def check(membership: Membership) -> Sequence[Finding]:
        facts = await asyncio.to_thread(gather, side.home, side.models_folder, [membership.broker])
        return [one for one in judge(facts) if one.subject != "agent"]

    return check


def _draws(side: OwnersSide, timers: Timers) -> Callable[[first_picture.Told], Awaitable[bytes]]:
    async def draw(tell: first_picture.Told) -> bytes:
        return await first_picture.draw(side.device, timers, tell, engine_python(side.home))

    return draw


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
