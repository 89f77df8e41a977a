"""A task's newest checkpoint. Frozen.

The columns have defaults: an older broker goes on writing rows without them meanwhile.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        # A change of a table waits for those who use it, and everybody else waits behind it:
        # give up soon, and be tried again.
        op.execute("SET LOCAL lock_timeout = '2s'")
    for name, kind, default in (
        ("checkpoint_sha256", sa.Text(), "''"),
        ("checkpoint_size", sa.BigInteger(), "0"),
        ("checkpoint_step", sa.Integer(), "0"),
    ):
        op.add_column(
            "task", sa.Column(name, kind, nullable=False, server_default=sa.text(default))
        )
