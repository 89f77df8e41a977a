"""From a program that was just installed to a card that draws: six steps, in order.

    join -> check -> engine -> model -> picture -> online

What a step needs of the outside is passed in; a step that fails says why, and can be done again.
What was done by command or by an installer meanwhile is noticed: then nobody has to come here.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from foxden_agent.backoff import delays
from foxden_agent.doctor.judging import Finding, Level, worst
from foxden_agent.engine_errors import EngineFailed
from foxden_agent.page.plugs import (
    CannotFetch,
    CannotInstall,
    CannotJoin,
    Installs,
    Joins,
    Membership,
    Models,
    Part,
    Progress,
)

log = logging.getLogger(__name__)

STEPS = ("join", "check", "engine", "model", "picture", "online")
_LINK_CHARACTERS = 4000
_FIRST_PAUSE, _LONGEST_PAUSE = 60.0, 1800.0  # seconds before an unasked fetch is tried again

Check = Callable[[Membership], Awaitable[Sequence[Finding]]]
Draw = Callable[[Callable[[int, int], None]], Awaitable[bytes]]


class WrongStep(Exception):
    """That cannot be done now; the text says why."""


@dataclass
class Step:
    """How one step is: waiting, ready (for the owner to begin), busy, failed, done or skipped."""

    state: str = "waiting"
    problem: str = ""  # why it failed, and what to do
    told: dict[str, Any] = field(default_factory=dict)  # what there is to show of it


class FirstRun:
    """`membership` is set once the owner has gone online with it: then the agent starts."""

    def __init__(
        self,
        joins: Joins,
        installs: Installs,
        models: Models,
        check: Check,
        draw: Draw,
        refused: Collection[Membership] = (),
    ) -> None:
        """`refused`: what was joined before, and is wanted no more."""
        self._joins = joins
        self._installs = installs
        self._models = models
        self._check = check
        self._draw = draw
        self._refused = refused
        self._joined: Membership | None = None
        self._doing: asyncio.Task[None] | None = None
        self._unasked = False  # the engine is fetched, and nobody has pressed a button
        self._again_at = 0.0  # by the loop's clock: when it may be tried again without one
        self._pauses = delays(_FIRST_PAUSE, _LONGEST_PAUSE, random.Random())
        self._steps = {name: Step() for name in STEPS}
        self._steps["join"].state = "ready"
        self.picture = b""  # the test picture, once there is one
        loop = asyncio.get_running_loop()
        self.membership: asyncio.Future[Membership] = loop.create_future()
        self.notice()

    def notice(self, *, in_use: bool = False) -> None:
        """Go on with what was done outside of the page: a pool joined, the engine installed. Who
        did that has agreed to go online with it, unless he was just joining here. `in_use`: the
        owner plays; what nobody has asked for here waits until he does not."""
        if any(step.state == "busy" for step in self._steps.values()):
            if in_use and self._unasked and self._doing is not None:
                self._doing.cancel()
            return
        join, engine = self._steps["join"], self._steps["engine"]
        new = self._joined is None
        if self._joined is None:
            fresh = [one for one in self._joins.memberships() if one not in self._refused]
            if not fresh:
                return
            self._joined = fresh[0]
            join.state, join.problem, join.told = "skipped", "", {}
        by_command = join.state == "skipped"
        if not self._installs.ready():
            if new:
                self._start(self._steps["check"], self._look_at_hardware())
            elif by_command and self._joined.fetch_engine and not in_use:
                self._fetch_unasked()
        elif by_command:
            for step in self._steps.values():
                if step.state != "done":
                    step.state, step.problem = "skipped", ""
            self._steps["online"].state = "ready"
            self.online()
        elif engine.state in ("ready", "failed"):
            self._start(engine, self._look_at_engine())

    def _fetch_unasked(self) -> None:
        check, engine = self._steps["check"], self._steps["engine"]
        if check.state == "failed":
            self.go_on_anyway()
        elif engine.state == "ready" or (
            engine.state == "failed" and asyncio.get_running_loop().time() >= self._again_at
        ):
            self._unasked = True
            self.install()

    def state(self) -> list[dict[str, Any]]:
        """Every step, as the page shows it."""
        return [{"step": name, **asdict(step)} for name, step in self._steps.items()]

    async def look(self, link: str) -> None:
        """Ask the broker of a join link for its terms. Raises WrongStep."""
        step = self._begin("join")
        step.told = {}
        if not link.strip():  # he thinks again
            step.state = "ready"
            return
        await self._said(self._look(link[:_LINK_CHARACTERS].strip()))

    async def _look(self, link: str) -> None:
        step = self._steps["join"]
        try:
            terms = await self._joins.look(link)
        except CannotJoin as error:
            step.state, step.problem = "failed", str(error)
            return
        step.state, step.told = "ready", {"terms": asdict(terms)}

    def join(self, link: str, name: str) -> None:
        """Join; the hardware check follows by itself. Raises WrongStep."""
        terms = self._steps["join"].told
        if "terms" not in terms:
            raise WrongStep("Look at the link's terms first.")
        step = self._begin("join")
        self._start(step, self._join(link[:_LINK_CHARACTERS].strip(), name.strip()))

    def check(self) -> None:
        """Look at the hardware (again). Raises WrongStep."""
        self._start(self._begin("check"), self._look_at_hardware())

    def go_on_anyway(self) -> None:
        """Leave the check's problems as they are. Raises WrongStep."""
        step = self._begin("check")
        step.state = "done"
        self._start(self._steps["engine"], self._look_at_engine())

    def install(self) -> None:
        """Fetch and install what was shown. Raises WrongStep."""
        step = self._begin("engine")
        again = not step.told.get("parts")
        self._start(step, self._look_at_engine() if again else self._install())

    def fetch(self, offer_id: str) -> None:
        """Fetch one of the models that were shown; without any shown, look for them again. Raises
        WrongStep."""
        offers = self._steps["model"].told.get("offers", [])
        good = [one["id"] for one in offers if not one["problem"]]
        if offers and offer_id not in good:
            raise WrongStep("Choose one of the models that are shown.")
        step = self._begin("model")
        self._start(step, self._fetch(offer_id) if offers else self._look_at_models())

    def no_model(self) -> None:
        """Go on with the demo model alone. Raises WrongStep."""
        self._begin("model").state = "skipped"
        self._start(self._steps["picture"], self._draw_picture())

    def draw(self) -> None:
        """Draw the test picture (again). Raises WrongStep."""
        self._start(self._begin("picture"), self._draw_picture())

    def online(self) -> None:
        """Start the agent. Raises WrongStep."""
        step = self._begin("online")
        assert self._joined is not None
        step.state = "busy"
        if not self.membership.done():
            self.membership.set_result(self._joined)

    def say(self, problem: str) -> None:
        """Why it has to be gone through (again)."""
        self._steps["join"].problem = problem

    def went_online(self) -> None:
        """The broker has said welcome."""
        self._steps["online"].state = "done"

    async def close(self) -> None:
        """Break off what is being done."""
        if self._doing is not None:
            self._doing.cancel()
            await asyncio.gather(self._doing, return_exceptions=True)

    def _begin(self, name: str) -> Step:
        step = self._steps[name]
        if step.state == "busy":
            raise WrongStep("That is being done already.")
        if step.state not in ("ready", "failed"):
            raise WrongStep("It is not the turn of that.")
        step.state, step.problem = "busy", ""
        return step

    def _start(self, step: Step, doing: Coroutine[Any, Any, None]) -> None:
        step.state = "busy"
        self._doing = asyncio.create_task(self._said(doing), name="first run")

    async def _said(self, doing: Coroutine[Any, Any, None]) -> None:
        """What nobody foresaw is shown too: a step that stays busy for ever would be the worst."""
        try:
            await doing
        except Exception as error:
            log.exception("the first run met an error that nobody foresaw")
            for step in self._steps.values():
                if step.state == "busy":
                    step.state = "failed"
                    name = type(error).__name__
                    step.problem = f"Something unforeseen happened ({name}): see the log."

    async def _join(self, link: str, name: str) -> None:
        step = self._steps["join"]
        try:
            self._joined = await self._joins.join(link, name)
        except CannotJoin as error:
            step.state, step.problem = "failed", str(error)
            return
        step.state = "done"
        self._steps["check"].state = "busy"
        await self._look_at_hardware()

    async def _look_at_hardware(self) -> None:
        step = self._steps["check"]
        assert self._joined is not None
        found = await self._check(self._joined)
        if not self._installs.ready():  # that there is no engine yet is what the next step is for
            found = [one for one in found if one.subject != "engine"]
        step.told = {"findings": [{**asdict(one), "level": one.level.value} for one in found]}
        if worst(found) is Level.PROBLEM:
            step.state = "failed"
            return
        step.state = "done"
        await self._look_at_engine()

    async def _look_at_engine(self) -> None:
        step = self._steps["engine"]
        if self._installs.ready():
            step.state = "skipped"
            await self._look_at_models()
            return
        try:
            parts = await self._installs.plan()
        except CannotInstall as error:
            self._not_installed(error)
            return
        step.state, step.told = "ready", {"parts": _plain(parts)}

    async def _install(self) -> None:
        step = self._steps["engine"]

        def tell(progress: Progress) -> None:
            step.told = {**step.told, "progress": asdict(progress)}

        try:
            await self._installs.install(tell)
        except CannotInstall as error:
            self._not_installed(error)
            return
        except asyncio.CancelledError:
            step.state, self._unasked = "ready", False
            raise
        step.state = "done"
        if self._unasked:  # nobody looks at a picture: `notice` goes online
            return
        await self._look_at_models()

    def _not_installed(self, error: CannotInstall) -> None:
        self._unasked = False
        step = self._steps["engine"]
        step.state, step.problem = "failed", str(error)
        self._again_at = asyncio.get_running_loop().time() + next(self._pauses)

    async def _look_at_models(self) -> None:
        step = self._steps["model"]
        step.state, step.problem, step.told = "busy", "", {}
        here = self._models.present()
        # Where it was joined by command, nobody need sit here.
        if here or self._steps["join"].state == "skipped":
            step.state, step.told = "skipped", {"here": here}
            await self._draw_picture()
            return
        try:
            offers = await self._models.offers()
        except CannotFetch as error:
            step.state, step.problem = "failed", str(error)
            return
        step.state, step.told = "ready", {"offers": [asdict(one) for one in offers]}

    async def _fetch(self, offer_id: str) -> None:
        step = self._steps["model"]
        offers = step.told["offers"]

        def tell(progress: Progress) -> None:
            step.told = {"offers": offers, "progress": asdict(progress)}

        try:
            await self._models.fetch(offer_id, tell)
        except CannotFetch as error:
            step.state, step.problem, step.told = "failed", str(error), {"offers": offers}
            return
        title = next(one["title"] for one in offers if one["id"] == offer_id)
        step.state, step.told = "done", {"fetched": title}
        await self._draw_picture()

    async def _draw_picture(self) -> None:
        step = self._steps["picture"]
        step.state, step.problem = "busy", ""

        def tell(done: int, of: int) -> None:
            step.told = {"step": done, "steps": of}

        try:
            self.picture = await self._draw(tell)
        except EngineFailed as error:
            step.state = "failed"
            step.problem = f"The test picture failed: {error}."
            return
        step.state = "done"
        self._steps["online"].state = "ready"
        if self._steps["join"].state == "skipped":
            self.online()  # it was agreed to when it was joined, by command or installer


def _plain(parts: Sequence[Part]) -> list[dict[str, Any]]:
    return [asdict(part) for part in parts]
