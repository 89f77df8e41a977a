"""Every statement names its account first, and finds its rows by an index."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, event

from foxden_broker.store import database
from foxden_broker.store.base import (
    Agent,
    Assign,
    JoinLink,
    Picture,
    Quota,
    Replica,
    Token,
    Upload,
)
from foxden_broker.store.schema import metadata
from foxden_broker.store.sql_store import open_store
from foxden_proto.states import JobState, TaskEvent

World = Any  # of conftest.py
NewUrl = Callable[[], str]
Seen = dict[str, Any]  # statement: values of one execution
LATER = 10**12
OF_NO_ACCOUNT = {"replica", "secret"}
# Asked once, at the start, for the list of all accounts.
ALL_ACCOUNTS = "SELECT account.account_id FROM account ORDER BY account.account_id"


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> Iterator[Seen]:
    """What reaches the driver, by whatever way."""
    seen: Seen = {}

    def note(statement: str, values: Any) -> None:
        if values is not None:
            seen.setdefault(" ".join(statement.split()), values)

    def by_sqlalchemy(_c: Any, _cursor: Any, sql: str, values: Any, _ctx: Any, many: bool) -> None:
        note(sql, values[0] if many else values)

    import psycopg

    plain = psycopg.Connection.execute

    def by_driver(self: Any, query: Any, params: Any = None, **more: Any) -> Any:
        note(str(query), params)
        return plain(self, query, params, **more)

    monkeypatch.setattr(psycopg.Connection, "execute", by_driver)
    one, many = database.on_sqlite, database.write_on_sqlite

    def read_directly(raw: sqlite3.Connection, sql: str, values: Any) -> list[Any]:
        note(sql, values)
        return one(raw, sql, values)

    def write_directly(raw: sqlite3.Connection, sql: str, rows: Any) -> int:
        note(sql, rows[0])
        return many(raw, sql, rows)

    monkeypatch.setattr(database, "on_sqlite", read_directly)
    monkeypatch.setattr(database, "write_on_sqlite", write_directly)
    event.listen(Engine, "before_cursor_execute", by_sqlalchemy)
    yield seen
    event.remove(Engine, "before_cursor_execute", by_sqlalchemy)


def without_account(statement: str) -> list[str]:
    """The tables that a statement touches without saying of which account."""
    found = []
    where = statement.partition(" WHERE ")[2]
    for name in metadata.tables:
        if name in OF_NO_ACCOUNT:
            continue
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


async def everything(world: World) -> None:
    """Every method of the store, with both forms of those that have two."""
    store = world.store
    await store.ensure_account("den", "Den", 1)
    await store.add_token(Token("den", "t", b"x", "ann", frozenset(), 1))
    await store.token("den", "t")
    await store.tokens("den")
    await store.revoke_token("den", "t", 2)
    await store.account_name("den")
    link = JoinLink("den", "l", b"x", 9, 0, False, "ann", 1, 1_000)
    await store.add_join_link(link)
    await store.join_link("den", "l")
    await store.join_links("den")
    await store.enrol(Agent("den", "g", b"k", "p", "PC", "1", (), "::1", "l", 1), 1)
    await store.agent("den", "g")
    await store.agents("den")
    await store.approve_agent("den", "g", 1)
    await store.revoke_agent("den", "g", 1)
    await store.forget_agent("den", "g", b"k")
    await store.revoke_join_link("den", "l", 1)
    await store.add_upload(Upload("den", "u", "a" * 64, 1, "image/png", 1))
    await store.upload("den", "u")
    new = {"idempotency_key": "k", "model_sha256": "", "uploads": ("u",)}
    job_id = (await world.submit(6, **new)).job.job_id
    await world.submit(6, **new)
    other = await world.queued(2)
    await store.resolve("den", job_id, b"x", "a")
    lead = await store.lease_account("den", "r", 1, 9)
    await store.scheduling_lease("den")
    both = [Assign(job_id, 4, "c", "C", "a"), Assign(other, 0, "c", "C", "a")]
    (_, second) = await store.assign("den", both, 5, epoch=lead.epoch)
    await store.leave_account("den", "r", lead.epoch)
    await store.start("den", second.task.lease, 6)
    await world.finish(second.task.lease, "q")
    await world.done(job_id, 0)
    lease = await world.started(job_id, 1)
    await store.end_lease("den", lease, lambda _: TaskEvent.GIVE_UP, "x", 6)
    await store.retry("den", job_id, 7)
    await store.end_queued("den", [(job_id, 2), (other, 1)], TaskEvent.GIVE_UP, "x", 8)
    await store.open_tasks("den")
    await store.open_tasks("den", created_after_ms=1)
    await world.job(job_id)
    await store.changed_tasks("den", job_id, 1)
    page = await store.jobs("den", limit=1)
    for state in (None, JobState.DONE):
        for member in ("", "ann"):
            await store.jobs("den", member=member, state=state)
            await store.jobs("den", member=member, state=state, before=page.next_before)
    await store.cancel("den", job_id, "x", 9)
    await store.save_cards("den", "a", "A", "1", [("c", b"i")], 1)
    await store.cards("den")
    await store.set_card_standing("den", "c", "cordoned", 1)
    await store.forget_card("den", "c")
    await store.set_quota("den", Quota("ann", 1, 1, 1), 1)
    await store.quotas("den")
    days = {"first_day": "1970-01-01", "last_day": "1970-01-02"}
    await store.usage("den", **days)
    await store.usage("den", member="ann", **days)
    await store.save_replica(Replica("r", "a:1", "", "1", 1))
    await store.replicas(0)
    await store.forget_replica("r")
    await store.secret("s", b"x")
    assert await store.archive("den", LATER, 10) == 1
    await store.job("den", other)
    await store.finish("den", second.task.lease, Picture("p", 1, b""), 10)
    await store.retry("den", other, 11)
    await store.cancel("den", other, "x", 12)
    assert await store.archive("den", LATER, 10) == 1
    swept = {"ended_before_ms": LATER, "limit": 10, "now_ms": 1}
    assert await store.sweep_results("den", most_bytes=1, **swept)
    await store.cancel("den", job_id, "x", 12)
    await store.sweep_results("den", most_bytes=0, **swept)
    await store.referred("den", ["a"])
    await store.sweep_keys("den", LATER, 10)
    await store.forget_history("den", LATER, 10)
    await store.accounts()


async def test_every_statement_names_the_account(world: World, statements: Seen) -> None:
    await everything(world)
    mentioned = {
        name for name in metadata.tables for s in statements if re.search(rf"\b{name}\b", s)
    }
    assert mentioned == set(metadata.tables)
    statements.pop(ALL_ACCOUNTS)
    assert {s: without_account(s) for s in statements if without_account(s)} == {}


async def test_no_statement_scans_a_table_on_sqlite(
    sqlite_url: NewUrl, statements: Seen, new_world: Callable[..., World]
) -> None:
    url = sqlite_url()
    store = await open_store(url)
    world = new_world(store)
    await everything(world)
    await store.close()
    statements.pop(ALL_ACCOUNTS)
    bad = {}
    with sqlite3.connect(url) as conn:
        for statement, values in list(statements.items()):
            if not re.match("SELECT|UPDATE|DELETE|INSERT|WITH", statement):
                continue
            if any(name in statement for name in ("alembic", "sqlite_master", "FROM replica")):
                continue
            plan = conn.execute(f"EXPLAIN QUERY PLAN {statement}", values).fetchall()
            for *_, detail in plan:
                scans = re.match(r"SCAN (?!\d+ CONSTANT|CONSTANT|numbers|\(?subquery|anon)", detail)
                searched = re.match(r"SEARCH \w+ USING .*\(account_id=\?", detail)
                other = re.match(r"SEARCH (numbers|secret|replica|anon)", detail)
                if scans or (detail.startswith("SEARCH") and not searched and not other):
                    bad[statement] = detail
    assert bad == {}


async def test_no_statement_scans_a_table_on_postgresql(
    postgresql_url: NewUrl, statements: Seen, new_world: Callable[..., World]
) -> None:
    import psycopg

    url = postgresql_url()
    store = await open_store(url)
    await everything(new_world(store))
    await store.close()
    statements.pop(ALL_ACCOUNTS)
    bad = {}
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("SET enable_seqscan = off")
        for statement, values in list(statements.items()):
            if not re.match("SELECT|UPDATE|DELETE|INSERT|WITH", statement):
                continue
            if any(
                f" {name} " in f"{statement} " for name in ("alembic_version", "replica", "secret")
            ):
                continue
            if "pg_" in statement:
                continue
            plan = conn.execute(f"EXPLAIN {statement}".encode(), values).fetchall()
            text = "\n".join(row[0] for row in plan)
            if "Seq Scan" in text or re.search(r"Index Cond: (?!.*account_id)", text):
                bad[statement] = text
    assert bad == {}
