"""Placing images on cards, one after another: each placement is as if it were so already. Pure.

The rules that say which image comes next are in planning.py.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from foxden_broker.scheduler.cards import Bools, Card, Floats
from foxden_broker.scheduler.costs import Costs
from foxden_broker.scheduler.facts import Give, Image, Need
from foxden_broker.scheduler.heads import Cursor
from foxden_broker.scheduler.lines import Job
from foxden_broker.scheduler.queue import State

Head = tuple[tuple[float, int], Need]  # rank of the job that goes first in a line, the line


class Placing(Costs):
    """What one round has placed so far, and which cards are open to it."""

    def __init__(self, state: State, now: float, hopeless: set[int]) -> None:
        super().__init__(state, now)
        table, settings = state.table, state.settings
        self.gives: list[Give] = []
        self.hopeless = hopeless
        self.finishes: dict[Image, float] = {}  # expected end of each image that was placed
        self.passed: set[Image] = set()
        idle = table.slots == 0
        self._soon: Bools = (table.slots == 1) & ~table.probing
        stageable = self._soon & (table.end - now <= table.lead)
        self.open: Bools = self.usable & (idle | stageable)
        self._open_rows: NDArray[np.intp] | None = None  # of `open`, until that changes
        # Open cards that have got nothing yet. In a deep queue, those that nothing was found for a
        # moment ago do not make a round go through its head again.
        self._deep = state.lines.images > settings.look_at // 4
        self.left = int(self.open.sum())
        if self._deep:
            self.left -= int((self.open & (table.declined > now)).sum())
        self._cursors: dict[tuple[int, str], dict[Need, Cursor]] = {}
        self._spent: dict[tuple[int, str], float] = {}
        self._room = dict(state.room)
        self._looked = 0
        self._holding = False
        self._accepting = max(1, int(self.usable.sum()))

    def _more(self) -> bool:
        settings = self.state.settings
        return bool(
            self.left and len(self.gives) < settings.most_gives and self._looked < settings.look_at
        )

    def _may(self, member: str) -> bool:
        """Whether one more image of the member may run."""
        return self._room.get(member, 1) > 0

    def _takes(self, member: str) -> None:
        if member in self._room:
            self._room[member] -= 1

    def _classes(self) -> list[int]:
        return self.state.lines.classes()

    # Placing

    def _place(self, job: Job, index: int, *, urgent: bool = False) -> bool:
        """Give the image to the card where it ends soonest, or let it wait for that card. False:
        no card takes it now. An urgent one need not mind what cards would like to keep loaded, and
        the longer it has waited, the less it waits for a better card."""
        self._looked += 1
        image = (job.facts.job_id, index)
        kind = job.facts.kind
        costs = self._cost(kind, urgent=urgent)
        if avoid := job.avoid.get(index):
            costs = self._without(costs, kind, avoid)
        row = int(costs.argmin()) if costs.size else -1  # a pool may have no card at all
        if row < 0 or not costs[row] < math.inf:
            self.passed.add(image)
            return False
        if not self.open[row]:
            row = self._open_instead(job, costs, row, urgent=urgent)
        card = self.table.rows[row]
        assert card is not None
        if self.open[row] and self._end(kind, row) <= job.facts.deadline:
            self._hand_over(card, job, index)
            return True
        self.passed.add(image)
        self._holding = True
        self._occupy(card, kind, 1)
        self.finishes[image] = float(self.free[row])
        return True

    def _open_instead(self, job: Job, costs: Floats, best: int, *, urgent: bool) -> int:
        """A card that is open, if it is nearly as good as the best one: by the time that is open,
        others may have taken it, and an image that always hopes for the next never starts."""
        if self._open_rows is None:
            self._open_rows = np.flatnonzero(self.open)
        rows = self._open_rows
        if not rows.size:
            return best
        row = int(rows[costs[rows].argmin()])
        more = self.state.settings.near * float(self.table.rates(job.facts.kind)[row])
        more *= job.facts.kind.work
        if urgent:
            more += self.state.settings.near_age * max(0.0, self.now - job.facts.created)
        return row if costs[row] <= costs[best] + more else best

    def _hand_over(self, card: Card, job: Job, index: int) -> None:
        kind = job.facts.kind
        image = (job.facts.job_id, index)
        staged = bool(card.held)
        self.passed.add(image)
        self._takes(job.facts.member)
        images = [image, *self._companions(card, job)]
        self.gives.append(Give(card.facts.card_id, tuple(images), kind.model, staged))
        self.open[card.row], self._open_rows = False, None
        self.left -= not (self._deep and self.table.declined[card.row] > self.now)
        self._occupy(card, kind, len(images))
        share = self.state.estimates.seconds(card.facts, kind, len(images)) / len(images)
        for job_id, _ in images:
            facts = self.state.jobs[job_id].facts
            key = (facts.priority, facts.member)
            self._spent[key] = self._had(*key) + share
        for one in images:
            self.finishes[one] = float(self.free[card.row])

    def _companions(self, card: Card, job: Job) -> Iterator[Image]:
        """Images of the same kind that ride along, where that is quicker than one by one and no
        other card would stand idle for it."""
        state, kind = self.state, job.facts.kind
        most = state.together(card, kind)
        further = state.estimates.further(card.facts, kind)
        if most <= 1 or further > state.settings.batch_gain:
            return
        single = state.estimates.seconds(card.facts, kind)
        room = (state.settings.batch_seconds / single - 1) / max(further, 1e-3)
        share = math.ceil(state.lines.images / self._accepting)
        most = min(most, share, 1 + max(0, int(room)))
        if most <= 1:
            return
        end = self._end(kind, card.row) + single * further * (most - 1)
        classes = [1] if job.priority == 1 else self._classes()
        found: list[Image] = []
        jobs = state.lines.alike(kind, classes)
        for other in jobs:
            if other.facts.deadline < end or other.number in self.hopeless:
                continue
            for index in other.lowest(most + len(self.passed)):
                image = (other.facts.job_id, index)
                if image in self.passed or card.facts.card_id in other.avoid.get(index, ()):
                    continue
                if not self._may(other.facts.member):
                    break
                self._takes(other.facts.member)
                found.append(image)
                if len(found) + 1 >= most:
                    break
            if len(found) + 1 >= most:
                break
        jobs.close()  # gives the heap back
        self.passed.update(found)
        yield from found

    # Lines

    def _cursor(self, priority: int, member: str, need: Need) -> Cursor | None:
        cursors = self._cursors.setdefault((priority, member), {})
        if need not in cursors:
            line = self.state.lines.by_member.get((priority, member), {}).get(need)
            if line is None:
                return None
            cursors[need] = Cursor(line, self.passed, self.hopeless)
        return cursors[need]

    def _heads(self, priority: int, member: str) -> list[Head]:
        """A heap of the member's lines by the age of what goes first in each; see `_oldest`."""
        heads: list[Head] = []
        for need in self.state.lines.by_member.get((priority, member), ()):
            if (head := self._line_head(priority, member, need)) is not None:
                heads.append((head[0].rank, need))
        heapq.heapify(heads)
        return heads

    def _oldest(
        self, priority: int, member: str, heads: list[Head], shut: set[Need]
    ) -> tuple[Job, int] | None:
        """The member's oldest image that was not placed yet. Within a round a line's head only
        gets younger, so that the heap is put right where it is looked at; lines that are shut, or
        placed in full, are dropped."""
        while heads:
            rank, need = heads[0]
            head = None if need in shut else self._line_head(priority, member, need)
            if head is None:
                heapq.heappop(heads)
            elif head[0].rank != rank:
                heapq.heapreplace(heads, (head[0].rank, need))
            else:
                return head
        return None

    def _line_head(self, priority: int, member: str, need: Need) -> tuple[Job, int] | None:
        cursor = self._cursor(priority, member, need)
        return cursor.head() if cursor is not None else None

    def _had(self, priority: int, member: str) -> float:
        key = (priority, member)
        if key not in self._spent:
            return self.state.fairness.spent.get(key, 0.0)
        return self._spent[key]
