"""Bring a database to this version's schema. The steps are in migrations/versions."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError
from sqlalchemy import Connection

from foxden_broker.store.base import StoreError


def migrate(conn: Connection, to: str = "head") -> None:
    """Runs inside the caller's transaction, if there is one: then a step that fails leaves the
    database as it was. Else each step is a transaction, and may build indexes outside of it."""
    config = Config()
    config.set_main_option(
        "script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%")
    )
    config.attributes["connection"] = conn
    try:
        command.upgrade(config, to)
    except CommandError as error:
        raise StoreError(
            f"This database can't be brought to this version of Foxden: {error} "
            "If a newer Foxden wrote it, start that one."
        ) from error
