"""Join links, and agents with keys of their own. Frozen.

Adds tables alone: a broker of the version before goes on working while this runs and after it.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=False)


def _int(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer(), nullable=False)


def _big(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=False)


def _bytes(name: str) -> sa.Column[bytes]:
    return sa.Column(name, sa.LargeBinary(), nullable=False)


def upgrade() -> None:
    op.create_table(
        "join_link",
        _text("account_id"),
        _text("link_id"),
        _bytes("secret_sha256"),
        _int("uses"),
        _int("used"),
        sa.Column("approve", sa.Boolean(), nullable=False),
        _text("member"),
        _big("created_ms"),
        _big("expires_ms"),
        _big("revoked_ms"),
        sa.PrimaryKeyConstraint("account_id", "link_id", name="join_link_pk"),
    )
    op.create_table(
        "agent",
        _text("account_id"),
        _text("agent_id"),
        _bytes("public_key"),
        _text("audience"),
        _text("name"),
        _text("version"),
        _text("cards"),
        _text("joined_from"),
        _text("link_id"),
        _big("joined_ms"),
        _big("approved_ms"),
        _big("revoked_ms"),
        sa.PrimaryKeyConstraint("account_id", "agent_id", name="agent_pk"),
    )
