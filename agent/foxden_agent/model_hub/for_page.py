"""The models to begin with as the owner's page wants them: on the event loop, in its own words."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

from foxden_agent.installing.environment import this_machine
from foxden_agent.installing.torch_builds import Machine
from foxden_agent.model_hub import child
from foxden_agent.model_hub.child import FetchFailed, ModelPlan
from foxden_agent.model_hub.folder import has_models
from foxden_agent.model_hub.starters import Starter, facts_of, starters, suggested
from foxden_agent.page.plugs import CannotFetch, Offer, Progress


class ModelsForPage:
    """What the page's first run calls `Models`."""

    def __init__(
        self, home: Path, folder: Path, machine: Callable[[], Machine] = this_machine
    ) -> None:
        """`folder`: the model folder."""
        self._home = home
        self._folder = folder
        self._machine = machine
        self._planned: dict[str, tuple[Starter, ModelPlan]] = {}

    def present(self) -> bool:
        """Whether the owner has models of his own there."""
        return has_models(self._folder)

    async def offers(self) -> tuple[Offer, ...]:
        """What the hub has of the list now, the best for this PC first. Raises CannotFetch."""
        cards = (await asyncio.to_thread(self._machine)).cards
        listed = suggested(starters(), max((card.memory_total for card in cards), default=0))
        try:
            plans = await child.plans(self._home, [one.repo for one, _ in listed])
        except FetchFailed as error:
            raise CannotFetch(str(error)) from error
        self._planned = {
            one.repo: (one, plan)
            for one, _ in listed
            if isinstance(plan := plans[one.repo], ModelPlan)
        }
        if not self._planned:
            raise CannotFetch(str(next(iter(plans.values()))))
        return tuple(_offer(one, fits, plans) for one, fits in listed)

    async def fetch(self, offer_id: str, tell: Callable[[Progress], None]) -> None:
        """Fetch one of them as it was shown. Raises CannotFetch."""
        starter, plan = self._planned[offer_id]
        facts = facts_of(starter, plan.licence)

        def told(progress: child.Progress) -> None:
            tell(Progress(progress.doing, progress.done, progress.total))

        try:
            await child.fetch(self._home, plan, self._folder, facts, told)
        except FetchFailed as error:
            raise CannotFetch(str(error)) from error


def _offer(one: Starter, fits: bool, plans: Mapping[str, ModelPlan | FetchFailed]) -> Offer:
    plan = plans[one.repo]
    size, problem = (plan.size, "") if isinstance(plan, ModelPlan) else (0, str(plan))
    return Offer(
        *(one.repo, one.title, one.good_for, one.licence),
        memory=one.memory,
        fits=fits,
        size=size,
        problem=problem,
    )
