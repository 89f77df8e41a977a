"""Join links and the agents that came by them."""

from __future__ import annotations

import hmac
from dataclasses import replace

from sqlalchemy import Connection, Row, delete, insert, select, update

from foxden_broker.store.base import Agent, Enrolled, JoinLink
from foxden_broker.store.database import stamp, upsert
from foxden_broker.store.schema import agent, card, join_link
from foxden_proto.join_links import Refusal

_LINK = tuple(join_link.c)
_AGENT = tuple(agent.c)


def add_link(conn: Connection, new: JoinLink) -> None:
    conn.execute(insert(join_link), new.__dict__)


def link_was_added(conn: Connection, new: JoinLink) -> bool:
    """Waits for a transaction that is still adding it."""
    conn.execute(upsert(conn.dialect.name, join_link).on_conflict_do_nothing(), new.__dict__)
    return get_link(conn, new.account_id, new.link_id) == new


def get_link(conn: Connection, account_id: str, link_id: str) -> JoinLink | None:
    mine = (join_link.c.account_id == account_id, join_link.c.link_id == link_id)
    row = conn.execute(select(*_LINK).where(*mine)).first()
    return None if row is None else _link(row)


def links(conn: Connection, account_id: str) -> tuple[JoinLink, ...]:
    query = select(*_LINK).where(join_link.c.account_id == account_id)
    rows = conn.execute(query.order_by(join_link.c.created_ms, join_link.c.link_id))
    return tuple(_link(row) for row in rows)


def revoke_link(conn: Connection, account_id: str, link_id: str, now_ms: int) -> JoinLink | None:
    """The link after it; a second revocation keeps the time of the first."""
    mine = (join_link.c.account_id == account_id, join_link.c.link_id == link_id)
    stamp(conn, join_link, "revoked_ms", now_ms, *mine)
    return get_link(conn, account_id, link_id)


def enrol(conn: Connection, new: Agent, now_ms: int) -> Enrolled:
    """See Store.enrol. Everybody who comes with the same link waits here for the one before."""
    mine = (join_link.c.account_id == new.account_id, join_link.c.link_id == new.link_id)
    row = conn.execute(select(*_LINK).where(*mine).with_for_update()).first()
    before = get(conn, new.account_id, new.agent_id)
    if before is not None:
        if hmac.compare_digest(before.public_key, new.public_key):
            if before.revoked_ms:
                return Enrolled(None, Refusal.AGENT_REVOKED)
            return Enrolled(before, again=True)
        if not before.revoked_ms:
            return Enrolled(None, Refusal.ID_TAKEN)
        if before.link_id == new.link_id:  # shut out, it may have kept the link
            return Enrolled(None, Refusal.AGENT_REVOKED)
    elif _has_cards(conn, new.account_id, new.agent_id):  # it came with a token
        return Enrolled(None, Refusal.ID_TAKEN)
    if row is None:
        return Enrolled(None, Refusal.UNKNOWN)
    link = _link(row)
    if link.revoked_ms:
        return Enrolled(None, Refusal.REVOKED)
    if link.expires_ms <= now_ms:
        return Enrolled(None, Refusal.EXPIRED)
    taken = conn.execute(
        update(join_link)
        .where(*mine, join_link.c.used < join_link.c.uses)
        .values(used=join_link.c.used + 1)
    )
    if taken.rowcount != 1:
        return Enrolled(None, Refusal.USED_UP)
    kept = replace(new, joined_ms=now_ms, approved_ms=0 if link.approve else now_ms, revoked_ms=0)
    statement = upsert(conn.dialect.name, agent)
    fresh = statement.excluded
    changed = [c.name for c in _AGENT if c.name not in ("account_id", "agent_id")]
    conn.execute(
        statement.on_conflict_do_update(
            index_elements=[agent.c.account_id, agent.c.agent_id],
            set_={name: fresh[name] for name in changed},
        ),
        kept.__dict__ | {"cards": "\n".join(kept.cards)},
    )
    return Enrolled(kept)


def _has_cards(conn: Connection, account_id: str, agent_id: str) -> bool:
    mine = (card.c.account_id == account_id, card.c.agent_id == agent_id)
    return conn.execute(select(card.c.card_id).where(*mine).limit(1)).first() is not None


def was_enrolled(conn: Connection, new: Agent, result: Enrolled) -> bool:
    """Where nothing was kept, trying again does no harm."""
    mine = (join_link.c.account_id == new.account_id, join_link.c.link_id == new.link_id)
    conn.execute(select(join_link.c.used).where(*mine).with_for_update())
    found = get(conn, new.account_id, new.agent_id)
    return found is not None and found == result.agent


def get(conn: Connection, account_id: str, agent_id: str) -> Agent | None:
    mine = (agent.c.account_id == account_id, agent.c.agent_id == agent_id)
    row = conn.execute(select(*_AGENT).where(*mine)).first()
    return None if row is None else _agent(row)


def of_account(conn: Connection, account_id: str) -> tuple[Agent, ...]:
    query = select(*_AGENT).where(agent.c.account_id == account_id)
    rows = conn.execute(query.order_by(agent.c.name, agent.c.agent_id))
    return tuple(_agent(row) for row in rows)


def approve(conn: Connection, account_id: str, agent_id: str, now_ms: int) -> Agent | None:
    return _stamp(conn, account_id, agent_id, "approved_ms", now_ms)


def revoke(conn: Connection, account_id: str, agent_id: str, now_ms: int) -> Agent | None:
    return _stamp(conn, account_id, agent_id, "revoked_ms", now_ms)


def _stamp(
    conn: Connection, account_id: str, agent_id: str, column: str, now_ms: int
) -> Agent | None:
    mine = (agent.c.account_id == account_id, agent.c.agent_id == agent_id)
    stamp(conn, agent, column, now_ms, *mine)
    return get(conn, account_id, agent_id)


def forget(conn: Connection, account_id: str, agent_id: str, public_key: bytes) -> bool:
    mine = (agent.c.account_id == account_id, agent.c.agent_id == agent_id)
    shut_out = agent.c.revoked_ms != 0  # else leaving would undo it
    gone = conn.execute(delete(agent).where(*mine, agent.c.public_key == public_key, ~shut_out))
    if gone.rowcount != 1:
        return False
    conn.execute(delete(card).where(card.c.account_id == account_id, card.c.agent_id == agent_id))
    return True


def _link(row: Row[tuple[object, ...]]) -> JoinLink:
    values = dict(row._mapping)
    return JoinLink(**values | {"secret_sha256": bytes(values["secret_sha256"])})


def _agent(row: Row[tuple[object, ...]]) -> Agent:
    values = dict(row._mapping)
    values["public_key"] = bytes(values["public_key"])
    values["cards"] = tuple(values["cards"].split("\n")) if values["cards"] else ()
    return Agent(**values)
