"""Cards as their agents last described them."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, delete, select, update

from foxden_broker.store.base import STANDINGS, CardRow
from foxden_broker.store.database import upsert
from foxden_broker.store.schema import card


def save(
    conn: Connection,
    account_id: str,
    agent_id: str,
    agent_name: str,
    agent_version: str,
    cards: Sequence[tuple[str, bytes]],
    now_ms: int,
) -> None:
    """A card that moved to another machine moves with its id; one that is gone is forgotten.
    What an administrator decided for a card (`standing`) stays."""
    rows = [
        {
            "account_id": account_id,
            "card_id": card_id,
            "agent_id": agent_id,
            "agent_name": agent_name,
            "agent_version": agent_version,
            "info": info,
            "last_seen_ms": now_ms,
        }
        for card_id, info in sorted(dict(cards).items())
    ]
    conn.execute(
        delete(card).where(
            card.c.account_id == account_id,
            card.c.agent_id == agent_id,
            card.c.card_id.not_in([card_id for card_id, _ in cards]),
        )
    )
    if rows:
        statement = upsert(conn.dialect.name, card)
        fresh = statement.excluded
        columns = ("agent_id", "agent_name", "agent_version", "info", "last_seen_ms")
        conn.execute(
            statement.on_conflict_do_update(
                index_elements=[card.c.account_id, card.c.card_id],
                set_={name: fresh[name] for name in columns},
            ),
            rows,
        )


def of_account(conn: Connection, account_id: str) -> tuple[CardRow, ...]:
    rows = conn.execute(
        select(
            card.c.account_id,
            card.c.card_id,
            card.c.agent_id,
            card.c.agent_name,
            card.c.agent_version,
            card.c.info,
            card.c.last_seen_ms,
            card.c.standing,
        )
        .where(card.c.account_id == account_id)
        .order_by(card.c.agent_name, card.c.card_id)
    )
    return tuple(CardRow(*row[:5], bytes(row[5]), *row[6:]) for row in rows)


def set_standing(conn: Connection, account_id: str, card_id: str, standing: str) -> bool:
    if standing not in STANDINGS:
        raise ValueError(f"A card can't be {standing!r}: it is cordoned, draining, or neither.")
    mine = (card.c.account_id == account_id, card.c.card_id == card_id)
    return conn.execute(update(card).where(*mine).values(standing=standing)).rowcount == 1


def forget(conn: Connection, account_id: str, card_id: str) -> bool:
    mine = (card.c.account_id == account_id, card.c.card_id == card_id)
    return conn.execute(delete(card).where(*mine)).rowcount == 1
