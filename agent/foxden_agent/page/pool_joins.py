"""Joining on the page: what `foxden join` does, in the words of the first run."""

from __future__ import annotations

import time
from pathlib import Path

from foxden_agent import joining
from foxden_agent.identity import HomeInUse
from foxden_agent.page.plugs import CannotJoin, Membership, Terms


class PoolJoins:
    """Joins pools with a key of this machine's own; `folder` is the agent's."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def memberships(self) -> list[Membership]:
        return [_membership(pool) for pool in joining.pools(self._folder) if pool.enrolled]

    async def look(self, link: str) -> Terms:
        try:
            terms = await joining.look(link)
        except joining.JoinError as error:
            raise CannotJoin(str(error)) from None
        details = [f"It is known by {terms.known_by}."]
        if terms.expires_ms:
            until = time.strftime("%d %B, %H:%M", time.localtime(terms.expires_ms / 1000))
            details.append(f"The link is good until {until}.")
        details += [*terms.may, *terms.never]
        return Terms(
            terms.account_name or terms.account_id, terms.broker, terms.approve, tuple(details)
        )

    async def join(self, link: str, name: str) -> Membership:
        try:
            joined = await joining.join(self._folder, link, name=name)
        except (joining.JoinError, HomeInUse) as error:
            raise CannotJoin(str(error)) from None
        except OSError as error:
            raise CannotJoin(
                f"{self._folder} cannot be written ({error.strerror or error}): "
                "see to its rights and to the disk's space, then join again."
            ) from None
        return _membership(joined.pool)


def _membership(pool: joining.Pool) -> Membership:
    """Without a token: the agent says who it is with the pool's key."""
    return Membership(pool.address, "", pool.title, pool.name, pool.fetch_engine, pool.key_id)
