"""Which ids belong to agents that have keys of their own, as the store knew it a moment ago."""

from __future__ import annotations

import asyncio
import time

from foxden_broker.store.base import Store

_REMEMBER_SECONDS = 2.0


class EnrolledIds:
    """Asked with each hello of an agent that has a token. After a restart thousands come at once:
    one question serves all of them."""

    def __init__(self, store: Store, account_id: str) -> None:
        self._store = store
        self._account_id = account_id
        self._ids: frozenset[str] = frozenset()
        self._asked_at = -_REMEMBER_SECONDS
        self._asking = asyncio.Lock()

    async def has(self, agent_id: str) -> bool:
        """Whether an agent that was let in, and is not revoked, has this id: who waits for a yes
        takes nobody's place. Raises StoreError."""
        async with self._asking:
            if time.monotonic() - self._asked_at >= _REMEMBER_SECONDS:
                found = await self._store.agents(self._account_id)
                self._ids = frozenset(
                    one.agent_id for one in found if one.approved_ms and not one.revoked_ms
                )
                self._asked_at = time.monotonic()
        return agent_id in self._ids
