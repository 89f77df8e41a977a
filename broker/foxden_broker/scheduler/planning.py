"""`plan(state, now) -> Plan`: which images go to which cards now. Pure.

For each class, best first:

1. Members who are far behind have their oldest images placed where they end soonest.
2. Where the backlog is deep, each open card takes its allotment of the linear programme, and a card
   without one goes on with the model it holds.
3. The oldest images, in fair order, are placed where they end soonest: `free at + weight x set-up +
   drawing`. An image that would end sooner on a busy card waits for that card, and the next in
   order reckons with it.

At the end of a batch of work, when nearly all that waits is allotted, cards do what was planned
instead of 2 and 3, and nothing else: the plan is bettered every few seconds. Urgent work (class 1)
is placed as ever, and so is everything once a card may not take what was meant for it.

Only as many images as `Settings.look_at` are looked at, whatever waits behind them.
"""

from __future__ import annotations

import heapq
import math

import numpy as np

from foxden_broker.scheduler.cards import Card
from foxden_broker.scheduler.facts import Action, Expire, Need, Plan
from foxden_broker.scheduler.lines import Job
from foxden_broker.scheduler.placing import Head, Placing
from foxden_broker.scheduler.preempting import preempts
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
        preempts(current),
        state.wants_allotments(now, backlog),
    )


class Round(Placing):
    """One plan in the making: the rules."""

    def __init__(self, state: State, now: float, hopeless: set[int]) -> None:
        super().__init__(state, now, hopeless)
        self.backlog = self._backlog(3)
        # The rest of a batch of work: cards do what was planned for them, and no more.
        self.follows = self.backlog <= state.settings.deep_after and state.planned.covers(
            now, state.lines.images
        )

    # The rules

    def run(self) -> None:
        try:
            if self.left and not self.follows:  # else the plan ends with all that waits
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
        self.left, self._deep, self.follows = 1 << 30, False, False
        self.open, self._open_rows = np.zeros_like(self.open), None
        self.run()

    def looks_further(self) -> bool:
        """Whether it placed all that waits, and may place more."""
        return self._looked < self.state.settings.look_at

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
        if self.left and self.follows:
            # If it is due already, the driver asks now and plans again when it is answered.
            every = self.state.settings.end_every
            due = self.state.planned.asked_at + every
            at = min(at, due if due > now else now + every)
        if self.left and self._holding:
            at = min(at, now + _RECHECK)
        return at

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
        everybody = {member for _, member in members}
        if self.follows and priority > 1:
            if len(behind) < len(members):
                self._place_in_order(priority, behind, self.left, urgent=True)
            if self._follow(priority, everybody):
                return
        if self.backlog_here > settings.hot_after:
            if len(behind) < len(members):
                self._place_in_order(priority, behind, self.left, urgent=True)
            self._place_late(priority, members)
            for allowed in (behind, everybody):
                if self._more():
                    self._go_on(priority, allowed)
        self._place_in_order(priority, everybody, settings.look_at)

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
        heads: dict[str, list[Head]] = {}
        while order and self._more() and most > 0:
            _, member = heapq.heappop(order)
            if not self._may(member):
                continue
            if member not in heads:
                heads[member] = self._heads(priority, member)
            head = self._oldest(priority, member, heads[member], shut)
            if head is None:
                continue
            most -= 1
            job, index = head
            placed = self._place(job, index, urgent=urgent)
            if not placed and not job.avoid.get(index):
                shut.add(job.facts.kind.need)
            heapq.heappush(order, (self._had(priority, member), member))

    def _follow(self, priority: int, members: set[str]) -> bool:
        """Open cards take what they were allotted, and those without wait for the plan's next
        look. A card's last image is not staged: when the card is free, another may be the better
        one. False: a card may not take what was meant for it, so the plan does not hold."""
        by_model = self._by_model(priority, members)
        holds = True
        for row in np.flatnonzero(self.open).tolist():
            if not self._more():
                break
            card = self.table.rows[row]
            assert card is not None
            allotted = self.state.planned.of(card.facts.card_id)
            if card.held and sum(allotted.values()) <= 1:
                continue
            wanted = [
                model
                for model in allotted
                if any(self._line_head(priority, *line) for line in by_model.get(model, ()))
            ]
            if wanted:
                holds &= self._take_allotted(priority, card, wanted, by_model)
        return holds

    def _go_on(self, priority: int, members: set[str]) -> None:
        """Open cards take what they were allotted, or what their model is wanted for."""
        state = self.state
        by_model = self._by_model(priority, members)
        fresh = state.planned.fresh(self.now)
        use = fresh and self.backlog_here > state.settings.deep_until
        some = self.open.copy()
        if not use or not state.planned.by_card:
            some &= self._model >= 0  # cards with nothing loaded go on with nothing
        for row in np.flatnonzero(some).tolist():
            if not self._more():
                return
            card = self.table.rows[row]
            assert card is not None
            allotted = state.planned.of(card.facts.card_id) if use else {}
            wanted = [model for model in allotted if model in by_model]
            if self._take_allotted(priority, card, wanted, by_model):
                continue
            for model in sorted(card.warm):
                if model in by_model and self._give_best(priority, card, by_model[model], hot=True):
                    break

    def _by_model(self, priority: int, members: set[str]) -> dict[str, list[tuple[str, Need]]]:
        found: dict[str, list[tuple[str, Need]]] = {}
        for member in members:
            for need in self.state.lines.by_member.get((priority, member), {}):
                found.setdefault(need[0], []).append((member, need))
        return found

    def _take_allotted(
        self, priority: int, card: Card, models: list[str],
        by_model: dict[str, list[tuple[str, Need]]],
    ) -> bool:  # fmt: skip
        """One of these models: the loaded one, if it is among them."""
        warm = card.warm
        models = sorted(models, key=lambda model: model not in warm)
        return any(self._give_best(priority, card, by_model[model], hot=False) for model in models)

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
