"""Every protocol timer, in one object, so that system tests can run them ten times faster."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields, replace


@dataclass(frozen=True)
class Timers:
    """Durations in seconds. `FOXDEN_TIME_SCALE=0.1` in the environment: all ten times shorter."""

    heartbeat: float = 5.0  # between an agent's heartbeats
    silent: float = 12.0  # without a word: no new work, and the agent dials again
    lease_lost: float = 45.0  # after a broken link until a running task is given to another card
    acknowledge: float = 5.0  # for an agent to take or refuse an assignment
    release: float = 10.0  # for the upload of the last checkpoint when an owner takes the card back
    checkpoint: float = 8.0  # between two that are stored of a running image: what a crash may cost
    hello: float = 5.0  # for the first frame after a connection opens
    reconnect_first: float = 0.5  # pause before the first new dial; grows up to `reconnect_most`
    reconnect_most: float = 30.0
    engine_silent: float = 120.0  # without a sign of life in one stage: the engine is replaced
    engine_retry_first: float = 5.0  # until a broken card's engine is tried again; the pause grows
    engine_retry_most: float = 300.0  # up to this many
    load_budget: float = 300.0  # part of a lease's hard deadline, for loading a model
    load_per_gib: float = 20.0  # more for each GiB of it (LocalAI; fixed ones killed big loads)
    load_most: float = 3600.0  # for loading a model, however big
    memory_back: float = 5.0  # after an unload until the driver has to show the memory as free
    transfer_stalled: float = 20.0  # without a byte of a picture or upload: it is broken off
    transfer: float = 600.0  # for a whole picture or upload, however slowly it comes
    sweep: float = 60.0  # between rounds of the sweeper
    archive: float = 3600.0  # after a job's end until it moves out of the tables that are hot
    blob_grace: float = 3600.0  # before a blob that nobody refers to is deleted
    look: float = 6 * 3600.0  # between looks at every blob that is kept
    scheduling_lease: float = 15.0  # a broker plans for an account this long without a renewal
    scheduling_renewal: float = 5.0  # between renewals; also how often the brokers are counted
    store_poll: float = 2.0  # between looks at what other brokers have written to the store
    update_check: float = 6 * 3600.0  # between looks for a newer version
    update_trial: float = 300.0  # for a new version to be online; else the one before comes back
    unknown_run: float = 600.0  # a run's estimate while nothing was measured; deadline is 3 x this

    def load_deadline(self, size: int) -> float:
        """Seconds that loading a model of `size` bytes may take."""
        return min(self.load_most, self.load_budget + self.load_per_gib * max(0, size) / 1024**3)

    def scaled(self, factor: float) -> Timers:
        return replace(self, **{f.name: getattr(self, f.name) * factor for f in fields(self)})

    @classmethod
    def from_environment(cls) -> Timers:
        """The standard timers times `FOXDEN_TIME_SCALE` (0.01 to 10).

        Raises ValueError, naming the variable, where it is no such number.
        """
        text = os.environ.get("FOXDEN_TIME_SCALE", "1")
        try:
            factor = float(text)
        except ValueError:
            factor = float("nan")
        if not 0.01 <= factor <= 10:
            raise ValueError(f"FOXDEN_TIME_SCALE is {text!r}: set a number from 0.01 to 10")
        return cls().scaled(factor)
