"""The door for machines that join, with a real store behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from foxden_broker.joining import enrolled, links
from foxden_broker.joining.enrolled import EnrolledIds
from foxden_broker.joining.enrolment import Enrolment, Refused
from foxden_broker.store.base import Agent, Store
from foxden_broker.store.sql_store import open_store
from foxden_broker.uploads import Signer
from foxden_proto import join_links
from foxden_proto.address import Address
from foxden_proto.join_links import Refusal

HERE = "10.0.0.7"


class Counted:
    """The store, and what it was asked."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        self.asked.append(name)
        return getattr(self._store, name)


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[Any]:
    store = await open_store(str(tmp_path / "foxden.db"))
    await store.ensure_account("main", "main", 0)
    yield Counted(store)
    await store.close()


async def made(store: Store, *, approve: bool = False) -> join_links.JoinLink:
    link, text = links.new_link(
        *("main", Address("127.0.0.1")),
        uses=9,
        approve=approve,
        member="ann",
        now_ms=0,
        expires_ms=1000,
    )
    await store.add_join_link(link)
    return join_links.read(text)


def agent(link: join_links.JoinLink, agent_id: str) -> Agent:
    key = agent_id.encode().ljust(32)
    return Agent("main", agent_id, key, "pin:1", "PC", "1", (), HERE, link.link_id, joined_ms=0)


async def refusal(door: Enrolment, bearer: str) -> Refusal | None:
    try:
        await door.look(bearer, HERE, 0)
    except Refused as refused:
        return refused.why
    return None


async def test_right_link_passes_among_wrong_ones_which_ask_the_store_no_more(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enrolled, "_REMEMBER_SECONDS", 600)
    right = await made(store)
    wrong = replace(right, secret="b" * 26).bearer
    unknown = replace(right, link_id="b" * 8).bearer
    door = Enrolment(store, {"main"}, Signer(b"k" * 32))
    for _ in range(10):
        assert await refusal(door, wrong) is Refusal.UNKNOWN
    store.asked.clear()
    for bearer in [wrong, unknown, "no link", right.bearer] * 20:
        expected = None if bearer == right.bearer else Refusal.TOO_MANY_TRIES
        assert await refusal(door, bearer) is expected
    assert [name for name in store.asked if name != "account_name"] == ["join_links"]


async def test_ids_that_are_enrolled_are_of_agents_that_may_work_and_one_question_serves_all(
    store: Any,
) -> None:
    at_once, approved = await made(store), await made(store, approve=True)
    await store.enrol(agent(at_once, "in"), 1)
    await store.enrol(agent(at_once, "out"), 1)
    await store.revoke_agent("main", "out", 2)
    await store.enrol(agent(approved, "waits"), 1)
    await store.enrol(agent(approved, "told-yes"), 1)
    await store.approve_agent("main", "told-yes", 2)
    store.asked.clear()
    ids = EnrolledIds(store, "main")
    asked = ["in", "out", "waits", "told-yes", "nobody"]
    told = await asyncio.gather(*(ids.has(one) for one in asked))
    assert dict(zip(asked, told, strict=True)) == {
        "in": True,
        "out": False,
        "waits": False,
        "told-yes": True,
        "nobody": False,
    }
    assert store.asked == ["agents"]
