"""A plan for a deep backlog: a small linear programme says how many images of which model each card
should take, so that all are done soonest and models are loaded seldom.

`ask` makes a question of plain values from the state, `solve` answers it (scipy; tens to hundreds
of milliseconds, so in a thread or a process), `State.use_allotments` takes the answer. Without
scipy `available` is False and the queue is planned a step at a time. Pure.

The programme: x images of model m on cards of group g, loaded on y of its cards. Minimise the time
T with: every image somewhere; sum over m of x run + y setup + busy <= T on each group; x <= y u,
where u is what one card can do of this model in a little more than T. Fractions are rounded down;
what is left goes, one by one, where it ends soonest. Whole numbers are bettered then (polish.py);
in small pools the best of several such answers counts.

At the end of a batch of work, when nearly all that waits is allotted, the question holds what is
allotted, and the answer betters that: other loads than those planned would be lost time.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass

import numpy as np

from foxden_broker.scheduler.cards import Card
from foxden_broker.scheduler.polish import Counts, Floats, Shares, fit, polish
from foxden_broker.scheduler.queue import State

_MOST_GROUPS = 400
_FEW = 64  # cards: each counts by itself, and several programmes are tried
# What a card that loads a model may do of it, in shares of the least time: more room, fewer loads.
_ROOMS = (1.1, 1.02, 1.2)
_STEPS = 200  # of bettering whole numbers
_MOST_MODELS = 64  # those with most work; the others are planned a step at a time


def available() -> bool:
    return importlib.util.find_spec("scipy") is not None


@dataclass(frozen=True)
class Question:
    """Rows are models, columns cards. Times in seconds."""

    models: tuple[str, ...]
    images: tuple[int, ...]  # that wait, by model
    card_ids: tuple[str, ...]
    classes: tuple[str, ...]  # by card
    busy: Floats  # until each card is free
    run: Floats  # of one image; inf: this card cannot
    setup: Floats  # 0: loaded
    taken: Counts | None = None  # allotted already: to be bettered, not planned anew


Allotments = dict[str, dict[str, int]]


def ask(state: State, now: float) -> Question | None:
    """The state as a question; None where there is nothing to plan. Counts as asked now."""
    covered = state.planned.covers(now, state.lines.images)
    state.planned.asked(now, bettering=covered)
    table = state.table
    rows = np.flatnonzero(table.accepting & (table.paused <= now))
    per_model: dict[str, list[float]] = {}
    for where, (images, work) in state.lines.work.items():
        total = per_model.setdefault(where[1][0], [0, 0.0])
        total[0] += images
        total[1] += work
    samples = {need[0]: kind for (_, need), kind in state.lines.sample.items()}
    chosen = sorted(per_model, key=lambda model: -per_model[model][1])[:_MOST_MODELS]
    if not chosen or not rows.size:
        return None
    run = np.empty((len(chosen), rows.size))
    setup = np.empty_like(run)
    for line, model in enumerate(chosen):
        kind = samples[model]
        images, work = per_model[model]
        run[line] = table.rates(kind)[rows] * work / images
        run[line][~table.capable(kind)[rows]] = np.inf
        setup[line] = table.setups(kind)[0][rows]
    cards = [card for row in rows.tolist() if (card := table.rows[row]) is not None]
    return Question(
        tuple(chosen),
        tuple(int(per_model[model][0]) for model in chosen),
        tuple(card.facts.card_id for card in cards),
        tuple(card.facts.card_class for card in cards),
        np.asarray(table.free(now)[rows] - now),
        run,
        setup,
        _allotted(state, chosen, cards) if covered else None,
    )


def _allotted(state: State, models: list[str], cards: list[Card]) -> Counts:
    taken = np.zeros((len(models), len(cards)), dtype=int)
    number = {model: line for line, model in enumerate(models)}
    for column, card in enumerate(cards):
        for model, count in state.planned.of(card.facts.card_id).items():
            if model in number:
                taken[number[model], column] = count
    return taken


def solve(question: Question) -> Allotments:
    """Images by card and model. Raises ImportError without scipy."""
    able = np.isfinite(question.run).any(axis=1)
    images = np.where(able, question.images, 0)
    if question.taken is not None:
        shares = Shares(question.busy, question.run, question.setup, question.taken.copy())
        fit(shares, images)
        polish(shares, _STEPS)
        return _named(question, shares.taken)
    groups = _groups(question)
    cards = np.array([len(group) for group in groups])
    busy = np.array([question.busy[group].mean() for group in groups])
    run = np.stack([question.run[:, group].mean(axis=1) for group in groups], axis=1)
    setup = np.stack([question.setup[:, group].mean(axis=1) for group in groups], axis=1)
    _, _, time = relaxed(images, cards, busy, run, setup, math.inf)
    best: Shares | None = None
    for room in _ROOMS if len(groups) <= _FEW else _ROOMS[:1]:
        x, _, _ = relaxed(images, cards, busy, run, setup, room * time)
        shares = Shares(question.busy, question.run, question.setup, _whole(question, groups, x))
        fit(shares, images)
        polish(shares, _STEPS)
        if best is None or shares.end() < best.end():
            best = shares
    assert best is not None
    return _named(question, best.taken)


def relaxed(
    images: Floats, cards: Floats, busy: Floats, run: Floats, setup: Floats, most: float
) -> tuple[Floats, Floats, float]:
    """The programme, where a card that loads a model does no more of it than fits into `most`."""
    from scipy.optimize import linprog
    from scipy.sparse import coo_matrix

    models, groups = run.shape
    size = models * groups
    able = np.isfinite(run)
    cost = np.where(able, run, 0.0)
    fit = np.maximum(1.0, (most - busy[None, :] - setup) / np.where(able, run, 1.0))
    fit = np.minimum(fit, np.maximum(images, 1)[:, None])
    index = np.arange(size).reshape(models, groups)
    # T >= busy + (sum x run + y setup) / cards, by group
    per_group = np.repeat(np.arange(groups)[None, :], models, axis=0).ravel()
    one = np.arange(size)
    rows = [per_group, per_group, np.arange(groups), groups + one, groups + one]
    columns = [index.ravel(), size + index.ravel(), np.full(groups, 2 * size), one, size + one]
    values = [cost.ravel(), setup.ravel(), -cards.astype(float), np.ones(size), -fit.ravel()]
    bounded = coo_matrix(
        (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))),
        shape=(groups + size, 2 * size + 1),
    )
    limits = np.concatenate([-busy * cards, np.zeros(size)])
    every = coo_matrix(
        (np.ones(size), (np.repeat(np.arange(models), groups), one)),
        shape=(models, 2 * size + 1),
    )
    top_x = np.where(able, images[:, None].astype(float), 0.0).ravel()
    top_y = np.where(setup > 0, cards[None, :].astype(float), cards[None, :]).ravel()
    bounds = np.stack([np.zeros(2 * size + 1), np.concatenate([top_x, top_y, [np.inf]])], axis=1)
    tie = 1e-4 / max(1.0, float(cards.sum()))
    weights = np.concatenate([tie * cost.ravel(), tie * setup.ravel(), [1.0]])
    found = linprog(
        weights, bounded.tocsr(), limits, every.tocsr(), images.astype(float), bounds,
        method="highs",
    )  # fmt: skip
    if found.x is None:
        return np.zeros((models, groups)), np.zeros((models, groups)), 0.0
    x = found.x[:size].reshape(models, groups)
    y = found.x[size : 2 * size].reshape(models, groups)
    return x, y, float(found.x[-1])


def _groups(question: Question) -> list[list[int]]:
    """Cards that count as one: all alike where there are many, each by itself where there are
    few."""
    count = len(question.card_ids)
    if count <= _FEW:
        return [[card] for card in range(count)]
    found: dict[object, list[int]] = {}
    for card in range(count):
        warm = tuple(np.flatnonzero(question.setup[:, card] == 0).tolist())
        able = tuple(np.isfinite(question.run[:, card]).tolist())
        found.setdefault((question.classes[card], warm, able), []).append(card)
    groups = sorted(found.values(), key=len, reverse=True)
    if len(groups) > _MOST_GROUPS:  # the smallest are planned a step at a time
        groups = groups[:_MOST_GROUPS]
    return groups


def _whole(question: Question, groups: list[list[int]], x: Floats) -> Counts:
    """Whole images on single cards; what is left of fractions is missing yet."""
    taken = np.zeros(question.run.shape, dtype=int)
    load = question.busy.astype(float).copy()
    for number, group in enumerate(groups):
        _fill(question, group, np.floor(x[:, number] + 1e-6).astype(int), taken, load)
    return taken


def _named(question: Question, taken: Counts) -> Allotments:
    """By card and model; of a card's models, what takes longest comes first."""
    result: Allotments = {}
    for card, card_id in enumerate(question.card_ids):
        mine = np.flatnonzero(taken[:, card]).tolist()
        mine.sort(key=lambda m: -taken[m, card] * question.run[m, card])
        result[card_id] = {question.models[m]: int(taken[m, card]) for m in mine}
    return result


def _fill(
    question: Question, group: list[int], share: Counts, taken: Counts,
    load: Floats,
) -> None:  # fmt: skip
    """Spread a group's images over its cards, each model on as few of them as its time allows."""
    if len(group) == 1:
        card = group[0]
        for model in np.flatnonzero(share).tolist():
            taken[model, card] += share[model]
            load[card] += question.setup[model, card] + share[model] * question.run[model, card]
        return
    total = sum(
        int(share[m]) * float(question.run[m, group[0]]) for m in np.flatnonzero(share).tolist()
    )
    target = float(load[group].mean()) + 1.05 * total / len(group)
    cards = iter(group)
    card = next(cards)
    for model in sorted(np.flatnonzero(share).tolist(), key=lambda m: -int(share[m])):
        remaining = int(share[model])
        run, setup = float(question.run[model, card]), float(question.setup[model, card])
        while remaining > 0:
            room = max(1, int((target - load[card] - setup) / run))
            some = min(room, remaining)
            taken[model, card] += some
            load[card] += setup + some * run
            remaining -= some
            if load[card] + run > target:
                card = next(cards, card)
