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
            own = (
                load[last] - count * run[last] - (shares.setup[model, last] if count == have else 0)
            )
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
    taken, run, setup = shares.taken, shares.run, shares.setup
    best = (load[last] - _LEAST_GAIN, -1, -1, -1, 0, 0)
    for model in np.flatnonzero(taken[:, last]).tolist():
        have = int(taken[model, last])
        first = np.where(taken[model] > 0, 0.0, setup[model])
        for count in {1, have}:
            spared = setup[model, last] if count == have else 0.0
            own = load[last] - count * run[model, last] - spared
            for all_of_it in (False, True):
                back = taken if all_of_it else np.minimum(taken, 1)  # models x cards
                ends = back == taken
                away = np.where(back > 0, back * np.where(back > 0, run, 0.0), 0.0) + ends * setup
                news = np.where(taken[:, last] > 0, 0.0, setup[:, last])[:, None]
                reach = np.isfinite(run[:, last])[:, None] & (back > 0)
                mine = (
                    own
                    + np.where(reach, back, 0) * np.where(reach, run[:, last][:, None], 0.0)
                    + news
                )
                theirs = load - away + (first + count * run[model])[None, :]
                then = np.where(
                    reach, np.maximum(mine, theirs) + _LOAD * (news + first[None, :]), np.inf
                )
                then[model] = np.inf
                then[:, last] = np.inf
                where = int(then.argmin())
                other, card = divmod(where, then.shape[1])
                if then[other, card] < best[0]:
                    best = (
                        float(then[other, card]),
                        model,
                        other,
                        card,
                        count,
                        int(back[other, card]),
                    )
    _, model, other, card, count, back_count = best
    if count == 0:
        return False
    _move(shares, load, model, last, card, count)
    _move(shares, load, other, card, last, back_count)
    return True


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
