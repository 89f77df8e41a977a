"""The first tables. Frozen: a later change of schema.py gets a file of its own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
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
        "account",
        _text("account_id"),
        _text("name"),
        _big("created_ms"),
        sa.PrimaryKeyConstraint("account_id", name="account_pk"),
    )
    op.create_table(
        "token",
        _text("account_id"),
        _text("token_id"),
        _bytes("secret_sha256"),
        _text("member"),
        _text("scopes"),
        _big("created_ms"),
        _big("expires_ms"),
        _big("revoked_ms"),
        sa.PrimaryKeyConstraint("account_id", "token_id", name="token_pk"),
    )
    op.create_table(
        "job",
        _text("account_id"),
        _text("job_id"),
        _text("member"),
        _bytes("request"),
        _text("model_sha256"),
        _int("count"),
        _int("priority"),
        _text("state"),
        _big("revision"),
        _big("created_ms"),
        _big("ended_ms"),
        _big("deadline_ms"),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        _text("reason"),
        _int("done"),
        sa.PrimaryKeyConstraint("account_id", "job_id", name="job_pk"),
    )
    op.create_index("job_newest", "job", ["account_id", "created_ms", "job_id"])
    op.create_index("job_newest_of_member", "job", ["account_id", "member", "created_ms", "job_id"])
    op.create_index("job_newest_in_state", "job", ["account_id", "state", "created_ms", "job_id"])
    op.create_table(
        "job_key",
        _text("account_id"),
        _text("member"),
        _text("key"),
        _text("job_id"),
        _bytes("request_digest"),
        _big("created_ms"),
        sa.PrimaryKeyConstraint("account_id", "member", "key", name="job_key_pk"),
    )
    op.create_table(
        "task",
        _text("account_id"),
        _text("job_id"),
        _int("idx"),
        _text("state"),
        _big("lease_no"),
        _text("card_id"),
        _text("card_name"),
        _text("agent_id"),
        _text("reason"),
        _int("failures"),
        _int("losses"),
        _int("releases"),
        _big("revision"),
        _big("leased_ms"),
        _big("started_ms"),
        _big("ended_ms"),
        sa.PrimaryKeyConstraint("account_id", "job_id", "idx", name="task_pk"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "picture",
        _text("account_id"),
        _text("job_id"),
        _int("idx"),
        _text("sha256"),
        _big("size"),
        _bytes("meta"),
        sa.PrimaryKeyConstraint("account_id", "job_id", "idx", name="picture_pk"),
    )
    op.create_table(
        "attempt",
        _text("account_id"),
        _text("job_id"),
        _int("idx"),
        _big("lease_no"),
        _text("card_id"),
        _text("card_name"),
        _text("outcome"),
        _text("reason"),
        _big("started_ms"),
        _big("ended_ms"),
        sa.PrimaryKeyConstraint("account_id", "job_id", "idx", "lease_no", name="attempt_pk"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "card",
        _text("account_id"),
        _text("card_id"),
        _text("agent_id"),
        _text("agent_name"),
        _text("agent_version"),
        _bytes("info"),
        _big("last_seen_ms"),
        sa.PrimaryKeyConstraint("account_id", "card_id", name="card_pk"),
    )
    op.create_table(
        "upload",
        _text("account_id"),
        _text("upload_id"),
        _text("sha256"),
        _big("size"),
        _text("media_type"),
        _big("created_ms"),
        sa.PrimaryKeyConstraint("account_id", "upload_id", name="upload_pk"),
    )
