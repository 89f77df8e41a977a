"""When an engine is replaced, and when its card is suspected to be broken. Pure: time is passed in.

A CUDA error sticks to its process: from then on every batch ends with one, and only a new process
helps. Where new ones help nothing either, the card is at fault, or its driver; but so may be what
it is asked to draw. So a card is only suspected here: a test picture decides (card_engine.py).
"""

from __future__ import annotations

from collections import deque

_IN_A_ROW = 2  # answers that nobody planned for, or out of memory, until the engine is replaced
_REPLACEMENTS = 3  # engines lost within the window until the card is suspected


class EngineHealth:
    """Counts how the batches of one card's engine end. `window` and `now` are seconds."""

    def __init__(self, window: float) -> None:
        self._window = window
        self._in_a_row = 0
        self._lost: deque[float] = deque(maxlen=_REPLACEMENTS)

    def drew(self) -> None:
        """A batch ended as it should."""
        self._in_a_row = 0

    def answered_badly(self) -> bool:
        """It lives, but an error that it never foresaw or a lack of memory ended the batch.

        True: replace it.
        """
        self._in_a_row += 1
        return self._in_a_row >= _IN_A_ROW

    def replaced(self, now: float, *, counts: bool = True) -> bool:
        """It died, fell silent or was killed. True: the card itself is under suspicion.

        `counts` is False where requests explain it, as a lack of memory does.
        """
        self._in_a_row = 0
        if counts:
            self._lost.append(now)
        return len(self._lost) == _REPLACEMENTS and now - self._lost[0] <= self._window
