"""What the plan of a deep backlog allots to cards (see backlog.py), and whether it still holds.

Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from foxden_broker.scheduler.settings import Settings


class Allotted:
    """Images by card and model that cards should take next."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.by_card: dict[str, dict[str, int]] = {}
        self.at = -math.inf
        self.images = 0  # that are still allotted
        self.asked_at = -math.inf
        self.unanswered = 0  # questions since the last answer
        self._bettering = False
        self._planned = 0  # images of the last plan that was made anew
        self._came = 0  # images of new jobs since

    def asked(self, now: float, *, bettering: bool) -> None:
        """`bettering`: the question is about what is allotted; no new plan is wanted."""
        self.asked_at = now
        self._bettering = bettering
        self.unanswered += 1

    def came(self, images: int) -> None:
        """So many images of a new job are in the queue."""
        self._came += images

    def nothing_waits(self) -> None:
        """What was allotted and is left was cancelled, or done by others."""
        self.by_card = {}
        self.images = self._planned = 0

    def use(self, allotments: Mapping[str, Mapping[str, int]], now: float) -> None:
        """The answer to what was asked last."""
        self.by_card = {
            card_id: {model: count for model, count in models.items() if count > 0}
            for card_id, models in allotments.items()
        }
        self.images = sum(sum(models.values()) for models in self.by_card.values())
        self.at = now
        self.unanswered = 0
        if not self._bettering:
            self._planned, self._came = self.images, 0
        self._bettering = False

    def of(self, card_id: str) -> Mapping[str, int]:
        return self.by_card.get(card_id, {})

    def taken(self, card_id: str, model: str, images: int) -> None:
        allotted = self.by_card.get(card_id)
        if allotted is not None and model in allotted:
            taken = min(images, allotted[model])
            self.images -= taken
            allotted[model] -= taken
            if allotted[model] <= 0:
                del allotted[model]

    def forget(self, card_id: str) -> None:
        self.images -= sum(self.by_card.pop(card_id, {}).values())

    def fresh(self, now: float) -> bool:
        return now - self.at < self._settings.deep_stale

    def covers(self, now: float, waiting: int) -> bool:
        """Whether nearly all that waits is allotted: a batch of work that nothing was added to."""
        settings = self._settings
        answered = self.unanswered <= settings.follow_unanswered
        enough = self.images >= settings.follow_covered * max(1, waiting)
        few_came = self._planned >= settings.follow_covered * (self._planned + self._came)
        return self.fresh(now) and answered and enough and few_came

    def wanted(self, now: float, backlog: float, waiting: int) -> bool:
        """Whether it is time to ask (again). Not as long as the last answer covers most of a deep
        queue: every new plan is another one, and costs switches. At the end of a batch of work the
        plan is bettered often, for the last images decide when all are done."""
        settings = self._settings
        if backlog <= settings.deep_after:
            return self.covers(now, waiting) and now - self.asked_at >= settings.end_every
        if now - self.asked_at < settings.deep_every:
            return False
        return self.images < settings.deep_covered * waiting or not self.fresh(now)
