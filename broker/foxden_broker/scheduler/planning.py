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
from dataclasses import dataclass

import numpy as np

from foxden_broker.scheduler.cards import Bools, Card, Floats
from foxden_broker.scheduler.facts import Action, Expire, Give, Image, Kind, Need, Plan
from foxden_broker.scheduler.lines import Job, Line
from foxden_broker.scheduler.queue import State

_RECHECK = 1.0  # seconds between two looks at images that wait for a busy card
_DECLINED = 0.5  # seconds that a card rests for which a deep queue has nothing
_FIRST_LOOK = 8  # indices of a job that are looked at to begin with


def plan(state: State, now: float) -> Plan:
    """What to do now. Report each Give with `state.given` and each Expire with
    `state.image_left` before planning again, and plan again as long as something is given."""
    state.teach(now)
    actions: list[Action] = []
    hopeless: set[int] = set()
    for job, reason in state.hopeless(now):
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


@dataclass
class _Costs:
    """Of one kind of work, by card."""

    costs: Floats
    weight: float  # of set-ups
    seen: int = 0  # placements of this round that it reckons with


class _Cursor:
    """The head of a line during one round: images that were placed are passed over."""

    def __init__(self, line: Line, passed: set[Image], hopeless: set[int]) -> None:
        self._jobs = line.oldest()
        self._passed, self._hopeless = passed, hopeless
        self._job: Job | None = None
        self._indices: list[int] = []
        self._at = 0
        self.over = False

    def head(self) -> tuple[Job, int] | None:
        while not self.over:
            job = self._job
            if job is not None:
                while self._at < len(self._indices):
                    index = self._indices[self._at]
                    if (job.facts.job_id, index) not in self._passed:
                        return job, index
                    self._at += 1
                if len(self._indices) < len(job.waiting):
                    self._indices = job.lowest(4 * len(self._indices))
                    continue
            self._job = next(self._jobs, None)
            if self._job is None:
                self.over = True
            elif self._job.number not in self._hopeless:
                self._indices, self._at = self._job.lowest(_FIRST_LOOK), 0
            else:
                self._job = None
        return None

    def close(self) -> None:
        self._jobs.close()  # gives the heap back


class Round:
    """One plan in the making: what was placed so far, as if it were so already."""

    def __init__(self, state: State, now: float, hopeless: set[int]) -> None:
        table, settings = state.table, state.settings
        self.state, self.now, self.table = state, now, table
        self.gives: list[Give] = []
        self.hopeless = hopeless
        self.finishes: dict[Image, float] = {}  # expected end of each image that was placed
        self.passed: set[Image] = set()
        self.free: Floats = table.free(now)
        self.usable: Bools = table.accepting & (table.paused <= now)
        idle = table.slots == 0
        self._soon = (table.slots == 1) & ~table.probing
        stageable = self._soon & (table.end - now <= table.lead)
        self.open: Bools = self.usable & (idle | stageable)
        # Open cards that have got nothing yet. In a deep queue, those that nothing was found for a
        # moment ago do not make a round go through its head again.
        self._deep = state.lines.images > settings.look_at // 4
        self.left = int(self.open.sum())
        if self._deep:
            self.left -= int((self.open & (table.declined > now)).sum())
        self._keeps: Bools = table.keep_until > now
        self._model = table.model.copy()
        self._costs: dict[tuple[Kind, bool], _Costs] = {}
        self._cursors: dict[tuple[int, str], dict[Need, _Cursor]] = {}
        self._spent: dict[tuple[int, str], float] = {}
        self._looked = 0
        self._holding = False
        # Rows whose only model is `_model`, and rows that do something more, in this round's view.
        self._switched: Bools = np.zeros(len(self._model), bool)
        self._occupied: list[int] = []
        self._wanted: Bools = self._wanted_models()
        self.backlog_here = 0.0  # of the class in hand and better ones
        self._unpause = math.inf
        self._speeds: dict[Need, float] = {}
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
        self.left, self._deep = 1 << 30, False
        self.open = np.zeros_like(self.open)
        self.run()

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
        at = min(self.state.next_deadline(), self._unpause)
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

    def _classes(self) -> list[int]:
        return self.state.lines.classes()

    def _place_overdue(self) -> None:
        if self.state.overdue_credit <= 0:
            return
        self.backlog_here = 0.0
        quota = 1 + int(self.left * self.state.settings.overdue_share)
        for job in self.state.overdue(self.now, quota):
            for index in job.lowest(quota):
                if quota and self._more() and job.number not in self.hopeless:
                    quota -= 1
                    self._place(job, index, urgent=True)

    def _place_class(self, priority: int) -> None:
        settings = self.state.settings
        members = self.state.fairness.members(priority)
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
                for model in warm:
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
            if (head := self._line_head(priority, member, need)) is not None:
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
                found.append(image)
                if len(found) + 1 >= most:
                    break
            if len(found) + 1 >= most:
                break
        jobs.close()  # gives the heap back
        self.passed.update(found)
        yield from found

    def _occupy(self, card: Card, kind: Kind, images: int) -> None:
        """The card does this, after all else: what others would cost there changes."""
        row, state = card.row, self.state
        warm = self._warm(card, row, kind.model)
        setup = 0.0 if warm else self._load(card, kind)
        self.free[row] += setup + state.estimates.seconds(card.facts, kind, images)
        if not warm:
            self._model[row] = self.table.number(kind.model)
            self._switched[row] = True
        self._occupied.append(row)

    # What things cost

    def _cost(self, kind: Kind, *, urgent: bool = False) -> Floats:
        """When each card would have drawn one image of this kind, set-up weighed; inf where it may
        not."""
        found = self._costs.get((kind, urgent))
        if found is not None:
            self._catch_up(kind, found)
            return found.costs
        table, settings = self.table, self.state.settings
        weight = 1.0
        if not urgent:
            backlog = self.backlog_here / settings.setup_weight_scale
            weight += min(settings.setup_weight_most, backlog)
        setups, _ = table.setups(kind)
        costs: Floats = self.free + weight * setups + table.rates(kind) * kind.work
        barred = ~(self.usable & table.capable(kind))
        if not urgent:
            # Cards that keep another model yet, because that is wanted.
            barred |= self._keeps & (setups > 0) & self._wanted[table.model]
        costs[barred] = np.inf
        for what in (kind.model, kind.need):
            self._keep_away(costs, what)
        found = self._costs[kind, urgent] = _Costs(costs, weight)
        self._catch_up(kind, found)
        return found.costs

    def _catch_up(self, kind: Kind, known: _Costs) -> None:
        """Reckon with what was placed since these costs were looked at."""
        rows = self._occupied[known.seen :]
        if not rows:
            return
        known.seen = len(self._occupied)
        setups, loads = self.table.setups(kind)
        same = self._model[rows] == self.table.number(kind.model)
        setup = np.where(self._switched[rows], np.where(same, 0.0, loads[rows]), setups[rows])
        new = self.free[rows] + known.weight * setup + self.table.rates(kind)[rows] * kind.work
        known.costs[rows] = np.where(np.isinf(known.costs[rows]), np.inf, new)

    def _keep_away(self, costs: Floats, what: str | Need) -> None:
        quarantine, now = self.state.quarantine, self.now
        for card_id in quarantine.cards_kept_from(what):
            card = self.table.cards.get(card_id)
            if card is None:
                continue
            until = quarantine.until(card_id, what)
            if until > now:
                self._unpause = min(self._unpause, until)
                costs[card.row] = np.inf
            elif quarantine.probing(card_id, what) and card.held:
                costs[card.row] = np.inf

    def _without(self, costs: Floats, kind: Kind, avoid: frozenset[str]) -> Floats:
        """Cards that failed on an image come last: only where no other can run it, those that went
        away a short while ago included."""
        able = self.table.capable(kind)
        away = self.state.settings.away
        spared = [card.row for i in avoid if (card := self.table.cards.get(i)) is not None]
        others = able.copy()
        others[spared] = False
        for row in np.flatnonzero(others).tolist():
            card = self.table.rows[row]
            if card is not None and (card.here or self.now - card.gone_at < away):
                costs = costs.copy()
                costs[spared] = np.inf
                return costs
        return costs

    def _end(self, kind: Kind, row: int) -> float:
        """When this card would have drawn one image of this kind."""
        card = self.table.rows[row]
        assert card is not None
        costs = self._cost(kind)
        if not self.usable[row] or not self.table.capable(kind)[row]:
            return math.inf
        if math.isinf(costs[row]) and self._paused(card, kind):
            return math.inf
        setup = 0.0 if self._warm(card, row, kind.model) else self._load(card, kind)
        rate = float(self.table.rates(kind)[row])
        return float(self.free[row]) + setup + rate * kind.work

    def _paused(self, card: Card, kind: Kind) -> bool:
        quarantine, card_id = self.state.quarantine, card.facts.card_id
        return any(
            quarantine.until(card_id, what) > self.now
            or (quarantine.probing(card_id, what) and bool(card.held))
            for what in (kind.model, kind.need)
        )

    def _warm(self, card: Card, row: int, model: str) -> bool:
        if self._switched[row]:
            return bool(self._model[row] == self.table.number(model))
        return model in card.warm

    def _load(self, card: Card, kind: Kind) -> float:
        return self.state.estimates.load(card.facts, kind.model, kind.model_bytes)

    def _wanted_models(self) -> Bools:
        """By number of a model; the last is for cards that have none."""
        wanted = [self.table.number(model) for model in self.state.lines.models]
        found = np.zeros(max([*wanted, int(self._model.max(initial=-1))]) + 2, bool)
        found[wanted] = True
        return found

    def _backlog(self, priority: int) -> float:
        """Seconds that all usable cards together need for what waits in this class and better."""
        seconds = 0.0
        for (of, need), (_, work) in self.state.lines.work.items():
            if of <= priority and work > 0:
                speed = self._speed(need, self.state.lines.sample[of, need])
                seconds += work / speed if speed > 0 else 0.0
        return seconds

    def _speed(self, need: Need, kind: Kind) -> float:
        """Units of work per second of all usable cards that can do this."""
        if need not in self._speeds:
            able = self.usable & self.table.capable(kind)
            self._speeds[need] = float((1 / self.table.rates(kind)[able]).sum())
        return self._speeds[need]

    # Lines

    def _cursor(self, priority: int, member: str, need: Need) -> _Cursor | None:
        cursors = self._cursors.setdefault((priority, member), {})
        if need not in cursors:
            line = self.state.lines.by_member.get((priority, member), {}).get(need)
            if line is None:
                return None
            cursors[need] = _Cursor(line, self.passed, self.hopeless)
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
