"""History, usage, quotas, scheduling leases, replicas. Frozen.

Adds tables, and columns with defaults: a broker of the version before goes on working while this
runs and after it. Nothing here reads or rewrites a big table. The indexes on tables that may be
big are in 0003.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
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
    if op.get_bind().dialect.name == "postgresql":
        # A change of a table waits for those who use it, and everybody else waits behind it:
        # give up soon, and be tried again.
        op.execute("SET LOCAL lock_timeout = '2s'")
    _columns()
    _tables()


def _columns() -> None:
    op.add_column("attempt", sa.Column("gpu_ms", sa.BigInteger()))
    op.add_column(
        "attempt",
        sa.Column("batch", sa.Integer(), nullable=False, server_default=sa.text("1")),
    )
    op.add_column(
        "attempt",
        sa.Column("counted", sa.Boolean(), nullable=False, server_default=sa.false()),
    )
    op.add_column(
        "card", sa.Column("standing", sa.Text(), nullable=False, server_default=sa.text("''"))
    )
    op.add_column(
        "upload",
        sa.Column("used_ms", sa.BigInteger(), nullable=False, server_default=sa.text("0")),
    )


def _tables() -> None:
    op.create_table(
        "job_history",
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
        _big("result_bytes"),
        _bytes("details"),
        sa.PrimaryKeyConstraint("account_id", "job_id", name="job_history_pk"),
    )
    for name, columns in (
        ("newest", ["account_id", "created_ms", "job_id"]),
        ("newest_of_member", ["account_id", "member", "created_ms", "job_id"]),
        ("newest_in_state", ["account_id", "state", "created_ms", "job_id"]),
        ("oldest", ["account_id", "ended_ms", "result_bytes"]),
    ):
        op.create_index(f"job_history_{name}", "job_history", columns)
    op.create_table(
        "usage",
        _text("account_id"),
        _text("member"),
        _text("day"),
        _big("images"),
        _big("gpu_ms"),
        sa.PrimaryKeyConstraint("account_id", "member", "day", name="usage_pk"),
    )
    op.create_table(
        "quota",
        _text("account_id"),
        _text("member"),
        _big("most_queued"),
        _big("most_running"),
        sa.Column("gpu_seconds_per_day", sa.Double(), nullable=False),
        _big("changed_ms"),
        sa.PrimaryKeyConstraint("account_id", "member", name="quota_pk"),
    )
    op.create_table(
        "scheduling_lease",
        _text("account_id"),
        _text("replica_id"),
        _big("epoch"),
        _big("until_ms"),
        sa.PrimaryKeyConstraint("account_id", name="scheduling_lease_pk"),
    )
    op.create_table(
        "replica",
        _text("replica_id"),
        _text("address"),
        _text("ca_pem"),
        _text("version"),
        _big("seen_ms"),
        sa.PrimaryKeyConstraint("replica_id", name="replica_pk"),
    )
    op.create_table(
        "secret",
        _text("name"),
        _bytes("value"),
        sa.PrimaryKeyConstraint("name", name="secret_pk"),
    )
