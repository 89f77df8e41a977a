"""Whose turn a card is, where several brokers could give it work. Pure: time is passed in.

The owner's own broker always comes first: while it has images here, and a moment longer, nobody
else gets the card, and what others had begun is given back. Pools take turns: one that has images
here keeps the card until they are done, for a turn at most if others wait; then the others have a
moment in which it is theirs to take.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

OWNER_FIRST = "its owner's own pictures come first"
ANOTHER_POOL = "another pool's pictures are drawn on it"
ANOTHERS_TURN = "it is another pool's turn"


@dataclass
class _Link:
    own: bool
    held: int = 0  # images


class CardArbiter:
    """One card and the links that serve it. Times are monotonic seconds."""

    def __init__(self, *, hold: float = 2.0, turn: float = 60.0, window: float = 5.0) -> None:
        """`hold`: the owner keeps the card for so long after the last of his images; `turn`: a
        pool's, at most, while others wait; `window`: for the others to take it after that."""
        self._hold, self._turn_lasts, self._window = hold, turn, window
        self._links: dict[str, _Link] = {}
        self._own_until = -math.inf
        self._turn = ""  # the pool that has the card, or had it last
        self._turn_since = 0.0
        self._free_since = -math.inf

    def add(self, link: str, *, own: bool) -> None:
        self._links[link] = _Link(own)

    def remove(self, link: str, now: float) -> None:
        """It serves this card no more; what it held is gone with it."""
        held = self._links.get(link, _Link(own=False)).held
        self.ended(link, held, now)
        self._links.pop(link, None)
        if self._turn == link:
            self._turn = ""

    def took(self, link: str, images: int, now: float) -> None:
        """So many images of this link came to the card."""
        one = self._links[link]
        one.held += images
        if not one.own and self._turn != link:
            self._turn, self._turn_since = link, now
        elif not one.own and self._is_over(now) and one.held == images:
            self._turn_since = now  # nobody took it while it was free

    def ended(self, link: str, images: int, now: float) -> None:
        """So many of them are drawn, given back or gone."""
        one = self._links.get(link)
        if one is None or images <= 0:
            return
        one.held = max(0, one.held - images)
        if one.own and one.held == 0:
            self._own_until = now + self._hold
        elif not one.own and one.held == 0:
            self._free_since = now

    def closed(self, link: str, now: float) -> str:
        """Why this link may give the card nothing now; empty where it may."""
        one = self._links[link]
        if one.own:
            return ""
        if self._owner_has_it(now):
            return OWNER_FIRST
        if any(other.held for name, other in self._links.items() if name != link):
            return ANOTHER_POOL
        resting = one.held > 0 or now < self._free_since + self._window
        return ANOTHERS_TURN if self._turn == link and self._is_over(now) and resting else ""

    def to_give_back(self, now: float) -> frozenset[str]:
        """The links whose images have to leave the card."""
        if not self._owner_has_it(now):
            return frozenset()
        return frozenset(name for name, one in self._links.items() if one.held and not one.own)

    def wake_at(self, now: float) -> float:
        """When time alone changes something next; infinity: not before something happens."""
        moments = (
            self._own_until,
            self._turn_since + self._turn_lasts if self._turn else -math.inf,
            self._free_since + self._window,
        )
        return min((moment for moment in moments if moment > now), default=math.inf)

    def _owner_has_it(self, now: float) -> bool:
        return now < self._own_until or any(one.own and one.held for one in self._links.values())

    def _is_over(self, now: float) -> bool:
        """Whether the turn has lasted long enough, where there are others to take the next."""
        others = any(not one.own and name != self._turn for name, one in self._links.items())
        return others and now >= self._turn_since + self._turn_lasts
