"""Which of several brokers plans for an account, and when it must stop. Pure.

One replica at a time holds the scheduling lease of an account. Who should have it is agreed upon
without a word: every replica ranks all living ones by a hash of their id and the account's
(rendezvous hashing: Thaler and Ravishankar, "Using name-based mappings to increase hit rates",
1998), so that accounts spread evenly and only a dead replica's accounts move.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from foxden_broker.store.base import SchedulingLease
from foxden_proto.timers import Timers

# Replicas that start together see each other after a look or two; a lease is valid a little
# shorter for its holder than for the others, whose clocks may be ahead.
_CLOCK_MARGIN = 1 / 15


def preference(account_id: str, replica_ids: Iterable[str]) -> list[str]:
    """The replicas in the order in which they should plan for this account."""

    def weight(replica_id: str) -> bytes:
        return hashlib.sha256(f"{account_id}\n{replica_id}".encode()).digest()

    return sorted(set(replica_ids), key=lambda r: (weight(r), r), reverse=True)


def is_free(lease: SchedulingLease | None, now_ms: int) -> bool:
    """Whether nobody plans by this lease any more: never taken, given up, or run out."""
    return lease is None or not lease.replica_id or lease.until_ms <= now_ms


def pause_before_taking(
    account_id: str, me: str, living: Iterable[str], free_for: float, timers: Timers
) -> float:
    """Seconds to wait before trying to take a lease that has been free for `free_for` seconds.

    The preferred replica tries at once, the next one renewal later, and so on: also one that
    seems alive but is not costs only this much.
    """
    place = preference(account_id, {*living, me}).index(me)
    return max(0.0, place * timers.scheduling_renewal - free_for)


@dataclass(frozen=True)
class Term:
    """How long a lease may be acted upon, in this machine's own clocks.

    Both clocks are asked: the monotonic one cannot be set, and the wall clock goes on while a
    machine sleeps.
    """

    until: float  # monotonic seconds
    until_ms: int  # Unix milliseconds

    def holds(self, now: float, now_ms: int) -> bool:
        return now < self.until and now_ms < self.until_ms


def term(asked: float, asked_ms: int, timers: Timers) -> Term:
    """The term of a lease that was asked for at these moments: from before the question, since
    nobody knows how long the answer took."""
    seconds = timers.scheduling_lease * (1 - _CLOCK_MARGIN)
    return Term(asked + seconds, asked_ms + int(seconds * 1000))
