"""What an administrator does about joining: links, and the agents that came by them."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

from foxden_broker.account import Account, now_ms
from foxden_broker.auth import revoked
from foxden_broker.joining.links import new_link
from foxden_broker.joining.removal import remove
from foxden_broker.named import the_one
from foxden_broker.problems import invalid, not_found
from foxden_broker.store.base import Agent, JoinLink, Store
from foxden_proto import logs
from foxden_proto.address import Address, AddressError, parse
from foxden_proto.problems import Problem, Reason
from foxden_proto.v1 import pool_pb2 as pb

log = logging.getLogger(__name__)

_MOST_USES = 10_000
_HOUR = 3600.0
_YEAR = 366 * 24 * _HOUR


async def create_link(
    store: Store,
    account_id: str,
    member: str,
    own: Address | None,
    request: pb.CreateJoinLinkRequest,
) -> pb.CreateJoinLinkResponse:
    """Raises Problem INVALID_REQUEST for uses, a time or an address that cannot be."""
    uses = request.uses or 1
    if not 1 <= uses <= _MOST_USES:
        raise invalid("uses", f"a link for {uses} machines", f"1 to {_MOST_USES:,}")
    seconds = request.expires_in or _HOUR
    if math.isnan(seconds) or not 1 <= seconds <= _YEAR:
        raise invalid("expires_in", f"a link for {seconds} s", "1 second to a year")
    try:
        address = parse(request.address) if request.address else own
    except AddressError as error:
        raise invalid("address", str(error), "what agents dial, foxden://host:port") from None
    if address is None:
        raise Problem(Reason.UNAVAILABLE, "The broker is still starting: try again.")
    link, text = new_link(
        account_id,
        address,
        uses=uses,
        approve=request.approve,
        member=member,
        now_ms=now_ms(),
        expires_ms=now_ms() + int(seconds * 1000),
    )
    await store.add_join_link(link)
    return pb.CreateJoinLinkResponse(link=_link(link), text=text)


async def list_links(store: Store, account_id: str) -> pb.ListJoinLinksResponse:
    return pb.ListJoinLinksResponse(
        links=[_link(one) for one in await store.join_links(account_id)]
    )


async def revoke_link(store: Store, account_id: str, link_id: str) -> pb.JoinLink:
    """Machines that have joined by it stay in. Raises Problem NOT_FOUND."""
    link = None
    if link_id.isprintable():  # no id is otherwise, and PostgreSQL takes no NUL
        link = await store.revoke_join_link(account_id, link_id, now_ms())
    if link is None:
        raise not_found("join link", link_id)
    return _link(link)


async def list_agents(account: Account) -> pb.ListAgentsResponse:
    found = await account.store.agents(account.account_id)
    return pb.ListAgentsResponse(agents=[_agent(account, one) for one in found])


async def approve(account: Account, name: str) -> pb.Agent:
    """Raises Problem NOT_FOUND, or INVALID_REQUEST where several fit or it was revoked."""
    found = await _find(account, name)
    if found.revoked_ms:
        what = f"{found.name} ({found.agent_id}) was revoked"
        raise invalid("agent", what, "a new join link for it")
    agent = await account.store.approve_agent(account.account_id, found.agent_id, now_ms())
    if agent is None:
        raise not_found("agent", name)
    _note("agent %s (%s) may work here", agent)
    return _agent(account, agent)


async def revoke(account: Account, name: str, forget: Callable[[], None]) -> pb.Agent:
    """Its key is of no use from now on, its link ends at once. `forget` is called when the store
    knows. Raises Problem NOT_FOUND, or INVALID_REQUEST where several fit."""
    found = await _find(account, name)
    agent = await account.store.revoke_agent(account.account_id, found.agent_id, now_ms())
    if agent is None:
        raise not_found("agent", name)
    forget()
    _note("agent %s (%s) was revoked", agent)
    await remove(account, agent.agent_id, revoked().message)
    return _agent(account, agent)


def _note(what: str, agent: Agent) -> None:
    told = logs.fields(agent=agent.agent_id, account=agent.account_id)
    log.info(what, agent.name, agent.agent_id, extra=told)


async def _find(account: Account, name: str) -> Agent:
    """The agent with this id or name, or the only one whose id or name begins so."""
    agents = await account.store.agents(account.account_id)
    return the_one(
        *("agent", name, agents),
        lambda agent: (agent.agent_id, agent.name),
        listed_by="foxden agents list",
    )


def _link(link: JoinLink) -> pb.JoinLink:
    return pb.JoinLink(
        link_id=link.link_id,
        uses=link.uses,
        used=link.used,
        approve=link.approve,
        member=link.member,
        created_ms=link.created_ms,
        expires_ms=link.expires_ms,
        revoked_ms=link.revoked_ms,
    )


def _agent(account: Account, agent: Agent) -> pb.Agent:
    session = account.sessions.get(agent.agent_id)
    return pb.Agent(
        agent_id=agent.agent_id,
        name=agent.name,
        version=agent.version,
        cards=agent.cards,
        joined_from=agent.joined_from,
        link_id=agent.link_id,
        joined_ms=agent.joined_ms,
        approved_ms=agent.approved_ms,
        revoked_ms=agent.revoked_ms,
        online=session is not None and session.link.up,
    )
