"""Who is calling: tokens from metadata or a header, looked up and checked."""

from __future__ import annotations

import asyncio
import time

from foxden_broker.account import now_ms
from foxden_broker.client_calls import Member
from foxden_broker.store.base import Agent, Store, Token
from foxden_broker.tokens import split, why_refused
from foxden_proto.problems import Problem, Reason

_REMEMBER_SECONDS = 2.0  # a revoked token works for this long at most, on another replica


class Doorkeeper:
    """Checks tokens; remembers a found token row for two seconds to spare the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._rows: dict[tuple[str, str], tuple[float, Token | None]] = {}
        self._asking: dict[tuple[str, str], asyncio.Task[Token | None]] = {}
        self._agents: dict[tuple[str, str], tuple[float, Agent | None]] = {}

    async def admit(self, authorization: str, *scopes: str) -> Member:
        """The member whose bearer token has one of the scopes; admin has them all but agent.

        Raises Problem UNAUTHORIZED or PERMISSION_DENIED.
        """
        kind, _, text = authorization.partition(" ")
        parts = split(text.strip()) if kind.lower() == "bearer" else None
        if parts is None:
            what = "no token was sent" if not authorization else "what was sent is not a token"
            raise self._refusal(what)
        account_id, token_id, secret = parts
        token = await self._row(account_id, token_id)
        why = why_refused(token, secret, now_ms())
        if why or token is None:
            raise self._refusal(why)
        held = token.scopes | ({"generate"} if "admin" in token.scopes else set())
        if not held & set(scopes):
            raise Problem(
                Reason.PERMISSION_DENIED,
                f"This needs a token of scope {' or '.join(scopes)}; yours has "
                f"{', '.join(sorted(token.scopes))}: ask an administrator for another token.",
                {"scope": scopes[0]},
            )
        return Member(account_id, token.member, token.scopes)

    async def agent(self, account_id: str, agent_id: str) -> Agent | None:
        """An agent that has joined with a key of its own, as the store knows it now."""
        if max(len(account_id), len(agent_id)) > 64 or not (account_id + agent_id).isprintable():
            return None
        kept, at = self._agents, time.monotonic()
        found = await self._store.agent(account_id, agent_id)
        if len(kept) > 10_000:
            kept.clear()
        kept[account_id, agent_id] = (at, found)  # where all was forgotten meanwhile, to nobody
        return found

    async def admit_agent(self, known: Agent) -> Agent:
        """The agent as it is now, approved or not. Raises Problem UNAUTHORIZED where it was
        revoked, has left, or has joined again with another key."""
        key = (known.account_id, known.agent_id)
        at, now = self._agents.get(key, (-_REMEMBER_SECONDS, None))
        if time.monotonic() - at >= _REMEMBER_SECONDS:
            now = await self.agent(*key)
        if now is None or now.public_key != known.public_key:
            raise self.unknown_key()
        if now.revoked_ms:
            raise revoked()
        return now

    @staticmethod
    def unknown_key() -> Problem:
        return Problem(
            Reason.UNAUTHORIZED,
            "The broker does not know this agent's key: it has left the pool, or the broker has "
            "lost its memory. Ask the administrator for a join link, then run `foxden join`.",
        )

    def forget(self) -> None:
        """After a revocation: the next call asks the store again."""
        self._agents = {}  # another one: what is on its way was read before
        self._rows.clear()
        self._asking.clear()

    async def _row(self, account_id: str, token_id: str) -> Token | None:
        key = (account_id, token_id)
        known = self._rows.get(key)
        if known is not None and time.monotonic() - known[0] < _REMEMBER_SECONDS:
            return known[1]
        # One question for all who come at once: after a restart thousands of agents do, and
        # theirs would keep the store busy for longer than an answer is remembered.
        asking = self._asking.get(key)
        if asking is None:
            asking = asyncio.create_task(self._ask(key))
            self._asking[key] = asking
        return await asyncio.shield(asking)

    async def _ask(self, key: tuple[str, str]) -> Token | None:
        me, now = asyncio.current_task(), time.monotonic()
        try:
            token = await self._store.token(*key)
            if self._asking.get(key) is me:  # nobody has revoked anything meanwhile
                if len(self._rows) > 10_000:  # a flood of made-up ids must not fill the memory
                    self._rows.clear()
                self._rows[key] = (now, token)
            return token
        finally:
            if self._asking.get(key) is me:
                del self._asking[key]

    @staticmethod
    def _refusal(why: str) -> Problem:
        return Problem(
            Reason.UNAUTHORIZED,
            f"The broker does not let you in: {why}. Run `foxden login`, or set FOXDEN_TOKEN.",
        )


def revoked() -> Problem:
    return Problem(
        Reason.UNAUTHORIZED,
        "This machine was shut out of the pool by its administrator: ask for a new join link if "
        "it shall come back, or run `foxden leave` to forget the pool.",
    )
