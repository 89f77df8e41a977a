"""Which running work gives way to more urgent work. Pure.

An interactive image waits, no card will have drawn it soon, and a card draws bulk work that would
last much longer than switching costs: that work is released with its checkpoints and goes on
later. It never gives way to its own class, nor to normal work, no image more than twice, and no
card soon after another time, so that nothing is done but switching.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Iterator

import numpy as np

from foxden_broker.scheduler.cards import Batch, Card
from foxden_broker.scheduler.facts import BULK, INTERACTIVE, Image, Preempt
from foxden_broker.scheduler.lines import Job
from foxden_broker.scheduler.placing import Placing

_LOOK_AT = 64  # busy cards, those busy for longest first
_AT_ONCE = 8  # urgent images that one plan finds room for
_REASON = "more urgent work needs the card"


def preempts(placed: Placing) -> tuple[Preempt, ...]:
    """What cards should be asked to release, after all that could be placed was."""
    urgent = list(_urgent(placed))
    if not urgent:
        return ()
    state, now = placed.state, placed.now
    under_way = sum(
        now - card.preempted < state.settings.preempt_hold
        for card_id in state.asked
        if (card := state.table.cards.get(card_id)) is not None
    )
    victims = list(_victims(placed)) if len(urgent) > under_way else []
    found: list[Preempt] = []
    for job, index in urgent[under_way:]:
        latest = float(placed._cost(job.facts.kind, urgent=True).min(initial=math.inf))
        latest -= state.settings.preempt_gain
        latest = min(latest, sys.float_info.max)  # none takes it as things are: any is better
        best = min(
            (
                (end, -batch.ends, card.facts.card_id, card, batch)
                for card, batch in victims
                if (end := _end_there(placed, job, index, card, batch)) <= latest
            ),
            key=lambda one: one[:3],
            default=None,
        )
        if best is None:
            continue
        *_, card, batch = best
        victims.remove((card, batch))
        found.append(Preempt(card.facts.card_id, tuple(sorted(batch.images)), _REASON))
    return tuple(found)


def _urgent(placed: Placing) -> Iterator[tuple[Job, int]]:
    """The oldest interactive images that this round has given to no card."""
    given = {image for give in placed.gives for image in give.images}
    jobs: list[Job] = []
    for (priority, member), lines in placed.state.lines.by_member.items():
        if priority == INTERACTIVE and placed._may(member):
            for line in lines.values():
                oldest = line.oldest()
                jobs += itertools.islice(oldest, _AT_ONCE)
                oldest.close()  # gives the heap back
    number = 0
    for job in sorted(jobs, key=lambda job: job.rank):
        for index in job.lowest(_AT_ONCE + len(given)):
            if number < _AT_ONCE and (job.facts.job_id, index) not in given:
                number += 1
                yield job, index


def _victims(placed: Placing) -> Iterator[tuple[Card, Batch]]:
    """Cards that draw bulk work, and nothing else."""
    state, table, now = placed.state, placed.table, placed.now
    settings = state.settings
    given = {give.card_id for give in placed.gives}
    long = table.end - now > settings.preempt_ratio * settings.preempt_cost
    rows = np.flatnonzero(placed.usable & (table.slots == 1) & long)
    for row in rows[np.argsort(-table.end[rows], kind="stable")][:_LOOK_AT].tolist():
        card = table.rows[row]
        if card is None or card.facts.card_id in given or card.facts.card_id in state.asked:
            continue
        batch = card.held[0]
        if batch.started is None or now - card.preempted < settings.preempt_hold:
            continue
        if all(_gives_way(placed, batch, image) for image in batch.images):
            yield card, batch


def _gives_way(placed: Placing, batch: Batch, image: Image) -> bool:
    _, priority, _ = batch.charges.get(image, ("", 0, 0.0))
    times = placed.state.preempts.get(image, 0)
    return priority == BULK and times < placed.state.settings.preempt_most


def _end_there(placed: Placing, job: Job, index: int, card: Card, batch: Batch) -> float:
    """When the urgent image would be drawn if this card gave way for it; inf where the switch costs
    too much, or is not possible."""
    state, now, kind = placed.state, placed.now, job.facts.kind
    settings, estimates = state.settings, state.estimates
    if not placed.table.capable(kind)[card.row]:
        return math.inf
    if card.facts.card_id in job.avoid.get(index, ()) or placed._paused(card, kind):
        return math.inf
    step = batch.run / max(1, batch.kind.steps)  # until it stops
    begins = now + settings.preempt_cost + step
    cost = settings.preempt_cost + step
    if kind.model != batch.kind.model and kind.model not in card.loaded:
        load = estimates.load(card.facts, kind.model, kind.model_bytes)
        begins += load
        cost += load + estimates.load(card.facts, batch.kind.model, batch.kind.model_bytes)
    if batch.ends - now < settings.preempt_ratio * cost:
        return math.inf
    return begins + estimates.seconds(card.facts, kind)
