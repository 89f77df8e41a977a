"""`plan(state, now) -> Plan`: which images go to which cards now. Pure.

For each class, best first:

1. Members who are far behind have their oldest images placed where they end soonest.
2. Where the backlog is deep, each open card takes its allotment of the linear programme, and a card
   without one goes on with the model it holds.
3. The oldest images, in fair order, are placed where they end soonest: `free at + weight x set-up +
   drawing`. An image that would end sooner on a busy card waits for that card, and the next in
   order reckons with it.

Only as many images as `Settings.look_at` are looked at, whatever waits behind them.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator

import numpy as np

from foxden_broker.scheduler.cards import Bools, Card, Floats
from foxden_broker.scheduler.costs import Costs
from foxden_broker.scheduler.facts import Action, Expire, Give, Image, Need, Plan
from foxden_broker.scheduler.heads import Cursor
from foxden_broker.scheduler.lines import Job
from foxden_broker.scheduler.queue import State

_RECHECK = 1.0  # seconds between two looks at images that wait for a busy card
_DECLINED = 0.5  # seconds that a card rests for which a deep queue has nothing


def plan(state: State, now: float) -> Plan:
    """What to do now. Report each Give with `state.given` and each Expire with
    `state.image_left` before planning again, and plan again as long as something is given."""
    state.teach(now)
    actions: list[Action] = []
    hopeless: set[int] = set()
    for job, reason in state.timeouts.hopeless(now):
        hopeless.add(job.number)
        left = state.settings.most_expired - len(actions)
        indices = job.lowest(left) if left > 0 else []
        actions += [Expire(job.facts.job_id, index, reason) for index in indices]
    if not state.lines.images:
        return Plan(tuple(actions))
    current = Round(state, now, hopeless)
    current.run()
    current.decline()
    backlog = current.backlog
    return Plan(
        (*actions, *current.gives),
        now if actions else current.wake_at(),
        backlog,
        state.wants_allotments(now, backlog),
    )


class Round(Costs):
    """One plan in the making: what was placed so far, as if it were so already."""

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
        self.backlog = self._backlog(3)

    # The rules

    def run(self) -> None:
        try:
            if self.left:
                self._place_overdue()
            for priority in self._classes():
                if not self._more():
                    break
                self.backlog_here = self._backlog(priority)
                self._place_class(priority)
        finally:
            for cursors in self._cursors.values():
                for cursor in cursors.values():
                    cursor.close()

    def forecast(self) -> None:
        """Place images as if every card were open to them: for `outlook`."""
        self._room = {}  # as if they all might run: a cap delays its own member alone
        self.left, self._deep = 1 << 30, False
        self.open = np.zeros_like(self.open)
        self.run()

    def place_last(self, job: Job) -> None:
        """One more job, in a forecast that is over: behind everything that it has placed."""
        for index in job.lowest(self.state.settings.look_at):
            self._place(job, index)

    def decline(self) -> None:
        """Remember the cards that the head of a deep queue had nothing for."""
        if self._deep and len(self.gives) < self.state.settings.most_gives:
            fresh = self.open & (self.table.declined <= self.now)
            self.table.declined[fresh] = self.now + _DECLINED

    def wake_at(self) -> float:
        """When something changes by itself."""
        table, now = self.table, self.now
        if len(self.gives) >= self.state.settings.most_gives:
            return now
        at = min(self.state.timeouts.next_deadline(), self._unpause)
        leads = (table.end - table.lead)[self.usable & self._soon]
        others = (table.paused[table.accepting], table.keep_until[self.open])
        for moments in (leads, *others, table.declined[self.open]):
            later = moments[moments > now]
            if later.size:
                at = min(at, float(later.min()))
        if self.left and self._holding:
            at = min(at, now + _RECHECK)
        return at

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

    def _place_overdue(self) -> None:
        if self.state.overdue_credit <= 0:
            return
        self.backlog_here = 0.0
        quota = 1 + int(self.left * self.state.settings.overdue_share)
        for job in self.state.timeouts.overdue(self.now, quota):
            for index in job.lowest(quota):
                if not self._may(job.facts.member):
                    break
                if quota and self._more() and job.number not in self.hopeless:
                    quota -= 1
                    self._place(job, index, urgent=True)

    def _place_class(self, priority: int) -> None:
        settings = self.state.settings
        members = [one for one in self.state.fairness.members(priority) if self._may(one[1])]
        if not members:
            return
        limit = min(spent for spent, _ in members) + self.state.slack
        behind = {member for spent, member in members if spent <= limit}
        if self.backlog_here > settings.hot_after:
            if len(behind) < len(members):
                self._place_in_order(priority, behind, self.left, urgent=True)
            self._place_late(priority, members)
            for allowed in (behind, {member for _, member in members}):
                if self._more():
                    self._go_on(priority, allowed)
        self._place_in_order(priority, {member for _, member in members}, settings.look_at)

    def _place_late(self, priority: int, members: list[tuple[float, str]]) -> None:
        """Images that wait for unusually long, because their model is wanted seldom."""
        settings = self.state.settings
        before = self.now - settings.patience - settings.patience_share * self.state.usual_wait
        late: list[tuple[tuple[float, int], str, Need]] = []
        for _, member in members:
            for need in self.state.lines.by_member.get((priority, member), ()):
                head = self._line_head(priority, member, need)
                if head is not None and head[0].facts.created < before:
                    late.append((head[0].rank, member, need))
        late.sort()
        for _, member, need in late:  # one of each: when all are late, none is unusual
            head = self._line_head(priority, member, need)
            if head is not None and self._more():
                self._place(*head, urgent=True)

    def _place_in_order(
        self, priority: int, members: set[str], most: int, *, urgent: bool = False
    ) -> None:
        """Fair order: whoever has had least, then age."""
        order = [(self._had(priority, member), member) for member in members]
        heapq.heapify(order)
        shut: set[Need] = set()  # no card takes these in this round
        while order and self._more() and most > 0:
            _, member = heapq.heappop(order)
            if not self._may(member):
                continue
            head = self._head(priority, member, shut)
            if head is None:
                continue
            most -= 1
            job, index = head
            placed = self._place(job, index, urgent=urgent)
            if not placed and not job.avoid.get(index):
                shut.add(job.facts.kind.need)
            heapq.heappush(order, (self._had(priority, member), member))

    def _go_on(self, priority: int, members: set[str]) -> None:
        """Open cards take what they were allotted, or what their model is wanted for."""
        state = self.state
        by_model: dict[str, list[tuple[str, Need]]] = {}
        for member in members:
            for need in state.lines.by_member.get((priority, member), {}):
                by_model.setdefault(need[0], []).append((member, need))
        fresh = self.now - state.allotted_at < state.settings.deep_stale
        use = fresh and self.backlog_here > state.settings.deep_until
        some = self.open.copy()
        if not use or not state.allotments:
            some &= self._model >= 0  # cards with nothing loaded go on with nothing
        for row in np.flatnonzero(some).tolist():
            if not self._more():
                return
            card = self.table.rows[row]
            assert card is not None
            warm = card.warm
            allotted = state.allotments.get(card.facts.card_id, {}) if use else {}
            chosen = [model for model in allotted if model in warm and model in by_model]
            chosen += [model for model in allotted if model not in warm and model in by_model]
            for model in chosen:
                if self._give_best(priority, card, by_model[model], hot=False):
                    break
            else:
                for model in sorted(warm):
                    if model in by_model and self._give_best(
                        priority, card, by_model[model], hot=True
                    ):
                        break

    def _give_best(
        self, priority: int, card: Card, lines: list[tuple[str, Need]], *, hot: bool
    ) -> bool:
        """The image of these lines that goes first, if this card may take it. A slow card takes
        nothing that another would have done sooner in spite of the queue."""
        heads = []
        for member, need in lines:
            if self._may(member) and (head := self._line_head(priority, member, need)) is not None:
                heads.append((self._had(priority, member), head[0].rank, head))
        for _, _, (job, index) in sorted(heads, key=lambda entry: entry[:2]):
            kind = job.facts.kind
            costs = self._cost(kind)
            row = card.row
            if not costs[row] < math.inf and hot:
                continue
            end = self._end(kind, row)
            if not end < math.inf or card.facts.card_id in job.avoid.get(index, ()):
                continue
            if hot and end > float(costs.min()) + self.backlog_here:
                continue
            if end > job.facts.deadline:
                continue
            self._looked += 1
            self._hand_over(card, job, index)
            return True
        return False

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
        row = int(costs.argmin())
        if not costs[row] < math.inf:
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
        rows = np.flatnonzero(self.open)
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
        self.open[card.row] = False
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

    def _head(self, priority: int, member: str, shut: set[Need]) -> tuple[Job, int] | None:
        """The member's oldest image that was not placed yet."""
        best: tuple[Job, int] | None = None
        for need in self.state.lines.by_member.get((priority, member), ()):
            if need in shut:
                continue
            head = self._line_head(priority, member, need)
            if head is not None and (best is None or head[0].rank < best[0].rank):
                best = head
        return best

    def _line_head(self, priority: int, member: str, need: Need) -> tuple[Job, int] | None:
        cursor = self._cursor(priority, member, need)
        return cursor.head() if cursor is not None else None

    def _had(self, priority: int, member: str) -> float:
        key = (priority, member)
        if key not in self._spent:
            return self.state.fairness.spent.get(key, 0.0)
        return self._spent[key]
