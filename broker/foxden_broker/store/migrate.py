"""Bring a database to this version's schema. The steps are in migrations/versions."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError
from sqlalchemy import Connection

from foxden_broker.store.base import StoreError


def migrate(conn: Connection) -> None:
    """Runs inside the caller's transaction: a step that fails leaves the database as it was."""
    config = Config()
    config.set_main_option(
        "script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%")
    )
    config.attributes["connection"] = conn
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise StoreError(
            f"This database can't be brought to this version of Foxden: {error} "
            "If a newer Foxden wrote it, start that one."
        ) from error
