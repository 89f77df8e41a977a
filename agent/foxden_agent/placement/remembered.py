"""What batches really took of a card's memory, and what was too much for it.

A measurement is of one model, one size, one placement and one card. It corrects the estimate of
that model, placement and card for every size: the estimate knows how memory grows with a picture,
the measurement by how much it is off. So what is known of one size helps the next, and a bigger
picture is still never thought to take less.

`Remembered` is what `place` sees, a value; `Measurements` keeps all of it in one small file.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from foxden_agent.placement import estimates
from foxden_agent.placement.facts import CardFacts, ModelFacts, Placement, Work

log = logging.getLogger(__name__)

_VERSION = 1  # of the file; raised where estimates change, since factors are relative to them
_MOST = 512  # measurements kept: those not seen for longest go first
_OOM_DAYS = 7  # a game that took the memory then is no reason for ever
_LEAST_FACTOR = 0.25  # a rule of thumb is not believed to be further off than this
_MARGIN = 1.05  # no two runs take quite the same
_TOO_MUCH = 1.02  # what did not fit took at least this much more than there was
_SAME = 0.02  # a factor that moves by less is no news

_Key = tuple[str, str, str, int, int, bool]  # card, model, placement, pixels, images, guided


@dataclass(frozen=True, slots=True)
class Remembered:
    """Of one model on one card: by how much stages take more than was thought, by placement."""

    factors: Mapping[str, float] = field(default_factory=dict)

    def factor(self, placement: Placement) -> float:
        return self.factors.get(placement.name, 1.0) if self.factors else 1.0


@dataclass(frozen=True, slots=True)
class _Measured:
    factor: float
    peak: int  # bytes; for people who read the file
    too_much: bool
    day: int  # days since 1970


class Measurements:
    """All that is remembered. `day` is today, in days since 1970."""

    def __init__(self, day: int, known: Iterable[tuple[_Key, _Measured]] = ()) -> None:
        self._day = day
        self._known: dict[_Key, _Measured] = {}
        for key, measured in known:
            if not (measured.too_much and measured.day < day - _OOM_DAYS):
                self._known[key] = measured
        self._views: dict[tuple[str, str], Remembered] = {}
        self.unwritten = False  # the last `write` failed: worth another one

    def of(self, card_id: str, model_sha256: str) -> Remembered:
        where = (card_id, model_sha256)
        if where not in self._views:
            factors: dict[str, float] = {}
            for key, measured in self._known.items():
                if key[:2] == where:
                    factors[key[2]] = max(factors.get(key[2], 0.0), measured.factor)
            self._views[where] = Remembered(factors)
        return self._views[where]

    def note(
        self,
        card_id: str,
        model_sha256: str,
        model: ModelFacts,
        card: CardFacts,
        placement: Placement,
        work: Work,
        peak: int,
        *,
        too_much: bool = False,
    ) -> bool:
        """A batch took `peak` bytes at most, or, with `too_much`, it had so many and they did not
        do. Both count our context on the card. True: estimates are others now."""
        found = estimates.stages(model, card, placement, work)
        factor = estimates.factor_of(found, peak * (_TOO_MUCH if too_much else _MARGIN))
        if too_much:
            # Whatever was known of it, it takes more than that.
            factor = max(factor, 1.01 * self.of(card_id, model_sha256).factor(placement))
        factor = max(_LEAST_FACTOR, factor)
        key = (card_id, model_sha256, placement.name, work.pixels, work.images, work.guided)
        before = self._known.pop(key, None)
        if before is not None and before.too_much and not too_much and factor < before.factor:
            # It fitted this time; next time it may be as full as it was.
            self._known[key] = before
            return False
        self._known[key] = _Measured(factor, peak, too_much, self._day)
        while len(self._known) > _MOST:
            dropped = next(iter(self._known))
            del self._known[dropped]
            self._views.pop(dropped[:2], None)
        self._views.pop((card_id, model_sha256), None)
        return before is None or abs(before.factor - factor) > _SAME * before.factor

    # The file

    @classmethod
    def read(cls, file: Path, day: int) -> Measurements:
        """What the file holds; nothing where it is missing, broken or of another version."""
        try:
            return cls(day, list(_parsed(json.loads(file.read_text(encoding="utf-8")))))
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            log.warning("%s is begun anew, it can't be used: %s", file, error)
        return cls(day)

    def write(self, file: Path) -> None:
        """Replace the file. A full disk costs the memory of it, nothing else."""
        rows = [
            [*key, round(m.factor, 4), m.peak, m.too_much, m.day] for key, m in self._known.items()
        ]
        beside = file.with_name(file.name + ".new")
        try:
            beside.write_text(json.dumps({"version": _VERSION, "rows": rows}), encoding="utf-8")
            os.replace(beside, file)
        except OSError as error:
            if not self.unwritten:  # a full disk may stay full for a thousand batches
                log.warning(
                    "what batches took cannot be written to %s (%s) and is remembered until the "
                    "agent ends: see that its disk has space",
                    *(file, error.strerror or error),
                )
            self.unwritten = True
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
        else:
            self.unwritten = False


def _parsed(content: Any) -> Iterable[tuple[_Key, _Measured]]:
    if content["version"] != _VERSION:
        return
    for row in content["rows"][-_MOST:]:
        card, model, placement, pixels, images, guided, factor, peak, too_much, day = row
        key = (str(card), str(model), str(placement), int(pixels), int(images), bool(guided))
        if not 0 < float(factor) < float("inf"):
            raise ValueError(f"{factor!r} is no factor")
        yield key, _Measured(float(factor), int(peak), bool(too_much), int(day))
