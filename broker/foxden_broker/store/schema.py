"""The tables. `account_id` leads every key and index, so that a database can be cut by account.

There are no foreign keys: what belongs together is deleted together, every row is written by one
of the use-case modules, and a distributed PostgreSQL would refuse most of them. A change here
needs a new file in migrations/versions; a test compares the two. New columns have a default in
the database, because an older broker may go on writing rows while a newer one starts.

`job`, `task` and `attempt` are hot: they hold what is open and what ended a short time ago. The
rest is in `job_history`, one row per job.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    false,
    text,
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

join_link = Table(
    "join_link",
    metadata,
    _text("account_id"),
    _text("link_id"),
    _bytes("secret_sha256"),
    _int("uses"),
    _int("used"),
    Column("approve", Boolean, nullable=False),
    _text("member"),
    _ms("created_ms"),
    _ms("expires_ms"),
    _ms("revoked_ms"),
    _key("join_link", "account_id", "link_id"),
)

agent = Table(
    "agent",
    metadata,
    _text("account_id"),
    _text("agent_id"),
    _bytes("public_key"),
    _text("audience"),
    _text("name"),
    _text("version"),
    _text("cards"),  # one a line
    _text("joined_from"),
    _text("link_id"),
    _ms("joined_ms"),
    _ms("approved_ms"),
    _ms("revoked_ms"),
    _key("agent", "account_id", "agent_id"),
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
# What may go to history. Only ended jobs are in it.
Index(
    "job_ended",
    job.c.account_id,
    job.c.ended_ms,
    sqlite_where=job.c.ended_ms > 0,
    postgresql_where=job.c.ended_ms > 0,
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
    Index("job_key_oldest", "account_id", "created_ms"),
)

# Deliberately without an index on what changes: every statement comes with job_id, and each
# index would be written again with each change of state.
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
    # Empty and 0: none. An older broker leaves them as they are, also where the task ends.
    Column("checkpoint_sha256", Text, nullable=False, server_default=text("''")),
    Column("checkpoint_size", BigInteger, nullable=False, server_default=text("0")),
    Column("checkpoint_step", Integer, nullable=False, server_default=text("0")),
    _key("task", "account_id", "job_id", "idx"),
    sqlite_with_rowid=False,
)
# Only of the few tasks that have one: what else changes in `task` does not touch it.
Index(
    "task_checkpoint",
    task.c.account_id,
    task.c.checkpoint_sha256,
    sqlite_where=task.c.checkpoint_sha256 != "",
    postgresql_where=task.c.checkpoint_sha256 != "",
)

# A table of its own: its key lets the database itself refuse a second picture of an image. The
# pictures of a job stay here when it goes to history, until their time is over.
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
    Index("picture_blob", "account_id", "sha256"),
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
    # Written when it ends: how long it held its card, shared among the images of its batch. NULL
    # while it lasts, and where an older broker wrote it.
    Column("gpu_ms", BigInteger),
    Column("batch", Integer, nullable=False, server_default=text("1")),
    Column("counted", Boolean, nullable=False, server_default=false()),  # is in `usage`
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
    Column("standing", Text, nullable=False, server_default=text("''")),
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
    Column("used_ms", BigInteger, nullable=False, server_default=text("0")),  # 0: by no job yet
    _key("upload", "account_id", "upload_id"),
    Index("upload_blob", "account_id", "sha256"),
    Index("upload_oldest", "account_id", "created_ms"),
)

# Jobs that ended a while ago, each with all it had but its pictures. Not partitioned by time on
# PostgreSQL: the key of a partitioned table would have to contain the time, which no caller
# knows; old rows are found by an index and deleted a few at a time.
job_history = Table(
    "job_history",
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
    _ms("result_bytes"),  # of the pictures that are still kept
    _bytes("details"),  # tasks and attempts, see history.py
    _key("job_history", "account_id", "job_id"),
    Index("job_history_newest", "account_id", "created_ms", "job_id"),
    Index("job_history_newest_of_member", "account_id", "member", "created_ms", "job_id"),
    Index("job_history_newest_in_state", "account_id", "state", "created_ms", "job_id"),
    # With the size, so that adding up what is kept reads the index only.
    Index("job_history_oldest", "account_id", "ended_ms", "result_bytes"),
)

# What members used, of attempts whose jobs are in history; the rest is added up when asked.
usage = Table(
    "usage",
    metadata,
    _text("account_id"),
    _text("member"),
    _text("day"),
    _ms("images"),
    _ms("gpu_ms"),
    _key("usage", "account_id", "member", "day"),
)

quota = Table(
    "quota",
    metadata,
    _text("account_id"),
    _text("member"),
    _ms("most_queued"),
    _ms("most_running"),
    Column("gpu_seconds_per_day", Double, nullable=False),
    _ms("changed_ms"),
    _key("quota", "account_id", "member"),
)

scheduling_lease = Table(
    "scheduling_lease",
    metadata,
    _text("account_id"),
    _text("replica_id"),  # empty: given up
    _ms("epoch"),
    _ms("until_ms"),
    _key("scheduling_lease", "account_id"),
)

# The two tables that are of no account: small, and whole in every part of a divided database.
replica = Table(
    "replica",
    metadata,
    _text("replica_id"),
    _text("address"),
    _text("ca_pem"),
    _text("version"),
    _ms("seen_ms"),
    _key("replica", "replica_id"),
)

secret = Table(
    "secret",
    metadata,
    _text("name"),
    _bytes("value"),
    _key("secret", "name"),
)
