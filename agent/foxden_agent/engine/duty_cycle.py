"""Rests between steps, so that a card stays cool or leaves its owner some of it."""

from __future__ import annotations

import time
from collections.abc import Callable

Share = Callable[[], float]  # of the time that is worked, above 0 and at most 1; may change

_SLICE_SECONDS = 0.02  # how late a stop or a new share can be noticed
_SIGN_OF_LIFE_SECONDS = 1.0


def always_working() -> float:
    """The share of an engine that nobody holds back."""
    return 1.0


class DutyCycle:
    """Rests after each piece of work: at share 0.5 as long as that took, at 0.25 three times.

    `clock` gives seconds; `sleep` takes them.
    """

    def __init__(
        self,
        share: Share = always_working,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._share = share
        self._clock = clock
        self._sleep = sleep
        self._working_since = clock()

    def rest(self, look: Callable[[], None], alive: Callable[[], None]) -> None:
        """Rest for the work since the last rest.

        `look` is called every 0.02 s and may raise to end it; `alive` is called about once a
        second, where a rest lasts that long. A share that changes meanwhile counts at once.
        """
        begun = self._clock()
        worked = begun - self._working_since
        next_sign = begun + _SIGN_OF_LIFE_SECONDS
        while (left := worked * (1 / self._share() - 1) - (self._clock() - begun)) > 0:
            self._sleep(min(left, _SLICE_SECONDS))
            look()
            if self._clock() >= next_sign:
                next_sign += _SIGN_OF_LIFE_SECONDS
                alive()
        self._working_since = self._clock()
