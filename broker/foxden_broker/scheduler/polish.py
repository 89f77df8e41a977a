"""Better whole numbers for a plan of a deep backlog: images are moved from the card that would end
last, as long as that lets all be done sooner. Pure.

Local search, bounded in steps: the last card gives images to another one (some of a model, or all
of it, which spares the load), or exchanges them with one. What it finds is no optimum, but no
single step betters it.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int_]
_LEAST_GAIN = 0.1  # seconds
_LOAD = 0.2  # share of its time that a further load must gain: what is foretold is uncertain


@dataclass
class Shares:
    """Whole images of models (rows) on cards (columns). Times in seconds."""

    busy: Floats  # until each card is free
    run: Floats  # of one image; inf: this card cannot
    setup: Floats  # 0: loaded
    taken: Counts

    def ends(self) -> Floats:
        """When each card would have done all its images."""
        run = np.where(self.taken > 0, self.run, 0.0)
        work = self.taken * run + (self.taken > 0) * self.setup
        ends: Floats = self.busy + work.sum(axis=0)
        return ends

    def end(self) -> float:
        """When the last card with work would be done."""
        working = self.taken.sum(axis=0) > 0
        return float(self.ends()[working].max(initial=0.0))


def fit(shares: Shares, images: Counts) -> None:
    """Make every model's images add up: too many leave the cards that end last, missing ones go,
    one by one and longest first, where they end soonest."""
    taken = shares.taken
    taken[~np.isfinite(shares.run)] = 0
    load = shares.ends()
    for model in range(len(images)):
        while (many := int(taken[model].sum()) - int(images[model])) > 0:
            card = int(np.where(taken[model] > 0, load, -np.inf).argmax())
            some = 1 if many < 64 else min(many // 2, int(taken[model, card]))
            taken[model, card] -= some
            load[card] -= some * shares.run[model, card]
            load[card] -= 0.0 if taken[model, card] else shares.setup[model, card]
    for model in np.argsort(-shares.run.min(axis=1)).tolist():
        run, setup = shares.run[model], shares.setup[model]
        missing = int(images[model]) - int(taken[model].sum())
        if missing <= 0:
            continue
        first = np.where(taken[model] > 0, 0.0, setup)
        heap = [
            (float(load[c] + first[c] + run[c]), c)
            for c in np.flatnonzero(np.isfinite(run)).tolist()
        ]
        heapq.heapify(heap)
        for _ in range(missing if heap else 0):
            end, card = heap[0]
            load[card] = end
            taken[model, card] += 1
            heapq.heapreplace(heap, (end + float(run[card]), card))


def polish(shares: Shares, steps: int) -> None:
    """Change `taken` in place, until no step helps or `steps` were taken."""
    load = shares.ends()
    for _ in range(steps):
        working = shares.taken.sum(axis=0) > 0
        if not working.any():
            return
        last = int(np.where(working, load, -np.inf).argmax())
        if not (_give(shares, load, last) or _exchange(shares, load, last)):
            return


def _give(shares: Shares, load: Floats, last: int) -> bool:
    """The last card gives some images of one model to the card where that ends soonest."""
    best = (load[last] - _LEAST_GAIN, -1, -1, 0)
    for model in np.flatnonzero(shares.taken[:, last]).tolist():
        have = int(shares.taken[model, last])
        run = shares.run[model]
        first = np.where(shares.taken[model] > 0, 0.0, shares.setup[model])
        for count in sorted({1, 2, (have + 1) // 2, have}):
            if count > have:
                continue
            spared = shares.setup[model, last] if count == have else 0.0
            own = load[last] - count * run[last] - spared
            others = load + first + count * run
            others[last] = np.inf
            card = int(others.argmin())
            then = max(own, float(others[card])) + _LOAD * float(first[card])
            if then < best[0]:
                best = (then, model, card, count)
    _, model, card, count = best
    if count == 0:
        return False
    _move(shares, load, model, last, card, count)
    return True


def _exchange(shares: Shares, load: Floats, last: int) -> bool:
    """The last card gives one image (or all of a model) and takes one of another model (or all)."""
    taken = shares.taken
    best = (load[last] - _LEAST_GAIN, -1, -1, -1, 0, 0)
    for model in np.flatnonzero(taken[:, last]).tolist():
        for count in {1, int(taken[model, last])}:
            for back in (np.minimum(taken, 1), taken):
                then = _exchanged(shares, load, last, model, count, back)
                other, card = divmod(int(then.argmin()), then.shape[1])
                if then[other, card] < best[0]:
                    returned = int(back[other, card])
                    best = (float(then[other, card]), model, other, card, count, returned)
    _, model, other, card, count, returned = best
    if count == 0:
        return False
    _move(shares, load, model, last, card, count)
    _move(shares, load, other, card, last, returned)
    return True


def _exchanged(
    shares: Shares, load: Floats, last: int, model: int, count: int, back: Counts
) -> Floats:
    """When the later of two cards ends, if `last` gives so many images of a model to a card
    (columns) and takes `back` of another model (rows) from it; loads weighed, inf: impossible."""
    taken, run, setup = shares.taken, shares.run, shares.setup
    possible = np.isfinite(run[:, last])[:, None] & (back > 0)
    back = np.where(possible, back, 0)
    loads_there = np.where(taken[model] > 0, 0.0, setup[model])
    loads_here = np.where(taken[:, last] > 0, 0.0, setup[:, last])[:, None]
    spared_here = setup[model, last] if count == taken[model, last] else 0.0
    spared_there = np.where(back == taken, setup, 0.0)
    here = load[last] - count * run[model, last] - spared_here + loads_here
    here = here + back * np.where(possible, run[:, last][:, None], 0.0)
    there = load - back * np.where(possible, run, 0.0) - spared_there
    there = there + loads_there + count * run[model]
    then: Floats = np.maximum(here, there) + _LOAD * (loads_here + loads_there)
    then[~possible] = np.inf
    then[model] = np.inf
    then[:, last] = np.inf
    return then


def _move(shares: Shares, load: Floats, model: int, giver: int, taker: int, count: int) -> None:
    taken, setup, run = shares.taken, shares.setup, shares.run
    if taken[model, taker] == 0:
        load[taker] += setup[model, taker]
    taken[model, giver] -= count
    taken[model, taker] += count
    if taken[model, giver] == 0:
        load[giver] -= setup[model, giver]
    load[giver] -= count * run[model, giver]
    load[taker] += count * run[model, taker]
