"""What only the embedded database has: group commit, a full disk, one broker, a sudden end."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import Connection, insert, select

from foxden_broker.store.base import StorageFull, StoreError
from foxden_broker.store.database import Database, open_database
from foxden_broker.store.migrate import migrate
from foxden_broker.store.schema import account
from foxden_broker.store.sql_store import open_store

NewUrl = Callable[[], str]


@pytest_asyncio.fixture
async def database(sqlite_url: NewUrl) -> AsyncIterator[Database]:
    database = open_database(sqlite_url(), migrate)
    yield database
    await database.close()


def add(name: str) -> Callable[[Connection], str]:
    def work(conn: Connection) -> str:
        conn.execute(insert(account), {"account_id": name, "name": name, "created_ms": 1})
        return name

    return work


def names(conn: Connection) -> list[str]:
    return list(conn.scalars(select(account.c.account_id).order_by(account.c.account_id)))


def raw(conn: Connection) -> sqlite3.Connection:
    driver = conn.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    return driver


async def together(database: Database, *work: Callable[[Connection], Any]) -> list[Any]:
    """Have the writer find all of them waiting, so that they share one commit."""
    entered, go = threading.Event(), threading.Event()

    def hold(_conn: Connection) -> None:
        entered.set()
        go.wait(10)

    holding = asyncio.create_task(database.write(hold))
    await asyncio.to_thread(entered.wait, 10)
    tasks = [asyncio.create_task(database.write(one)) for one in work]
    await asyncio.sleep(0)  # each has put its closure into the queue now
    go.set()
    await holding
    return await asyncio.gather(*tasks, return_exceptions=True)


async def test_one_that_raises_rolls_back_alone(database: Database) -> None:
    def fails(conn: Connection) -> None:
        add("half")(conn)
        raise KeyError("ours")

    done = await together(database, add("a"), fails, add("b"))
    assert done[0] == "a"
    assert isinstance(done[1], KeyError)
    assert done[2] == "b"
    assert await database.read(names) == ["a", "b"]


async def test_one_that_breaks_a_key_rolls_back_alone(database: Database) -> None:
    done = await together(database, add("a"), add("a"), add("b"))
    assert done[0] == "a"
    assert isinstance(done[1], StoreError)
    assert not isinstance(done[1], StorageFull)
    assert await database.read(names) == ["a", "b"]


async def test_a_transaction_that_sqlite_rolled_back_fails_all_before_it(
    database: Database,
) -> None:
    def breaks(conn: Connection) -> None:
        raw(conn).execute("ROLLBACK")  # what SQLite does by itself on an I/O error
        raise sqlite3.OperationalError("disk I/O error")

    done = await together(database, add("a"), breaks, add("b"))
    assert [type(one) for one in done] == [StoreError] * 3
    assert await database.read(names) == []
    assert await database.write(add("c")) == "c"


async def test_a_commit_that_fails_fails_all(database: Database) -> None:
    def steals_the_transaction(conn: Connection) -> None:
        raw(conn).execute("ROLLBACK")

    done = await together(database, add("a"), steals_the_transaction)
    assert [type(one) for one in done] == [StoreError] * 2
    assert await database.read(names) == []
    assert await database.write(add("c")) == "c"


async def test_a_full_disk_is_storage_full_and_the_writer_goes_on_with_space(
    database: Database,
) -> None:
    def pages(most: str) -> Callable[[Connection], None]:
        def work(conn: Connection) -> None:
            raw(conn).execute(f"PRAGMA max_page_count = {most}").fetchall()

        return work

    def big(conn: Connection) -> None:
        row = {"account_id": "big", "name": "x" * 200_000, "created_ms": 1}
        conn.execute(insert(account), row)

    await database.write(pages("1"))  # SQLite takes it as "no more than there are now"
    done = await together(database, add("a"), big)
    assert isinstance(done[1], StorageFull)
    assert "Free some space" in str(done[1])
    stored = await database.read(names)
    assert ("a" in stored) == (done[0] == "a"), "who was told 'stored' is stored, and nobody else"
    assert "big" not in stored
    await database.write(pages("1000000"))
    await database.write(big)
    assert "big" in await database.read(names)


async def test_a_caller_who_gives_up_does_not_stop_the_others(database: Database) -> None:
    entered, go = threading.Event(), threading.Event()

    def slow(_conn: Connection) -> None:
        entered.set()
        go.wait(10)

    impatient = asyncio.create_task(database.write(slow))
    await asyncio.to_thread(entered.wait, 10)
    impatient.cancel()
    await asyncio.gather(impatient, return_exceptions=True)
    go.set()
    assert await database.write(add("a")) == "a"


async def test_what_was_submitted_is_committed_before_close_and_nothing_after(
    sqlite_url: NewUrl,
) -> None:
    url = sqlite_url()
    database = open_database(url, migrate)
    writes = [asyncio.create_task(database.write(add(f"a{n}"))) for n in range(20)]
    await asyncio.sleep(0)
    await database.close()
    assert len(await asyncio.gather(*writes)) == 20
    with pytest.raises(StoreError, match="closed"):
        await database.write(add("late"))
    with pytest.raises(StoreError, match="closed"):
        await database.read(names)
    await database.close()
    with sqlite3.connect(url) as conn:
        assert conn.execute("SELECT count(*) FROM account").fetchone() == (20,)


async def test_the_reading_connection_cannot_write(database: Database) -> None:
    with pytest.raises(StoreError, match="readonly"):
        await database.read(add("a"))
    assert await database.read(names) == []


async def test_the_writing_connection_is_durable(database: Database) -> None:
    def pragmas(conn: Connection) -> list[Any]:
        wanted = ("journal_mode", "synchronous", "mmap_size")
        return [conn.exec_driver_sql(f"PRAGMA {name}").scalar() for name in wanted]

    assert await database.write(pragmas) == ["wal", 2, 0]


async def test_a_second_broker_is_refused_until_the_first_is_gone(sqlite_url: NewUrl) -> None:
    url = sqlite_url()
    first = await open_store(url)
    with pytest.raises(StoreError, match=f"process {os.getpid()}.*is using"):
        await open_store(url)
    await first.close()
    await (await open_store(f"sqlite:///{url}")).close()


@pytest.mark.parametrize(
    ("url", "words"),
    [("sqlite://", "needs a database file"), ("mysql://x/y", "SQLite or PostgreSQL")],
)
async def test_a_url_that_is_none_of_ours_is_refused_in_words(url: str, words: str) -> None:
    with pytest.raises(StoreError, match=words):
        await open_store(url)


async def test_a_file_that_is_no_database_is_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "foxden.db"
    path.write_bytes(b"not a database" * 1000)
    for _ in range(2):  # the second look also finds the lock free again
        with pytest.raises(StoreError, match="file is not a database"):
            await open_store(str(path))


SUBMITTER = """
import asyncio, sys
from foxden_broker.store.base import NewJob
from foxden_broker.store.sql_store import open_store

async def main():
    store = await open_store(sys.argv[1])
    async def submit(name):
        n = 0
        while True:
            new = NewJob("den", f"{name}-{n}", "ann", b"r", "", 2, 2, n, 0, f"{name}-{n}", b"d")
            await store.submit(new, key_window_ms=10)
            sys.stdout.write(new.job_id + "\\n")
            sys.stdout.flush()
            n += 1
    await asyncio.gather(*(submit(name) for name in "abcdefgh"))

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows")
async def test_killed_while_submitting_every_acknowledged_job_is_there(tmp_path: Path) -> None:
    url = str(tmp_path / "foxden.db")
    for most in (60, 200):
        told = await asyncio.to_thread(_submit_until_killed, url, most)
        assert len(told) >= most
        store = await open_store(url)  # also: the lock went with the process
        for job_id in told:
            job = await store.job("den", job_id)
            assert job is not None, job_id
            assert len(job.tasks) == 2
        await store.close()
        with sqlite3.connect(url) as conn:
            assert conn.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            conn.execute("DELETE FROM job")
            conn.execute("DELETE FROM task")
            conn.execute("DELETE FROM job_key")


def _submit_until_killed(url: str, most: int) -> list[str]:
    told: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-c", SUBMITTER, url],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            told.append(line.strip())
            if len(told) == most:
                process.send_signal(signal.SIGKILL)
                break
        rest = process.stdout.read()  # acknowledged before it died, read after
        told += [line for line in rest.split("\n")[:-1] if line]
    return told
