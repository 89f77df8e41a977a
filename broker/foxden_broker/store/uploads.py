"""Uploads: what a member sent ahead of a job; the bytes are a blob."""

from __future__ import annotations

from sqlalchemy import Connection, insert, select

from foxden_broker.store.base import Upload
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
