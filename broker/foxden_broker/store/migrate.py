"""Bring a database to this version's schema. The steps are in migrations/versions.

Alembic, which takes them, is loaded where there is a step to take: it would be a tenth of an idle
broker's memory. Where nothing is to be done, which is every start but the first of a version, the
stored revision says so. An empty SQLite file is made from the schema itself: a test compares it
with what the steps make, to the last index.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Column, Connection, MetaData, String, Table, inspect, select

from foxden_broker.store.base import StoreError
from foxden_broker.store.schema import metadata

_STEPS = Path(__file__).with_name("migrations") / "versions"
# Alembic's own table, as it makes it (alembic/runtime/migration.py, version_table_impl).
_VERSION = Table(
    "alembic_version",
    MetaData(),
    Column("version_num", String(32), primary_key=True, nullable=False),
)


def migrate(conn: Connection) -> None:
    """To the newest revision. Runs inside the caller's transaction, if there is one: then a step
    that fails leaves the database as it was. Else each step is a transaction, and may build indexes
    outside of it. Raises StoreError for a database of a newer version."""
    inside = conn.in_transaction()
    tables = inspect(conn).get_table_names()
    known = _VERSION.name in tables
    stored = conn.scalars(select(_VERSION.c.version_num)).all() if known else []
    if not inside:
        conn.rollback()  # looking began one: in it Alembic would take all steps, and none outside
    if stored == [newest()]:
        return
    if not tables and conn.dialect.name == "sqlite":
        metadata.create_all(conn)
        _VERSION.create(conn)
        conn.execute(_VERSION.insert(), {"version_num": newest()})
        return
    upgrade(conn)


def newest() -> str:
    """The revision of this version: that of the last step; a step's file is named after its own."""
    return max(file.name.partition("_")[0] for file in _STEPS.glob("[0-9]*_*.py"))


def upgrade(conn: Connection, to: str = "head") -> None:
    """Take the steps up to a revision, whatever is there. See `migrate`, which asks first."""
    from alembic import command
    from alembic.config import Config
    from alembic.util.exc import CommandError

    config = Config()
    config.set_main_option("script_location", str(_STEPS.parent).replace("%", "%%"))
    config.attributes["connection"] = conn
    try:
        command.upgrade(config, to)
    except CommandError as error:
        raise StoreError(
            f"This database can't be brought to this version of Foxden: {error} "
            "If a newer Foxden wrote it, start that one."
        ) from error
