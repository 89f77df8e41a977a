"""How long clients were without their broker, and how much of that this machine was too busy for.

The house promises that a broker which is killed and started again is back within ten seconds. A
machine that has other things to do can make any program late; the kernel tells how long the
starting broker was ready to run and had no core, and that time is not counted against it.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from chaos.invariants import Verdict

RECOVERY_SECONDS = 10.0


@dataclass(frozen=True)
class Recovery:
    """One fault and what came after it, in seconds."""

    mended: float  # from the fault until it was taken back; a broker: until that said it was ready
    finished: float  # from the fault until a job that was submitted after it had its pictures
    starting: float = 0.0  # of `mended`: from starting the program until it was ready
    no_core: float = 0.0  # of `starting`: ready to run, while others had the cores

    @property
    def judged(self) -> float:
        """What the product itself took."""
        return self.finished - self.no_core


def verdict(recoveries: Sequence[Recovery]) -> Verdict:
    """Broken by each kill after which the broker itself took too long."""
    late = [
        f"{one.finished:.1f} s after a kill ({one.starting:.1f} s of it to start, "
        f"{one.no_core:.1f} s of that without a core)"
        for one in recoveries
        if one.judged > RECOVERY_SECONDS
    ]
    excused = sum(one.judged <= RECOVERY_SECONDS < one.finished for one in recoveries)
    note = f"{excused} came later, for want of a core alone" if excused else ""
    what = f"broker back within {RECOVERY_SECONDS:.0f} s of a kill"
    return Verdict(what, len(recoveries), tuple(late), note)


def told(recoveries: Sequence[Recovery]) -> str:
    """What starting the broker took, and how busy the machine is."""
    if not recoveries:
        return machine()
    starting = [one.starting for one in recoveries]
    no_core = [one.no_core for one in recoveries]
    return (
        f"the broker's program took {statistics.median(starting):.1f} s to start "
        f"(worst {max(starting):.1f} s), of which it had no core for "
        f"{statistics.median(no_core):.1f} s (worst {max(no_core):.1f} s); {machine()}"
    )


def machine() -> str:
    loads = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    return f"{os.cpu_count()} cores, load {loads} (1, 5 and 15 minutes)"


def seconds_without_core(pid: int) -> float:
    """How long the main thread of a living process has been ready to run and had no core; 0 where
    the kernel does not say (man 5 proc: /proc/PID/schedstat, its second figure, in ns)."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0
