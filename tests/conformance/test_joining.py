"""Join links and enrolled agents: call × situation → outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from foxden_broker.store.base import Agent, JoinLink, StoreError
from foxden_broker.store.sql_store import open_store
from foxden_proto.join_links import Refusal

World = Any  # of conftest.py


def link(link_id: str = "l1", **more: Any) -> JoinLink:
    fields: dict[str, Any] = {
        "account_id": "den",
        "link_id": link_id,
        "secret_sha256": b"\x00hash\xff",
        "uses": 1,
        "used": 0,
        "approve": False,
        "member": "ann",
        "created_ms": 5,
        "expires_ms": 1_000,
    }
    return JoinLink(**(fields | more))


def agent(number: int = 1, **more: Any) -> Agent:
    fields: dict[str, Any] = {
        "account_id": "den",
        "agent_id": f"agent-{number}",
        "public_key": bytes([number]) * 32,
        "audience": "pin:1",
        "name": "PC",
        "version": "1",
        "cards": ("RTX 4090", "CPU"),
        "joined_from": "10.0.0.7",
        "link_id": "l1",
        "joined_ms": 0,
    }
    return Agent(**(fields | more))


async def test_join_link_is_read_back_listed_and_revoked_once(world: World) -> None:
    store = world.store
    await store.add_join_link(link("l2", created_ms=9))
    await store.add_join_link(link())
    assert await store.join_link("den", "l1") == link()
    assert await store.join_link("den", "nope") is None
    assert [one.link_id for one in await store.join_links("den")] == ["l1", "l2"]
    assert (await store.revoke_join_link("den", "l1", 50)) == link(revoked_ms=50)
    assert (await store.revoke_join_link("den", "l1", 60)) == link(revoked_ms=50)
    assert await store.revoke_join_link("den", "nope", 60) is None
    with pytest.raises(StoreError):
        await store.add_join_link(link(uses=9))
    assert await store.account_name("den") == "Den"
    assert await store.account_name("nope") == ""


async def test_enrolling_takes_a_use_and_keeps_the_agent(world: World) -> None:
    await world.store.add_join_link(link())
    done = await world.store.enrol(agent(), 100)
    assert done.agent == agent(joined_ms=100, approved_ms=100)
    assert not done.again
    assert await world.store.agent("den", "agent-1") == done.agent
    assert await world.store.agents("den") == (done.agent,)
    assert (await world.store.join_link("den", "l1")).used == 1


async def test_enrolling_the_same_key_again_takes_no_use_also_when_the_link_is_over(
    world: World,
) -> None:
    await world.store.add_join_link(link())
    first = await world.store.enrol(agent(), 100)
    again = await world.store.enrol(agent(name="renamed"), 5_000)
    assert (again.agent, again.again) == (first.agent, True)
    assert (await world.store.join_link("den", "l1")).used == 1


@pytest.mark.parametrize(
    ("made", "now", "why"),
    [
        ({"uses": 1, "used": 1}, 100, Refusal.USED_UP),
        ({"expires_ms": 100}, 100, Refusal.EXPIRED),
        ({"revoked_ms": 50}, 100, Refusal.REVOKED),
        ({"link_id": "another"}, 100, Refusal.UNKNOWN),
    ],
)
async def test_enrolling_with_a_link_that_is_over_is_refused_and_keeps_nothing(
    world: World, made: dict[str, Any], now: int, why: Refusal
) -> None:
    await world.store.add_join_link(link(**made))
    done = await world.store.enrol(agent(), now)
    assert (done.agent, done.refusal) == (None, why)
    assert await world.store.agents("den") == ()


async def test_two_who_come_at_once_for_the_last_use_one_gets_it(world: World) -> None:
    await world.store.add_join_link(link(uses=3))
    done = await asyncio.gather(*(world.store.enrol(agent(n), 100) for n in range(1, 11)))
    assert sum(one.agent is not None for one in done) == 3
    assert {one.refusal for one in done if one.agent is None} == {Refusal.USED_UP}
    assert (await world.store.join_link("den", "l1")).used == 3
    assert len(await world.store.agents("den")) == 3


async def test_one_key_that_comes_many_times_at_once_takes_one_use(world: World) -> None:
    await world.store.add_join_link(link(uses=30))
    done = await asyncio.gather(*(world.store.enrol(agent(), 100) for _ in range(10)))
    assert all(one.agent is not None for one in done)
    assert sum(not one.again for one in done) == 1
    assert (await world.store.join_link("den", "l1")).used == 1


async def test_another_key_for_a_taken_agent_id_is_refused_until_the_first_is_revoked(
    world: World,
) -> None:
    await world.store.add_join_link(link(uses=9))
    await world.store.enrol(agent(), 100)
    other = replace(agent(), public_key=b"o" * 32)
    assert (await world.store.enrol(other, 101)).refusal is Refusal.ID_TAKEN
    await world.store.revoke_agent("den", "agent-1", 102)
    await world.store.add_join_link(link("l2", uses=9))
    other = replace(other, link_id="l2")
    assert (await world.store.enrol(agent(link_id="l2"), 103)).refusal is Refusal.AGENT_REVOKED
    taken = (await world.store.enrol(other, 104)).agent
    assert taken is not None
    assert (taken.public_key, taken.revoked_ms) == (b"o" * 32, 0)


async def test_revoked_agent_gets_in_by_its_link_no_more_also_after_leaving(world: World) -> None:
    await world.store.add_join_link(link(uses=9))
    await world.store.enrol(agent(), 100)
    await world.store.revoke_agent("den", "agent-1", 101)
    assert not await world.store.forget_agent("den", "agent-1", agent().public_key)
    other = replace(agent(), public_key=b"o" * 32)
    assert (await world.store.enrol(other, 102)).refusal is Refusal.AGENT_REVOKED
    assert (await world.store.join_link("den", "l1")).used == 1


async def test_id_of_an_agent_with_a_token_is_taken_until_its_cards_are_forgotten(
    world: World,
) -> None:
    await world.store.add_join_link(link(approve=True))
    await world.store.save_cards("den", "agent-1", "PC", "1", [("c1", b"i")], 1)
    assert (await world.store.enrol(agent(), 100)).refusal is Refusal.ID_TAKEN
    assert (await world.store.join_link("den", "l1")).used == 0
    await world.store.forget_card("den", "c1")
    assert (await world.store.enrol(agent(), 101)).agent is not None


async def test_agent_of_a_link_with_approval_waits_and_is_approved_once(world: World) -> None:
    await world.store.add_join_link(link(approve=True))
    assert (await world.store.enrol(agent(), 100)).agent.approved_ms == 0
    assert (await world.store.approve_agent("den", "agent-1", 200)).approved_ms == 200
    assert (await world.store.approve_agent("den", "agent-1", 300)).approved_ms == 200
    assert await world.store.approve_agent("den", "nope", 300) is None
    assert (await world.store.revoke_agent("den", "agent-1", 400)).revoked_ms == 400
    assert (await world.store.revoke_agent("den", "agent-1", 500)).revoked_ms == 400
    assert await world.store.revoke_agent("den", "nope", 300) is None


async def test_forgetting_an_agent_needs_its_key_and_takes_its_cards_along(world: World) -> None:
    await world.store.add_join_link(link())
    await world.store.enrol(agent(cards=()), 100)
    await world.store.save_cards("den", "agent-1", "PC", "1", [("c1", b"i")], 1)
    await world.store.save_cards("den", "agent-2", "PC", "1", [("c2", b"i")], 1)
    assert not await world.store.forget_agent("den", "agent-1", b"x" * 32)
    assert await world.store.forget_agent("den", "agent-1", agent().public_key)
    assert not await world.store.forget_agent("den", "agent-1", agent().public_key)
    assert await world.store.agent("den", "agent-1") is None
    assert [card.card_id for card in await world.store.cards("den")] == ["c2"]


async def test_another_account_sees_and_changes_nothing(world: World) -> None:
    await world.store.add_join_link(link())
    await world.store.enrol(agent(), 100)
    store = world.store
    assert await store.join_link("fox", "l1") is None
    assert await store.join_links("fox") == ()
    assert await store.revoke_join_link("fox", "l1", 1) is None
    assert (await store.enrol(agent(2, account_id="fox"), 100)).refusal is Refusal.UNKNOWN
    assert await store.agents("fox") == ()
    assert await store.revoke_agent("fox", "agent-1", 1) is None
    assert not await store.forget_agent("fox", "agent-1", agent().public_key)
    assert (await store.agent("den", "agent-1")).revoked_ms == 0


async def test_uses_survive_a_restart(new_url: Callable[[], str]) -> None:
    url = new_url()
    store = await open_store(url)
    await store.add_join_link(link())
    await store.enrol(agent(), 100)
    await store.close()
    store = await open_store(url)
    assert (await store.enrol(agent(2), 101)).refusal is Refusal.USED_UP
    assert (await store.enrol(agent(), 102)).again
    await store.close()
