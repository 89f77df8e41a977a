"""A database of the version before: upgraded with all it holds, while an older broker uses it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, MetaData, Table, create_engine, inspect, select, update
from sqlalchemy.engine import make_url

from foxden_broker.store import postgres_database
from foxden_broker.store.base import Assign, Attempt, Picture, StoreError
from foxden_broker.store.migrate import upgrade
from foxden_broker.store.schema import metadata
from foxden_broker.store.sql_store import open_store
from foxden_proto.states import JobState, TaskState

OLD_HEAD = "0001"
LATER = 10**12
Rows = dict[str, list[dict[str, Any]]]


@contextmanager
def plain_engine(url: str) -> Iterator[Engine]:
    """What an older broker would use, without any of today's code."""
    parsed = make_url(url if "://" in url else f"sqlite:///{url}")
    if parsed.get_backend_name() == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    engine = create_engine(parsed)
    try:
        yield engine
    finally:
        engine.dispose()


def old_rows(number: int, *, first: int = 0) -> Rows:
    """Jobs as the version before wrote them: done, failed, running, queued."""
    rows: Rows = {name: [] for name in ("job", "job_key", "task", "picture", "attempt")}
    states = [("done", "done"), ("failed", "failed"), ("running", "leased"), ("queued", "queued")]
    for n in range(first, first + number):
        key = {"account_id": "den", "job_id": f"old-{n}"}
        state, task_state = states[n % 4]
        ended = 50 + n if state in ("done", "failed") else 0
        held = state != "queued"
        rows["job"].append(
            key
            | {"member": "ann", "request": b"r", "model_sha256": "m", "count": 1, "priority": 2}
            | {"state": state, "revision": 3, "created_ms": n + 1, "ended_ms": ended}
            | {"deadline_ms": 0, "cancel_requested": False, "reason": "", "done": state == "done"}
        )
        rows["job"][-1]["done"] = int(state == "done")
        rows["job_key"].append(
            {"account_id": "den", "member": "ann", "key": f"k{n}", "job_id": f"old-{n}"}
            | {"request_digest": b"d", "created_ms": n + 1}
        )
        rows["task"].append(
            key
            | {"idx": 0, "state": task_state, "lease_no": int(held), "card_id": "c"}
            | {"card_name": "C", "agent_id": "a", "reason": "", "failures": 0, "losses": 0}
            | {"releases": 0, "revision": 3, "leased_ms": 10, "started_ms": 20, "ended_ms": ended}
        )
        if held:
            outcome = {"done": "finish", "failed": "give_up"}.get(state, "")
            rows["attempt"].append(
                key
                | {"idx": 0, "lease_no": 1, "card_id": "c", "card_name": "C", "outcome": outcome}
                | {"reason": "", "started_ms": 10, "ended_ms": ended}
            )
        if state == "done":
            picture = {"idx": 0, "sha256": f"{n:064}", "size": 5, "meta": b"m"}
            rows["picture"].append(key | picture)
    return rows


def old_others() -> Rows:
    return {
        "account": [{"account_id": "den", "name": "Den", "created_ms": 1}],
        "token": [
            {"account_id": "den", "token_id": "t", "secret_sha256": b"s", "member": "ann"}
            | {"scopes": "generate", "created_ms": 1, "expires_ms": 0, "revoked_ms": 0}
        ],
        "card": [
            {"account_id": "den", "card_id": "c", "agent_id": "a", "agent_name": "A"}
            | {"agent_version": "0.9", "info": b"i", "last_seen_ms": 5}
        ],
        "upload": [
            {"account_id": "den", "upload_id": "u", "sha256": "x", "size": 1}
            | {"media_type": "image/png", "created_ms": 5}
        ],
    }


def old_database(engine: Engine) -> MetaData:
    """Make it, and return its tables as they are then."""
    with engine.begin() as conn:
        upgrade(conn, OLD_HEAD)
    tables = MetaData()
    tables.reflect(engine)
    assert set(tables.tables) < set(metadata.tables) | {"alembic_version"}
    return tables


def write(conn: Connection, tables: MetaData, rows: Rows) -> None:
    for name, some in rows.items():
        conn.execute(tables.tables[name].insert(), some)


def content(conn: Connection, tables: MetaData) -> dict[str, list[Any]]:
    """All rows, in the columns that the old version knows."""
    found = {}
    for name, table in tables.tables.items():
        if name != "alembic_version":
            columns = [table.c[column.name] for column in table.c]
            found[name] = [tuple(row) for row in conn.execute(select(*columns))]
            found[name].sort(key=repr)
    return found


async def test_old_database_is_upgraded_without_loss_and_works(empty_url: str) -> None:
    with plain_engine(empty_url) as engine:
        tables = old_database(engine)
        with engine.begin() as conn:
            write(conn, tables, old_others() | old_rows(8))
            before = content(conn, tables)
    store = await open_store(empty_url)
    with plain_engine(empty_url) as engine, engine.connect() as conn:
        assert content(conn, tables) == before
        assert compare_metadata(MigrationContext.configure(conn), metadata) == []

    assert len(await store.open_tasks("den")) == 4
    (card,) = await store.cards("den")
    assert card.standing == ""
    job = await store.job("den", "old-0", attempts=True)
    assert job is not None
    assert job.tasks[0].attempts == (Attempt(1, "c", "C", "finish", "", 10, 50),)
    assert job.tasks[0].picture == Picture("0".rjust(64, "0"), 5, b"m")
    assert await store.archive("den", LATER, 10) == 4
    assert await store.job("den", "old-0", attempts=True) == job
    (used,) = await store.usage("den", first_day="1970-01-01", last_day="1970-01-01")
    # 50, 51, 54 and 55 ms after the epoch; an old broker tells only when each was leased.
    assert (used.images, used.gpu_ms) == (2, 40 + 41 + 44 + 45)
    swept = {"ended_before_ms": LATER, "most_bytes": 0, "limit": 9, "now_ms": 1}
    assert len(await store.sweep_results("den", **swept)) == 2
    assert len(await store.retry("den", "old-1", 60)) == 1
    await store.close()


async def test_statements_of_the_version_before_work_after_the_upgrade(empty_url: str) -> None:
    with plain_engine(empty_url) as engine:
        tables = old_database(engine)
        with engine.begin() as conn:
            write(conn, tables, old_others() | old_rows(4))
        await (await open_store(empty_url)).close()
        with engine.begin() as conn:
            write(conn, tables, old_rows(4, first=4))
            for name, table in tables.tables.items():
                if name == "alembic_version":
                    continue
                values = {c.name: c for c in table.c if not c.primary_key}
                changed = conn.execute(table.update().where(_mine(table)).values(values))
                assert changed.rowcount == len(content(conn, tables)[name]), name
            assert len(content(conn, tables)["job"]) == 8
            conn.execute(
                update(tables.tables["attempt"])
                .where(_mine(tables.tables["attempt"]))
                .values(outcome="lose", ended_ms=70)
            )
    store = await open_store(empty_url)
    assert len(await store.open_tasks("den")) == 4
    given = [Assign("old-7", 0, "c", "C", "a")]
    assert len(await store.assign("den", given, 90)) == 1
    assert await store.archive("den", LATER, 10) == 4
    job = await store.job("den", "old-5")
    assert job is not None
    assert (job.state, job.tasks[0].state) == (JobState.FAILED, TaskState.FAILED)
    await store.close()


def _mine(table: Table) -> Any:
    return table.c.account_id == "den"


@pytest.fixture
def old_postgres(cluster: Any) -> Iterator[tuple[str, Engine, MetaData]]:
    url = cluster.new_database()
    with plain_engine(url) as engine:
        tables = old_database(engine)
        with engine.begin() as old:
            write(old, tables, old_others())
        yield url, engine, tables


def wait_for(happened: Callable[[], bool]) -> None:
    while not happened():
        time.sleep(0.01)


async def test_upgrade_while_an_older_broker_writes_stops_neither(
    old_postgres: tuple[str, Engine, MetaData],
) -> None:
    url, engine, tables = old_postgres
    over, longest, written, failed = threading.Event(), [0.0], [0], list[BaseException]()

    def work() -> None:
        while not over.is_set():
            began = time.monotonic()
            try:
                with engine.begin() as conn:
                    write(conn, tables, old_rows(4, first=written[0]))
            except BaseException as error:
                failed.append(error)
                return
            written[0] += 4
            longest[0] = max(longest[0], time.monotonic() - began)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        await asyncio.to_thread(wait_for, lambda: written[0] >= 100 or bool(failed))
        store = await open_store(url)
        enough = written[0] + 40
        await asyncio.to_thread(wait_for, lambda: written[0] >= enough or bool(failed))
    finally:
        over.set()
        thread.join()
    assert failed == []
    assert longest[0] < 5, "a step waits for a lock for 2 s at most"
    assert (await store.jobs("den")).total == written[0]
    assert len(await store.open_tasks("den")) == written[0] // 2
    await store.close()


async def test_upgrade_gives_way_to_a_long_transaction_and_comes_back(
    old_postgres: tuple[str, Engine, MetaData], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, engine, tables = old_postgres
    with engine.connect() as conn:
        conn.execute(select(tables.tables["attempt"])).all()  # its lock is held until the end
        opening = asyncio.create_task(open_store(url))
        await asyncio.sleep(2.6)
        assert not opening.done()
        conn.rollback()
    store = await opening
    await store.close()
    monkeypatch.setattr(postgres_database, "MIGRATION_TRIES", 1)
    with engine.connect() as conn:
        conn.execute(tables.tables["alembic_version"].update().values(version_num=OLD_HEAD))
        conn.commit()
    with pytest.raises(StoreError, match="already exists"):
        await open_store(url)


async def test_an_index_that_was_left_unfinished_is_built_again(
    old_postgres: tuple[str, Engine, MetaData],
) -> None:
    url, engine, _ = old_postgres
    with engine.connect() as conn:
        upgrade(conn, "0002")
        conn.commit()
        conn.exec_driver_sql("CREATE INDEX picture_blob ON picture (account_id, sha256)")
        broken = "UPDATE pg_index SET indisvalid = false"
        conn.exec_driver_sql(f"{broken} WHERE indexrelid = 'picture_blob'::regclass")
        conn.commit()
    await (await open_store(url)).close()
    with engine.connect() as conn:
        valid = "SELECT bool_and(indisvalid) FROM pg_index"
        assert conn.exec_driver_sql(valid).scalar()
        assert "picture_blob" in {i["name"] for i in inspect(conn).get_indexes("picture")}


async def test_several_brokers_that_start_at_once_upgrade_once(
    old_postgres: tuple[str, Engine, MetaData],
) -> None:
    url, _, _ = old_postgres
    stores = await asyncio.gather(*(open_store(url) for _ in range(4)))
    for store in stores:
        assert await store.accounts() == ("den",)
        await store.close()
