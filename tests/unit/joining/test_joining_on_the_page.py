"""What the owner's page joins by, against a real broker."""

from __future__ import annotations

import json
from typing import Any

import pytest

from foxden_agent import joining
from foxden_agent.page.plugs import CannotJoin
from foxden_agent.page.pool_joins import PoolJoins

Den = Any  # of conftest.py


async def test_link_x_terms_first_and_then_a_membership_that_is_remembered(
    den: Den, tmp_path: Any
) -> None:
    joins = PoolJoins(tmp_path / "agent")
    link = await den.link(approve=True)
    terms = await joins.look(link)
    assert (terms.account, terms.broker) == ("main", den.address.grpc_target)
    assert terms.approval
    assert any("never written to your disk" in line for line in terms.details)
    assert not joins.memberships()
    joined = await joins.join(link, "Ann's PC")
    assert (joined.broker, joined.token, joined.name) == (den.address, "", "Ann's PC")
    assert joins.memberships() == [joined]  # also its name: the next start is called so too
    assert joined.key_id


async def test_joined_with_leave_to_fetch_the_engine_x_remembered_also_when_joined_again(
    den: Den, tmp_path: Any
) -> None:
    link = await den.link(uses=2)
    for leave in (True, False):
        await joining.join(tmp_path, link, fetch_engine=leave)
        assert [one.fetch_engine for one in PoolJoins(tmp_path).memberships()] == [True]


async def test_entry_of_an_older_version_x_read_and_one_that_is_no_pool_left_out(
    den: Den, tmp_path: Any
) -> None:
    await joining.join(tmp_path, await den.link())
    file = tmp_path / "pools.json"
    (entry,) = json.loads(file.read_text())["pools"]
    older = {key: value for key, value in entry.items() if key not in ("name", "fetch_engine")}
    bad = [entry | {"joined_ms": True}, entry | {"url": 1}, {"url": entry["url"]}, None]
    file.write_text(json.dumps({"pools": [older, *bad]}))
    (member,) = PoolJoins(tmp_path).memberships()
    assert not member.fetch_engine


async def test_link_that_is_of_no_use_x_a_sentence_for_the_owner(den: Den, tmp_path: Any) -> None:
    joins = PoolJoins(tmp_path / "agent")
    link = await den.link()
    with pytest.raises(CannotJoin, match="copy the whole link"):
        await joins.look(link[:-1])
    await den.stop()
    for asked in (joins.look(link), joins.join(link, "")):
        with pytest.raises(CannotJoin, match="Nothing is used up"):
            await asked
    assert not joins.memberships()
