"""How many wrong links one network address may try. Pure: time is passed in.

Only failures count, and right links pass: thirty PCs behind one router join at once. A secret of
130 bits is not guessed in any case; this keeps those who try from keeping the store busy.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

_MOST = 10.0  # wrong ones in a burst
_PER_SECOND = 10 / 60.0  # that are forgiven
_REMEMBERED = 10_000  # addresses


@dataclass
class _Bucket:
    level: float
    at: float


class Tries:
    """A leaking bucket per address; an IPv6 host has a whole /64 to call from."""

    def __init__(self) -> None:
        self._buckets: dict[str, _Bucket] = {}

    def pause(self, address: str, now: float) -> float:
        """Seconds until this address may try again; 0: now. `now`: monotonic seconds."""
        bucket = self._buckets.get(network(address))
        over = self._level(bucket, now) - (_MOST - 1) if bucket else 0.0
        return max(0.0, over / _PER_SECOND)

    def failed(self, address: str, now: float) -> None:
        whose = network(address)
        bucket = self._buckets.pop(whose, None)
        level = self._level(bucket, now) + 1 if bucket else 1.0
        while len(self._buckets) >= _REMEMBERED:  # the one that failed longest ago
            del self._buckets[next(iter(self._buckets))]
        self._buckets[whose] = _Bucket(min(level, _MOST), now)

    @staticmethod
    def _level(bucket: _Bucket, now: float) -> float:
        return max(0.0, bucket.level - (now - bucket.at) * _PER_SECOND)


def network(address: str) -> str:
    """Whom an address belongs to, as far as it says: itself, or its /64."""
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if known.version == 4:
        return str(known)
    if known.ipv4_mapped is not None:
        return str(known.ipv4_mapped)
    return str(ipaddress.ip_network((int(known) >> 64 << 64, 64)))
