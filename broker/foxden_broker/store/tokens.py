"""Accounts and tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, insert, select

from foxden_broker.store.base import Token
from foxden_broker.store.database import stamp, upsert
from foxden_broker.store.schema import account, token

_COLUMNS = (
    token.c.account_id,
    token.c.token_id,
    token.c.secret_sha256,
    token.c.member,
    token.c.scopes,
    token.c.created_ms,
    token.c.expires_ms,
    token.c.revoked_ms,
)


def ensure_account(conn: Connection, account_id: str, name: str, now_ms: int) -> None:
    conn.execute(
        upsert(conn.dialect.name, account).on_conflict_do_nothing(),
        {"account_id": account_id, "name": name, "created_ms": now_ms},
    )


def accounts(conn: Connection) -> tuple[str, ...]:
    return tuple(conn.scalars(select(account.c.account_id).order_by(account.c.account_id)))


def account_name(conn: Connection, account_id: str) -> str:
    query = select(account.c.name).where(account.c.account_id == account_id)
    return conn.scalars(query).first() or ""


def add(conn: Connection, new: Token) -> None:
    conn.execute(insert(token), _row(new))


def _row(new: Token) -> dict[str, Any]:
    return new.__dict__ | {"scopes": " ".join(sorted(new.scopes))}


def get(conn: Connection, account_id: str, token_id: str) -> Token | None:
    row = conn.execute(
        select(*_COLUMNS).where(token.c.account_id == account_id, token.c.token_id == token_id)
    ).first()
    return None if row is None else _token(row)


def was_added(conn: Connection, new: Token) -> bool:
    """Waits for a transaction that is still adding it."""
    statement = upsert(conn.dialect.name, token).on_conflict_do_nothing()
    conn.execute(statement.returning(token.c.token_id), _row(new))
    return get(conn, new.account_id, new.token_id) == new


def of_account(conn: Connection, account_id: str) -> tuple[Token, ...]:
    query = select(*_COLUMNS).where(token.c.account_id == account_id)
    rows = conn.execute(query.order_by(token.c.created_ms, token.c.token_id))
    return tuple(_token(row) for row in rows)


def revoke(conn: Connection, account_id: str, token_id: str, now_ms: int) -> Token | None:
    """The token after it; a second revocation keeps the time of the first."""
    mine = (token.c.account_id == account_id, token.c.token_id == token_id)
    stamp(conn, token, "revoked_ms", now_ms, *mine)
    return get(conn, account_id, token_id)


def _token(row: Sequence[Any]) -> Token:
    account_id, token_id, secret, member, scopes, created, expires, revoked = row
    return Token(
        account_id,
        token_id,
        bytes(secret),
        member,
        frozenset(scopes.split()),
        created,
        expires,
        revoked,
    )
