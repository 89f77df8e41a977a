"""Who plans for each account, as this broker knows it just now."""

from __future__ import annotations

import asyncio
from collections.abc import Container
from contextlib import suppress
from dataclasses import dataclass

from foxden_broker.store.base import Replica
from foxden_broker.tenure import Tenure


@dataclass(frozen=True)
class Owner:
    """Who plans for an account; `changed` is set once that is no longer known to be true."""

    replica: Replica | None  # None: nobody, or nobody that can be dialled
    tenure: Tenure | None  # where it is this broker itself
    epoch: int
    changed: asyncio.Event

    @property
    def mine(self) -> bool:
        return self.tenure is not None and self.tenure.holds

    @property
    def nobody(self) -> bool:
        return self.replica is None and not self.mine

    def is_same(self, other: Owner) -> bool:
        """Whether calls and links to the other can go on."""
        mine, others = self.replica, other.replica
        where = (mine.address, mine.ca_pem) if mine else None
        others_where = (others.address, others.ca_pem) if others else None
        same = self.tenure is other.tenure and self.epoch == other.epoch
        return same and where == others_where


class Owners:
    """By account; `accounts` are those that there are."""

    def __init__(self, accounts: Container[str]) -> None:
        self._accounts = accounts
        self._owners: dict[str, Owner] = {}

    def of(self, account_id: str) -> Owner:
        owner = self._owners.get(account_id)
        if owner is None:
            owner = Owner(None, None, 0, asyncio.Event())
            if account_id in self._accounts:  # a made-up token must not fill the memory
                self._owners[account_id] = owner
        return owner

    async def within(self, account_id: str, seconds: float) -> Owner:
        """The owner, waited for where there is none just now."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while (owner := self.of(account_id)).nobody:
                    await owner.changed.wait()
        return self.of(account_id)

    def say(
        self, account_id: str, replica: Replica | None, tenure: Tenure | None, epoch: int
    ) -> None:
        """Note who owns the account; where that is news, wake up who waited for it."""
        epoch = epoch if replica or tenure else 0
        before, after = self.of(account_id), Owner(replica, tenure, epoch, asyncio.Event())
        if not before.is_same(after):
            self._owners[account_id] = after
            before.changed.set()
