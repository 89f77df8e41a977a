"""The doorkeeper asks the store once for all who come at once, and forgets what is revoked."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from foxden_broker.auth import Doorkeeper
from foxden_broker.store.base import Agent, StoreError, Token
from foxden_broker.tokens import new_token
from foxden_proto.problems import Problem


class Tokens:
    """A store with one token, whose answers wait until they are let go."""

    def __init__(self, token: Token) -> None:
        self.known: Token | None = token
        self.asked = 0
        self.go = asyncio.Event()
        self.broken = False

    async def token(self, account_id: str, token_id: str) -> Token | None:
        self.asked += 1
        known = self.known
        await self.go.wait()
        if self.broken:
            raise StoreError("gone")
        return known


@pytest.fixture
def made() -> tuple[Tokens, str]:
    token, text = new_token("den", "ann", frozenset({"agent"}), 1)
    return Tokens(token), f"Bearer {text}"


async def _enter(keeper: Any, header: str, number: int) -> list[Any]:
    entering = [asyncio.create_task(keeper.admit(header, "agent")) for _ in range(number)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return entering


async def test_thousand_who_come_at_once_cost_one_question(made: tuple[Tokens, str]) -> None:
    store, header = made
    keeper: Any = Doorkeeper(store)  # type: ignore[arg-type]
    entering = await _enter(keeper, header, 1000)
    store.go.set()
    members = await asyncio.gather(*entering)
    assert {member.name for member in members} == {"ann"}
    assert store.asked == 1


async def test_one_who_hangs_up_does_not_take_the_answer_from_the_others(
    made: tuple[Tokens, str],
) -> None:
    store, header = made
    keeper: Any = Doorkeeper(store)  # type: ignore[arg-type]
    first, second = await _enter(keeper, header, 2)
    first.cancel()
    store.go.set()
    assert (await second).name == "ann"


async def test_answer_that_was_on_its_way_at_a_revocation_is_not_remembered(
    made: tuple[Tokens, str],
) -> None:
    store, header = made
    assert store.known is not None
    keeper: Any = Doorkeeper(store)  # type: ignore[arg-type]
    (entering,) = await _enter(keeper, header, 1)
    store.known = replace(store.known, revoked_ms=2)
    keeper.forget()
    store.go.set()
    await entering
    with pytest.raises(Problem, match="revoked"):
        await keeper.admit(header, "agent")


async def test_store_that_fails_is_asked_again(made: tuple[Tokens, str]) -> None:
    store, header = made
    keeper: Any = Doorkeeper(store)  # type: ignore[arg-type]
    store.go.set()
    store.broken = True
    with pytest.raises(StoreError):
        await keeper.admit(header, "agent")
    store.broken = False
    assert (await keeper.admit(header, "agent")).name == "ann"


class Agents:
    """A store with one agent, whose answers wait until they are let go."""

    def __init__(self) -> None:
        self.known = Agent("den", "a", b"k" * 32, "pin:1", "PC", "1", (), "::1", "l", 1, 1)
        self.go = asyncio.Event()

    async def agent(self, account_id: str, agent_id: str) -> Agent | None:
        known = self.known
        await self.go.wait()
        return known


async def test_agent_that_is_revoked_while_the_store_answers_is_asked_for_again() -> None:
    store = Agents()
    keeper: Any = Doorkeeper(store)  # type: ignore[arg-type]
    asking = asyncio.create_task(keeper.agent("den", "a"))
    await asyncio.sleep(0)
    store.known = replace(store.known, revoked_ms=2)
    keeper.forget()
    store.go.set()
    known = await asking
    assert not known.revoked_ms
    with pytest.raises(Problem, match="shut out"):
        await keeper.admit_agent(known)
