"""What the store said about joining a moment ago, for questions that thousands ask at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from foxden_broker.store.base import Store

T = TypeVar("T")

_REMEMBER_SECONDS = 2.0


class Lately(Generic[T]):
    """An answer that serves everybody for two seconds."""

    def __init__(self, ask: Callable[[], Awaitable[T]]) -> None:
        self._ask = ask
        self._said: tuple[float, T] | None = None
        self._asking = asyncio.Lock()

    async def said(self) -> T:
        """Raises what asking raises; then the next one asks again."""
        async with self._asking:
            now = time.monotonic()
            if self._said is None or now - self._said[0] >= _REMEMBER_SECONDS:
                self._said = (now, await self._ask())
            return self._said[1]


class EnrolledIds:
    """Which ids belong to agents that have keys of their own: asked with each hello of an agent
    that has a token."""

    def __init__(self, store: Store, account_id: str) -> None:
        async def ask() -> frozenset[str]:
            found = await store.agents(account_id)
            return frozenset(
                one.agent_id for one in found if one.approved_ms and not one.revoked_ms
            )

        self._lately = Lately(ask)

    async def has(self, agent_id: str) -> bool:
        """Whether an agent that was let in, and is not revoked, has this id: who waits for a yes
        takes nobody's place. Raises StoreError."""
        return agent_id in await self._lately.said()
