"""Finds a checkpoint by its sha256, for the sweeper. Frozen.

A step of its own: on PostgreSQL it is built while others write, outside of a transaction.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_NAME, _COLUMNS = "task_checkpoint", ["account_id", "checkpoint_sha256"]
_WHERE = sa.text("checkpoint_sha256 != ''")


def upgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        op.create_index(_NAME, "task", _COLUMNS, sqlite_where=_WHERE)
        return
    with op.get_context().autocommit_block():
        query = sa.text("SELECT NOT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)")
        if op.get_bind().execute(query, {"name": _NAME}).scalar():
            op.drop_index(_NAME, postgresql_concurrently=True)  # left unfinished by an earlier try
        op.create_index(
            _NAME,
            "task",
            _COLUMNS,
            postgresql_where=_WHERE,
            postgresql_concurrently=True,
            if_not_exists=True,
        )
