"""What the owner's page joins by, against a real broker."""

from __future__ import annotations

from typing import Any

import pytest

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
