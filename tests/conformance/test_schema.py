"""Migrations make the schema; `account_id` leads every key."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, UniqueConstraint, create_engine

from foxden_broker.store.base import StoreError
from foxden_broker.store.database import open_database
from foxden_broker.store.migrate import migrate, newest, upgrade
from foxden_broker.store.schema import metadata

NewUrl = Callable[[], str]
OF_NO_ACCOUNT = {"replica", "secret"}


async def test_migrations_make_what_schema_py_says(new_url: NewUrl) -> None:
    def differences(conn: Connection) -> list[Any]:
        found: list[Any] = compare_metadata(MigrationContext.configure(conn), metadata)
        return found

    database = open_database(new_url(), migrate)
    assert await database.read(differences) == []
    await database.close()


def test_migrations_and_schema_py_write_the_same_sqlite(tmp_path: Path) -> None:
    """What compare_metadata does not look at: defaults, WITHOUT ROWID, partial indexes."""

    def tables(path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        with sqlite3.connect(path) as conn:
            for _, name, kind, _, rowid, strict in conn.execute("PRAGMA table_list").fetchall():
                if kind == "table" and not name.startswith("sqlite_"):
                    columns = conn.execute(f"PRAGMA table_xinfo({name})").fetchall()
                    found[name] = (rowid, strict, {column[1]: column[2:] for column in columns})
            indexes = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql <> ''"
            found |= {name: " ".join(sql.split()) for name, sql in conn.execute(indexes)}
        return found

    by_migration, by_schema = tmp_path / "a.db", tmp_path / "b.db"
    for path, make in ((by_migration, upgrade), (by_schema, migrate)):
        engine = create_engine(f"sqlite:///{path}")
        with engine.begin() as conn:
            make(conn)
        engine.dispose()
    assert tables(by_migration) == tables(by_schema)
    assert "WHERE" in tables(by_schema)["job_ended"]


def test_empty_sqlite_is_stamped_with_the_newest_step_and_no_step_is_left_to_take(
    tmp_path: Path,
) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'a.db'}")
    with engine.begin() as conn:
        migrate(conn)
        assert MigrationContext.configure(conn).get_current_heads() == (newest(),)
        upgrade(conn)  # Alembic's own newest: it would fail to make what is there
    engine.dispose()


def test_database_at_the_newest_step_is_opened_without_alembic(new_url: NewUrl) -> None:
    code = (
        "import asyncio, sys\n"
        "from foxden_broker.store.sql_store import open_store\n"
        "async def main():\n"
        "    await (await open_store(sys.argv[1])).close()\n"
        "asyncio.run(main())\n"
        "assert 'alembic' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, new_url()], check=True, timeout=60)


def test_migrating_again_changes_nothing(new_url: NewUrl) -> None:
    url = new_url()
    import asyncio

    for _ in range(2):
        asyncio.run(open_database(url, migrate).close())


async def test_a_database_of_a_newer_foxden_is_refused_in_words(sqlite_url: NewUrl) -> None:
    url = sqlite_url()
    with sqlite3.connect(url) as conn:
        conn.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreError, match="newer Foxden"):
        open_database(url, migrate)


def test_account_id_leads_every_key_and_index() -> None:
    assert metadata.tables
    for table in metadata.tables.values():
        if table.name in OF_NO_ACCOUNT:
            continue
        keys = [list(table.primary_key.columns)]
        keys += [list(index.columns) for index in table.indexes]
        keys += [list(c.columns) for c in table.constraints if isinstance(c, UniqueConstraint)]
        assert [key[0].name for key in keys] == ["account_id"] * len(keys), table.name
