"""One period in which this broker plans for an account, and the fence around its writes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, cast

from foxden_broker.account import now_ms
from foxden_broker.replica_rules import Term
from foxden_broker.store.base import LeaseLost, Store

# What only the broker that plans for an account may write. Anything else (a submit, a token, an
# upload) is good from whichever broker it comes. The rows guard themselves, by state and
# `lease_no`: this fence is for the broker that was stopped for a minute and wakes up believing
# that all its agents are silent; by the rows alone it could take their images away.
_PLANNING = frozenset(
    {"assign", "start", "finish", "end_lease", "end_queued", "resolve", "cancel", "retry"}
)


class Tenure:
    """From taking an account's scheduling lease to losing it; never begins again."""

    def __init__(self, account_id: str, epoch: int, until: Term) -> None:
        self.account_id = account_id
        self.epoch = epoch
        self.over = asyncio.Event()
        self.why = ""
        self._term = until

    @property
    def holds(self) -> bool:
        return not self.over.is_set() and self._term.holds(time.monotonic(), now_ms())

    @property
    def seconds_left(self) -> float:
        return self._term.until - time.monotonic()

    def renewed(self, until: Term) -> None:
        self._term = until

    def end(self, why: str) -> None:
        if not self.over.is_set():
            self.why = why
            self.over.set()

    def check(self) -> None:
        """Raises LeaseLost once this broker may not plan any more."""
        if not self.holds:
            self.end("its lease ran out")
            raise LeaseLost(
                f"This broker does not plan for account {self.account_id} any more ({self.why}): "
                "ask again, another broker will answer."
            )


class _Fenced:
    """A store whose planning writes are refused once the tenure is over."""

    def __init__(self, store: Store, tenure: Tenure) -> None:
        self._store = store
        self._tenure = tenure

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        return self._guarded(name, method) if name in _PLANNING else method

    def _guarded(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        # Looking at the clock leaves a moment between the look and the commit. The database closes
        # it by comparing the epoch, for what the next tenure could not make good: images that are
        # handed out, and those of an old job that are queued again.
        fence = {"epoch": self._tenure.epoch} if name in ("assign", "retry") else {}

        async def call(*args: Any, **kwargs: Any) -> Any:
            self._tenure.check()
            try:
                return await method(*args, **kwargs, **fence)
            except LeaseLost:
                self._tenure.end("another broker plans now")
                raise

        return call


def fenced(store: Store, tenure: Tenure) -> Store:
    """The store as the account of this tenure sees it: `assign` and `retry` carry the tenure's
    epoch, and what a planner writes raises LeaseLost once the tenure is over."""
    return cast(Store, _Fenced(store, tenure))
