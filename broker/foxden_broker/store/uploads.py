"""Uploads: what a member sent ahead of a job; the bytes are a blob."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, insert, select, update

from foxden_broker.store.base import Upload
from foxden_broker.store.database import upsert
from foxden_broker.store.schema import upload

_COLUMNS = (
    upload.c.account_id,
    upload.c.upload_id,
    upload.c.sha256,
    upload.c.size,
    upload.c.media_type,
    upload.c.created_ms,
)


def add(conn: Connection, new: Upload) -> None:
    conn.execute(insert(upload), {c.name: getattr(new, c.name) for c in _COLUMNS})


def get(conn: Connection, account_id: str, upload_id: str) -> Upload | None:
    row = conn.execute(
        select(*_COLUMNS).where(upload.c.account_id == account_id, upload.c.upload_id == upload_id)
    ).first()
    return None if row is None else Upload(*row)


def was_added(conn: Connection, new: Upload) -> bool:
    """Waits for a transaction that is still adding it."""
    row = {c.name: getattr(new, c.name) for c in _COLUMNS}
    conn.execute(upsert(conn.dialect.name, upload).on_conflict_do_nothing(), row)
    return get(conn, new.account_id, new.upload_id) == new


def touch(conn: Connection, account_id: str, upload_ids: Sequence[str], now_ms: int) -> None:
    """They are needed by a job made now: their time starts anew."""
    mine = (upload.c.account_id == account_id, upload.c.upload_id.in_(upload_ids))
    conn.execute(update(upload).where(*mine, upload.c.used_ms < now_ms).values(used_ms=now_ms))
