"""What is on the disk at any moment is enough: images of a running SQLite database."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from foxden_broker.store.base import NewJob, Store, StoreError
from foxden_broker.store.sql_store import open_store
from foxden_broker.store.sqlite_database import check_safe
from foxden_proto.states import JobState

IMAGES = 12


# Tells "<job_id> <state>" on stdout once the store has acknowledged it.
WORKER = """
import asyncio, os, sys
from foxden_broker.store.base import Assign, NewJob, Picture
from foxden_broker.store.sql_store import open_store

def told(job_id, state):
    os.write(1, f"{job_id} {state}\\n".encode())

async def work(store, name):
    n = 0
    while True:
        n += 1
        job_id = f"{name}-{n}"
        new = NewJob("den", job_id, "ann", b"r" * 500, "m", 2, 2, n, 0, job_id, b"d")
        await store.submit(new, key_window_ms=10**9)
        told(job_id, "queued")
        given = [Assign(job_id, index, "c", "C", "a") for index in range(2)]
        for change in await store.assign("den", given, n):
            await store.start("den", change.task.lease, n)
            await store.finish("den", change.task.lease, Picture(job_id, 1, b"m" * 200), n + 1)
        told(job_id, "done")
        if n % 10 == 0:
            await store.archive("den", n, 5)

async def main():
    store = await open_store(sys.argv[1])
    await asyncio.gather(*(work(store, f"w{n}") for n in range(6)))

asyncio.run(main())
"""


class Worker:
    """A process that works on a database until it is stopped."""

    def __init__(self, database: Path) -> None:
        self.told: dict[str, JobState] = {}
        self._rest = b""
        self._process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(database)],
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        assert self._process.stdout is not None
        self._pipe = self._process.stdout.fileno()

    def read(self, seconds: float) -> None:
        """What it tells, until it has been silent for so long."""
        while select.select([self._pipe], [], [], seconds)[0]:
            data = os.read(self._pipe, 65_536)
            assert data, "the worker ended"
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                job_id, state = line.decode().split()
                self.told[job_id] = JobState(state)

    def work(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if select.select([self._pipe], [], [], left)[0]:
                self.read(0)

    def freeze(self) -> None:
        """Stand still wherever it is, also in the middle of a write."""
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)
        self.read(0)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def crash_image(source: Path, folder: Path, dice: random.Random) -> Path:
    """What a power loss leaves: the file and its log, without the shared memory, and the last
    sectors half written."""
    folder.mkdir()
    copy = folder / "foxden.db"
    shutil.copyfile(source, copy)
    shutil.copyfile(f"{source}-wal", f"{copy}-wal")
    with open(f"{copy}-wal", "ab") as log:
        log.write(dice.randbytes(dice.randrange(0, 5_000)))
    return copy


def crash_images(folder: Path, dice: random.Random) -> list[tuple[Path, dict[str, JobState]]]:
    """Of a database at work, each with what was acknowledged until then."""
    source = folder / "foxden.db"
    worker = Worker(source)
    try:
        while len(worker.told) < 5:
            worker.work(0.05)
        images = []
        for n in range(IMAGES):
            worker.work(dice.uniform(0.0, 0.15))
            worker.freeze()
            images.append((crash_image(source, folder / f"image{n}", dice), dict(worker.told)))
            worker.go_on()
        return images
    finally:
        worker.end()


@pytest.mark.skipif(sys.platform == "win32", reason="no process can be frozen on Windows")
async def test_every_acknowledged_job_is_in_a_crash_image(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    images = await asyncio.to_thread(crash_images, tmp_path, random.Random(seed))
    assert len(images[-1][1]) > 20, f"seed {seed}"
    for image, known in images:
        with sqlite3.connect(image) as conn:
            assert conn.execute("PRAGMA integrity_check").fetchall() == [("ok",)], f"seed {seed}"
        store = await open_store(str(image))
        await check(store, known, f"seed {seed}")
        await store.close()


async def check(store: Store, known: dict[str, JobState], hint: str = "") -> None:
    for job_id, state in known.items():
        job = await store.job("den", job_id)
        assert job is not None, f"{job_id} was acknowledged and is gone; {hint}"
        assert job.state is JobState.DONE or state is not JobState.DONE, f"{job_id}; {hint}"


async def test_snapshot_of_a_running_database_is_whole(tmp_path: Path) -> None:
    store = await open_store(str(tmp_path / "foxden.db"))
    told: dict[str, JobState] = {}
    enough = asyncio.Event()

    async def submit(name: str) -> None:
        for n in range(50):
            new = NewJob("den", f"{name}-{n}", "ann", b"r" * 2000, "m", 2, 2, n + 1)
            await store.submit(new, key_window_ms=1)
            told[new.job_id] = JobState.QUEUED
            if len(told) > 30:
                enough.set()

    working = asyncio.gather(*(submit(f"w{n}") for n in range(4)))
    await enough.wait()
    known = dict(told)
    await store.snapshot(tmp_path / "copy.db")
    await working
    with pytest.raises(StoreError, match="is there already"):
        await store.snapshot(tmp_path / "copy.db")
    with pytest.raises(StoreError, match="database failed"):
        await store.snapshot(tmp_path / "nowhere" / "copy.db")
    await store.close()
    assert {name for name in os.listdir(tmp_path) if name.startswith("copy")} == {"copy.db"}
    with sqlite3.connect(tmp_path / "copy.db") as conn:
        assert conn.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    copy = await open_store(str(tmp_path / "copy.db"))
    await check(copy, known)
    await copy.close()


def reader(path: Path, mode: str) -> sqlite3.Connection:
    with sqlite3.connect(path) as conn:
        conn.execute("PRAGMA journal_mode = WAL")
        conn.execute("CREATE TABLE IF NOT EXISTS a (x)")
        conn.execute("INSERT INTO a VALUES (1)")
    return sqlite3.connect(f"{path.as_uri()}?mode={mode}", uri=True, isolation_level=None)


@pytest.mark.parametrize(("version", "lines"), [((3, 51, 2), 1), ((3, 51, 3), 0), ((3, 7, 0), 1)])
def test_version_with_the_wal_reset_bug_is_told_in_one_line(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    version: tuple[int, int, int],
    lines: int,
) -> None:
    caplog.set_level(logging.INFO, "foxden_broker.store.sqlite_database")
    conn = reader(tmp_path / "a.db", "ro")
    check_safe(conn, version)
    conn.close()
    found = [r.getMessage() for r in caplog.records if "WAL-reset bug" in r.getMessage()]
    assert len(found) == lines
    if found:
        assert ".".join(map(str, version)) in found[0]


@pytest.mark.parametrize("version", [(3, 40, 1), (3, 60, 0)])
def test_second_connection_that_could_write_is_refused(
    tmp_path: Path, version: tuple[int, int, int]
) -> None:
    conn = reader(tmp_path / "a.db", "rw")
    with pytest.raises(StoreError, match="second connection for writing"):
        check_safe(conn, version)
    assert conn.execute("SELECT name FROM sqlite_master").fetchall() == [("a",)]
    conn.close()


def test_read_only_connection_can_neither_write_nor_checkpoint(tmp_path: Path) -> None:
    conn = reader(tmp_path / "a.db", "ro")
    check_safe(conn, (3, 40, 1))
    conn.execute("SELECT * FROM a").fetchall()
    log = (tmp_path / "a.db").read_bytes()
    for statement in ("INSERT INTO a VALUES (2)", "PRAGMA wal_checkpoint(TRUNCATE)"):
        try:
            conn.execute(statement).fetchall()
        except sqlite3.OperationalError:
            continue
    assert (tmp_path / "a.db").read_bytes() == log
    assert conn.execute("SELECT x FROM a").fetchall() == [(1,)]
    conn.close()
