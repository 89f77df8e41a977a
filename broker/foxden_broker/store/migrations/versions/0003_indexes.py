"""Indexes on tables that may be big. Frozen.

On PostgreSQL they are built while others write (CONCURRENTLY), outside of a transaction. One that
an earlier try left unfinished is dropped and built again.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_INDEXES = (
    ("job_ended", "job", ["account_id", "ended_ms"], "ended_ms > 0"),
    ("job_key_oldest", "job_key", ["account_id", "created_ms"], None),
    ("picture_blob", "picture", ["account_id", "sha256"], None),
    ("upload_blob", "upload", ["account_id", "sha256"], None),
    ("upload_oldest", "upload", ["account_id", "created_ms"], None),
)


def upgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        for name, table, columns, where in _INDEXES:
            condition = None if where is None else sa.text(where)
            op.create_index(name, table, columns, sqlite_where=condition)
        return
    with op.get_context().autocommit_block():
        for name, table, columns, where in _INDEXES:
            if _unfinished(name):
                op.drop_index(name, postgresql_concurrently=True)
            op.create_index(
                name,
                table,
                columns,
                postgresql_where=None if where is None else sa.text(where),
                postgresql_concurrently=True,
                if_not_exists=True,
            )


def _unfinished(name: str) -> bool:
    query = sa.text("SELECT NOT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)")
    return bool(op.get_bind().execute(query, {"name": name}).scalar())
