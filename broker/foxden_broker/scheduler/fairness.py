"""Who has had how much: GPU-seconds per member within a priority class. Pure.

A member's account grows by the estimate when an image is given and is corrected when it ends. Who
has had least goes first. Somebody who comes back starts near the one that has had least among those
who wait, with a little credit: time away is not saved up, and time used alone is not held against
anybody for ever.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Key = tuple[int, str]  # (priority class, member)


@dataclass
class Fairness:
    """The accounts of one pool."""

    spent: dict[Key, float] = field(default_factory=dict)  # GPU-seconds
    _waiting: dict[int, dict[str, None]] = field(default_factory=dict)  # who waits, by class
    _floor: dict[int, float] = field(default_factory=dict)  # least of those who waited last

    def waits(self, key: Key, credit: float) -> None:
        """The member has something waiting in this class from now on."""
        priority, member = key
        waiting = self._waiting.setdefault(priority, {})
        if member in waiting:
            return
        floor = self.floor(priority)
        waiting[member] = None
        had = self.spent.get(key, floor - credit)
        self.spent[key] = min(max(had, floor - credit), floor + credit)
        self._floor[priority] = floor

    def rests(self, key: Key) -> None:
        """Nothing of the member's waits in this class any more."""
        priority, member = key
        self._floor[priority] = self.floor(priority)
        self._waiting.get(priority, {}).pop(member, None)

    def floor(self, priority: int) -> float:
        """The least that anybody who waits in this class has had."""
        waiting = self._waiting.get(priority)
        if not waiting:
            return self._floor.get(priority, 0.0)
        return min(self.spent[priority, member] for member in waiting)

    def members(self, priority: int) -> list[tuple[float, str]]:
        """(spent, member) of those who wait, in no order."""
        return [(self.spent[priority, m], m) for m in self._waiting.get(priority, ())]

    def charge(self, key: Key, seconds: float) -> None:
        """May be negative: a correction."""
        self.spent[key] = self.spent.get(key, self._floor.get(key[0], 0.0)) + seconds

    def forget_idle(self, most: int = 10_000) -> None:
        """Accounts of members who do not wait, where there are too many to keep."""
        if len(self.spent) > most:
            waiting = {(p, m) for p, members in self._waiting.items() for m in members}
            self.spent = {key: had for key, had in self.spent.items() if key in waiting}
