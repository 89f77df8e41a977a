"""The tables. `account_id` leads every key and index, so that a database can be cut by account.

There are no foreign keys: nothing is deleted that others point at, every row is written by one
of the use-case modules, and a distributed PostgreSQL would refuse most of them. A change here
needs a new file in migrations/versions; a test compares the two.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
)

metadata = MetaData()


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False)


def _int(name: str) -> Column[int]:
    return Column(name, Integer, nullable=False)


def _ms(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False)


def _bytes(name: str) -> Column[bytes]:
    return Column(name, LargeBinary, nullable=False)


def _key(table: str, *columns: str) -> PrimaryKeyConstraint:
    return PrimaryKeyConstraint(*columns, name=f"{table}_pk")


account = Table(
    "account",
    metadata,
    _text("account_id"),
    _text("name"),
    _ms("created_ms"),
    _key("account", "account_id"),
)

token = Table(
    "token",
    metadata,
    _text("account_id"),
    _text("token_id"),
    _bytes("secret_sha256"),
    _text("member"),
    _text("scopes"),  # sorted, separated by spaces
    _ms("created_ms"),
    _ms("expires_ms"),
    _ms("revoked_ms"),
    _key("token", "account_id", "token_id"),
)

job = Table(
    "job",
    metadata,
    _text("account_id"),
    _text("job_id"),
    _text("member"),
    _bytes("request"),
    _text("model_sha256"),
    _int("count"),
    _int("priority"),
    _text("state"),
    _ms("revision"),
    _ms("created_ms"),
    _ms("ended_ms"),
    _ms("deadline_ms"),
    Column("cancel_requested", Boolean, nullable=False),
    _text("reason"),
    _int("done"),
    _key("job", "account_id", "job_id"),
    Index("job_newest", "account_id", "created_ms", "job_id"),
    Index("job_newest_of_member", "account_id", "member", "created_ms", "job_id"),
    # Also finds the open jobs, and with them every queued or held task: those live in no other.
    Index("job_newest_in_state", "account_id", "state", "created_ms", "job_id"),
)

# Who used which idempotency key for what. A row older than the window is overwritten in place,
# by the same statement that claims a free key, so that two callers can never both win.
job_key = Table(
    "job_key",
    metadata,
    _text("account_id"),
    _text("member"),
    _text("key"),
    _text("job_id"),
    _bytes("request_digest"),
    _ms("created_ms"),
    _key("job_key", "account_id", "member", "key"),
)

# Deliberately without a second index: every statement comes with job_id, and each index would
# be written again with each change of state.
task = Table(
    "task",
    metadata,
    _text("account_id"),
    _text("job_id"),
    _int("idx"),
    _text("state"),
    _ms("lease_no"),
    _text("card_id"),
    _text("card_name"),
    _text("agent_id"),
    _text("reason"),
    _int("failures"),
    _int("losses"),
    _int("releases"),
    _ms("revision"),
    _ms("leased_ms"),
    _ms("started_ms"),
    _ms("ended_ms"),
    _key("task", "account_id", "job_id", "idx"),
    sqlite_with_rowid=False,
)

# A table of its own: its key lets the database itself refuse a second picture of an image.
picture = Table(
    "picture",
    metadata,
    _text("account_id"),
    _text("job_id"),
    _int("idx"),
    _text("sha256"),
    _ms("size"),
    _bytes("meta"),
    _key("picture", "account_id", "job_id", "idx"),
)

attempt = Table(
    "attempt",
    metadata,
    _text("account_id"),
    _text("job_id"),
    _int("idx"),
    _ms("lease_no"),
    _text("card_id"),
    _text("card_name"),
    _text("outcome"),
    _text("reason"),
    _ms("started_ms"),
    _ms("ended_ms"),
    _key("attempt", "account_id", "job_id", "idx", "lease_no"),
    sqlite_with_rowid=False,
)

card = Table(
    "card",
    metadata,
    _text("account_id"),
    _text("card_id"),
    _text("agent_id"),
    _text("agent_name"),
    _text("agent_version"),
    _bytes("info"),
    _ms("last_seen_ms"),
    _key("card", "account_id", "card_id"),
)

upload = Table(
    "upload",
    metadata,
    _text("account_id"),
    _text("upload_id"),
    _text("sha256"),
    _ms("size"),
    _text("media_type"),
    _ms("created_ms"),
    _key("upload", "account_id", "upload_id"),
)
