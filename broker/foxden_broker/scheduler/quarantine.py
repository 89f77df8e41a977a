"""When a card, or a card with one model, is left alone for a while: a circuit breaker. Pure.

After three failures in a row, from two jobs at least (one poisonous request must not close the
whole pool), it is paused; each further time for twice as long. After the pause one batch is a
probe: it closes the breaker or opens it again. A card that refuses images pauses for that kind of
work at once, so that giving and refusing never chase each other.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable
from dataclasses import dataclass, field

FAILURES = 3
PAUSE = 30.0  # seconds, doubled each time
LONGEST = 300.0
REFUSED_PAUSE = 2.0
REFUSED_LONGEST = 300.0


@dataclass(slots=True)
class _Breaker:
    failures: int = 0
    jobs: set[str] = field(default_factory=set)
    opened: int = 0  # times in a row
    until: float = -math.inf  # paused before this
    probing: bool = False  # after a pause: one at a time
    refusals: int = 0


@dataclass
class Quarantine:
    """Breakers of one pool: keys are (card_id,) and (card_id, what)."""

    _breakers: dict[tuple[Hashable, ...], _Breaker] = field(default_factory=dict)
    _by_what: dict[Hashable, set[str]] = field(default_factory=dict)

    def until(self, card_id: str, *parts: Hashable) -> float:
        """Nothing is given before this moment; -inf: no pause."""
        breaker = self._breakers.get((card_id, *parts))
        return breaker.until if breaker else -math.inf

    def probing(self, card_id: str, *parts: Hashable) -> bool:
        """Its pause is over, but it has not shown yet that it works: one batch at a time."""
        breaker = self._breakers.get((card_id, *parts))
        return breaker is not None and breaker.probing

    def cards_kept_from(self, what: Hashable) -> Collection[str]:
        """Cards that this (a model, a need) was paused on, or still is."""
        return self._by_what.get(what, ())

    def failed(self, card_id: str, model: str, job_id: str, now: float) -> bool:
        """An image failed. True: something was paused by it."""
        paused = False
        for key in ((card_id,), (card_id, model)):
            breaker = self._breaker(key)
            breaker.failures += 1
            if len(breaker.jobs) < FAILURES:
                breaker.jobs.add(job_id)
            enough = breaker.failures >= FAILURES and len(breaker.jobs) >= 2
            if now >= breaker.until and (breaker.probing or enough):
                breaker.opened += 1
                breaker.until = now + min(LONGEST, PAUSE * 2 ** min(20, breaker.opened - 1))
                breaker.probing, paused = True, True
        return paused

    def refused(self, card_id: str, what: Hashable, now: float) -> None:
        """The card did not take this kind of work."""
        breaker = self._breaker((card_id, what))
        if now < breaker.until:
            return  # refused together with others
        pause = min(REFUSED_LONGEST, REFUSED_PAUSE * 2 ** min(20, breaker.refusals))
        breaker.refusals += 1
        breaker.until = now + pause

    def done(self, card_id: str, *whats: Hashable) -> None:
        """It works: all breakers that this shows to be wrong are closed."""
        self._drop((card_id,))
        for what in whats:
            self._drop((card_id, what))

    def forget(self, card_id: str) -> None:
        for key in [key for key in self._breakers if key[0] == card_id]:
            self._drop(key)

    def _breaker(self, key: tuple[Hashable, ...]) -> _Breaker:
        if key not in self._breakers:
            self._breakers[key] = _Breaker()
            if len(key) > 1:
                self._by_what.setdefault(key[1], set()).add(str(key[0]))
        return self._breakers[key]

    def _drop(self, key: tuple[Hashable, ...]) -> None:
        if self._breakers.pop(key, None) is not None and len(key) > 1:
            cards = self._by_what[key[1]]
            cards.discard(str(key[0]))
            if not cards:
                del self._by_what[key[1]]
