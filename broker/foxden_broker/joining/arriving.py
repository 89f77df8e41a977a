"""Agents that are not at work yet: so many at a time. Pure.

Who has not shown yet that he may come in can be anybody, as often as he likes. Hence where all
places are taken, one of those makes room: the oldest from the network address that has most.
"""

from __future__ import annotations

from collections import Counter
from typing import Generic, TypeVar

from foxden_broker.joining.tries import network

T = TypeVar("T")


class Arriving(Generic[T]):
    """Connections by what is known of them; `most` in all."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._unproved: dict[T, str] = {}  # with its network, oldest first
        self._proved: set[T] = set()

    def comes(self, one: T, address: str) -> T | None:
        """Who has to go for it: nobody, another, or where there is no room, `one` itself."""
        mine, out = network(address), None
        if len(self._unproved) + len(self._proved) >= self._most:
            held = Counter(self._unproved.values())
            most = max(held, key=held.__getitem__, default=mine)
            if held[most] <= held[mine] + 1:
                return one
            out = next(other for other, where in self._unproved.items() if where == most)
            self.leaves(out)
        self._unproved[one] = mine
        return out

    def proved(self, one: T) -> None:
        """It may come in, and keeps its place until it `leaves`."""
        if self._unproved.pop(one, None) is not None:
            self._proved.add(one)

    def leaves(self, one: T) -> None:
        """It is at work, waits for an administrator, or has gone. Again: nothing."""
        self._unproved.pop(one, None)
        self._proved.discard(one)
