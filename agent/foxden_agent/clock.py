"""The clock that leases and pauses are counted on: monotonic, and it goes on while the PC sleeps.

Python's own monotonic clock stands still in sleep on Linux and macOS. By that one, an agent that
wakes after a night would believe for another 45 s in leases that ended hours ago.
"""

from __future__ import annotations

import sys
import time


def now() -> float:
    """Seconds since some moment, sleep included; only differences mean something.

    asyncio's timers count the other clock. A wait that the PC slept through ends late by the sleep,
    so whoever waits on it asks this clock anew after each wait, and keeps its waits short.
    """
    return _now()


def _sleepless() -> float:
    return time.clock_gettime(_WITH_SLEEP)


# Linux: CLOCK_BOOTTIME (clock_gettime(2)); macOS: CLOCK_MONOTONIC counts sleep, and Python takes
# CLOCK_UPTIME's (mach_absolute_time). On Windows time.monotonic() counts sleep already.
if sys.platform == "darwin":
    _WITH_SLEEP = time.CLOCK_MONOTONIC
else:
    _WITH_SLEEP = getattr(time, "CLOCK_BOOTTIME", -1)
_now = time.monotonic if sys.platform == "win32" or _WITH_SLEEP < 0 else _sleepless
