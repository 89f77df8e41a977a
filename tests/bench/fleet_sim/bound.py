"""Lower bounds that no policy can beat, from linear programmes."""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import linprog

from foxden_broker.scheduler.backlog import relaxed

from .world import Model, SimCard, SimImage, popularity


def makespan(cards: list[SimCard], images: list[SimImage], models: list[Model]) -> float:
    """Seconds that this batch of work takes at least, all cards empty at first.

    Images may be divided, models may be loaded in fractions: but a card can do no more of a model
    than fits behind its loading, in proportion to how much of it was loaded. Uses what each image
    really costs, its noise included. The bound is the least T for which the programme, told that T
    is all there is, does not need more (found by bisection).
    """
    work = np.array([sum(i.noise for i in images if i.model is m) for m in models])
    run = np.array([[c.draw(m) if c.fits(m) else math.inf for c in cards] for m in models])
    setup = np.array([[c.load(m) for c in cards] for m in models])
    ones, idle = np.ones(len(cards)), np.zeros(len(cards))
    low = relaxed(work, ones, idle, run, setup, math.inf)[2]
    high = 2 * low
    for _ in range(9):
        middle = (low + high) / 2
        if relaxed(work, ones, idle, run, setup, middle)[2] <= middle:
            high = middle
        else:
            low = middle
    return low


def capacity(cards: list[SimCard], models: list[Model]) -> float:
    """Jobs per second of the usual mix of models that these cards can do, set-ups apart."""
    weights = np.array(popularity(len(models)))
    weights /= weights.sum()
    count, many = len(models), len(cards)
    run = np.array([[c.draw(m) if c.fits(m) else 1e9 for c in cards] for m in models])
    # x: jobs per second of a model on a card; maximise the rate of the mix
    size = count * many
    target = np.zeros(size + 1)
    target[-1] = -1
    per_card = np.zeros((many, size + 1))
    per_model = np.zeros((count, size + 1))
    for m in range(count):
        for c in range(many):
            per_card[c, m * many + c] = run[m, c]
            per_model[m, m * many + c] = 1
        per_model[m, -1] = -weights[m]
    found = linprog(target, per_card, np.ones(many), per_model, np.zeros(count), method="highs")
    return float(found.x[-1])
