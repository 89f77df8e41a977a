"""Migrations make the schema; `account_id` leads every key, and is in every statement."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, UniqueConstraint, create_engine, event

from foxden_broker.store.base import Assign, StoreError, Token, Upload
from foxden_broker.store.database import open_database
from foxden_broker.store.migrate import migrate
from foxden_broker.store.schema import metadata
from foxden_proto.states import TaskEvent

World = Any  # of conftest.py
NewUrl = Callable[[], str]


async def test_migrations_make_what_schema_py_says(new_url: NewUrl) -> None:
    def differences(conn: Connection) -> list[Any]:
        found: list[Any] = compare_metadata(MigrationContext.configure(conn), metadata)
        return found

    database = open_database(new_url(), migrate)
    assert await database.read(differences) == []
    await database.close()


def test_migrations_and_schema_py_write_the_same_sqlite(tmp_path: Path) -> None:
    """What compare_metadata does not look at: WITHOUT ROWID, names of constraints."""

    def tables(path: Path) -> set[str]:
        with sqlite3.connect(path) as conn:
            rows = conn.execute(
                "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name <> 'alembic_version'"
            ).fetchall()
        return {" ".join(row[0].split()) for row in rows}

    by_migration, by_schema = tmp_path / "a.db", tmp_path / "b.db"
    for path, make in ((by_migration, migrate), (by_schema, metadata.create_all)):
        engine = create_engine(f"sqlite:///{path}")
        with engine.begin() as conn:
            make(conn)
        engine.dispose()
    assert tables(by_migration) == tables(by_schema)


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
        keys = [list(table.primary_key.columns)]
        keys += [list(index.columns) for index in table.indexes]
        keys += [list(c.columns) for c in table.constraints if isinstance(c, UniqueConstraint)]
        assert [key[0].name for key in keys] == ["account_id"] * len(keys), table.name


@pytest.fixture
def statements() -> Iterator[set[str]]:
    seen: set[str] = set()

    def note(_conn: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        seen.add(" ".join(statement.split()))

    event.listen(Engine, "before_cursor_execute", note)
    yield seen
    event.remove(Engine, "before_cursor_execute", note)


def without_account(statement: str) -> list[str]:
    """The tables that a statement touches without saying of which account."""
    found = []
    where = statement.partition(" WHERE ")[2]
    for name in metadata.tables:
        if re.search(rf"INSERT INTO {name} ", statement):
            columns = statement.partition(f"INSERT INTO {name} ")[2].partition(")")[0]
            if "account_id" not in columns:
                found.append(name)
        elif re.search(rf"(FROM|JOIN|UPDATE) {name}\b", statement):
            # A joined table may be tied to another one's account by its ON.
            joined = re.search(rf"JOIN {name} ON [^)]*{name}\.account_id =", statement)
            if not joined and f"{name}.account_id =" not in where:
                found.append(name)
    return found


def test_the_look_for_statements_without_account_finds_them() -> None:
    assert without_account("SELECT job.job_id FROM job WHERE job.job_id = ?") == ["job"]
    assert without_account("UPDATE task SET state=? WHERE task.idx = ?") == ["task"]
    assert without_account("INSERT INTO card (card_id) VALUES (?)") == ["card"]
    assert without_account("DELETE FROM card WHERE card.agent_id = ?") == ["card"]
    assert without_account("SELECT 1 FROM job WHERE job.account_id = ?") == []
    assert without_account("SELECT 1") == []


async def test_every_statement_names_the_account(world: World, statements: set[str]) -> None:
    store = world.store
    await store.ensure_account("den", "Den", 1)
    await store.add_token(Token("den", "t", b"x", "ann", frozenset(), 1))
    await store.token("den", "t")
    await store.tokens("den")
    await store.revoke_token("den", "t", 2)
    job_id = (await world.submit(6, idempotency_key="k", model_sha256="")).job.job_id
    await world.submit(6, idempotency_key="k")
    other = await world.queued(2)
    await store.resolve("den", job_id, b"x", "a")
    both = [Assign(job_id, 4, "c", "C", "a"), Assign(other, 0, "c", "C", "a")]
    await store.assign("den", both, 5)
    await world.done(job_id, 0)
    lease = await world.started(job_id, 1)
    await store.end_lease("den", lease, lambda _: TaskEvent.GIVE_UP, "x", 6)
    await store.retry("den", job_id, 7)
    await store.end_queued("den", [(job_id, 2), (other, 1)], TaskEvent.EXPIRE, "x", 8)
    await store.open_tasks("den")
    await world.job(job_id)
    await store.changed_tasks("den", job_id, 1)
    page = await store.jobs("den", limit=1)
    await store.jobs("den", member="ann", before=page.next_before)
    await store.cancel("den", job_id, "x", 9)
    await store.save_cards("den", "a", "A", "1", [("c", b"i")], 1)
    await store.cards("den")
    await store.add_upload(Upload("den", "u", "a", 1, "image/png", 1))
    await store.upload("den", "u")

    mentioned = {
        name for name in metadata.tables for s in statements if re.search(rf"\b{name}\b", s)
    }
    assert mentioned == set(metadata.tables)
    assert {s: without_account(s) for s in statements if without_account(s)} == {}
