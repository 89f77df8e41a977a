"""A real broker with simulated cards and real SDK clients around it, each a process."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from measuring import NORMAL_TIMERS
from real_pool import Pool

from foxden_broker.store.base import NewJob
from foxden_broker.store.sql_store import open_store
from foxden_broker.tokens import random_id
from foxden_proto.v1.generation_pb2 import PRIORITY_BULK, ImageRequest
from load.sim_agents import SIDE, model_sha256

HERE = Path(__file__).parent
MODEL = "bench-model"
_AT_ONCE = 2000  # jobs of a filling that wait for one commit


class Side:
    """A child that answers each line of JSON with one."""

    def __init__(self, script: str, log: Path, **settings: object) -> None:
        self._log = log
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / script), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("ab"),
            text=True,
            env={**os.environ, **NORMAL_TIMERS, "PYTHONPATH": _python_path()},
        )
        self.pid = self._process.pid
        self.hear()

    def say(self, order: dict[str, Any] | str) -> None:
        assert self._process.stdin is not None
        text = order if isinstance(order, str) else json.dumps(order)
        self._process.stdin.write(text + "\n")
        self._process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"{self._log.name} ended:\n{self._log.read_text()[-2000:]}"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, order: dict[str, Any] | str) -> dict[str, Any]:
        self.say(order)
        return self.hear()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


class Cpu:
    """Processor seconds of processes, their children included, between `start` and `spent`."""

    def __init__(self, pids: dict[str, int]) -> None:
        self._pids = pids
        self.start()

    def start(self) -> None:
        self._before = {name: _seconds(pid) for name, pid in self._pids.items()}

    def spent(self) -> dict[str, float]:
        return {name: _seconds(pid) - self._before[name] for name, pid in self._pids.items()}


def _seconds(pid: int) -> float:
    process = psutil.Process(pid)
    total = 0.0
    for one in [process, *process.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            total += times.user + times.system
    times = process.cpu_times()
    return total + times.children_user + times.children_system


class Rig:
    """The broker is started by `start`, what is around it by `agents` and `clients`."""

    def __init__(self, folder: Path, database_url: str = "", postgres_pid: int = 0) -> None:
        self._folder = folder
        self._arguments: tuple[str, ...] = ("--most-queued", "0", "--most-queued-in-account", "0")
        if database_url:
            self._arguments += ("--database-url", database_url)
        self._postgres_pid = postgres_pid
        self._database = database_url or str(folder / "broker" / "broker" / "foxden.db")
        self.pool = Pool(folder)
        self.sides: list[Side] = []

    def start(self, **environment: str) -> None:
        self.pool.start_broker(*self._arguments, **NORMAL_TIMERS, **environment)

    def stop(self) -> None:
        assert self.pool.broker is not None
        self.pool.broker.stop()

    def fill(self, jobs: int) -> None:
        """Put so many jobs of the lowest class into the stopped broker's queue, with its store."""
        account = self.pool.token.split("_")[1]
        asyncio.run(_fill(self._database, account, jobs))

    def agents(self, number: int = 30, seconds: float = 0.2, name: str = "sim") -> Side:
        url, token = self.pool.url, self.pool.agent_token
        log = self._folder / f"{name}.log"
        side = Side(
            "sim_agents.py", log, url=url, token=token, agents=number, seconds=seconds, name=name
        )
        self.sides.append(side)
        return side

    def links(self, number: int) -> Side:
        url, token, log = self.pool.url, self.pool.agent_token, self._folder / "links.log"
        side = Side("sim_links.py", log, url=url, token=token, links=number)
        self.sides.append(side)
        return side

    def broker_memory(self) -> float:
        """Resident MB of the broker's process."""
        assert self.pool.broker is not None
        return float(psutil.Process(self.pool.broker.pid).memory_info().rss) / 1e6

    def clients(self, priority: str = "normal", clients: int = 4) -> Side:
        url, token = self.pool.url, self.pool.token
        log = self._folder / "clients.log"
        side = Side("sim_clients.py", log, url=url, token=token, priority=priority, clients=clients)
        self.sides.append(side)
        return side

    def cpu(self, **sides: Side) -> Cpu:
        assert self.pool.broker is not None
        pids = {"broker": self.pool.broker.pid} | {name: one.pid for name, one in sides.items()}
        if self._postgres_pid:
            pids["postgres"] = self._postgres_pid
        return Cpu(pids)

    def close(self) -> None:
        for side in self.sides:
            side.close()
        self.pool.close()


@contextmanager
def rig(database: str = "sqlite") -> Iterator[Rig]:
    """`sqlite` or `postgresql`: both with every fsync, on this machine's disk."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="foxden-load-")))
        url, pid = ("", 0)
        if database == "postgresql":
            url, pid = stack.enter_context(_postgres())
        made = Rig(folder, url, pid)
        stack.callback(made.close)
        yield made


@contextmanager
def _postgres() -> Iterator[tuple[str, int]]:
    """A cluster of our own with its normal durability. Yields its URL and its process."""
    assert shutil.which("initdb"), "no PostgreSQL server is installed (initdb, pg_ctl)"
    assert os.geteuid() == 0, "a PostgreSQL of our own needs root, to run it as the user postgres"
    folder = Path(tempfile.mkdtemp(prefix="foxden-pg-"))
    shutil.chown(folder, "postgres", "postgres")
    data = str(folder / "data")
    options = f"-c listen_addresses='' -c unix_socket_directories={folder}"

    def as_postgres(*command: str) -> None:
        subprocess.run(
            ["runuser", "-u", "postgres", "--", *command],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd="/",
            timeout=60,
        )

    try:
        as_postgres("initdb", "-D", data, "-A", "trust", "-U", "postgres")
        as_postgres("pg_ctl", "-D", data, "-w", "-l", f"{folder}/log", "-o", options, "start")
        pid = int((folder / "data" / "postmaster.pid").read_text().split()[0])
        yield f"postgresql://postgres@/postgres?host={folder}", pid
    finally:
        with suppress(subprocess.CalledProcessError):
            as_postgres("pg_ctl", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


async def _fill(database: str, account_id: str, jobs: int) -> None:
    store = await open_store(database)
    request = ImageRequest(
        model=MODEL,
        model_sha256=model_sha256(MODEL),
        prompt="waits",
        steps=20,
        sampler="Euler",
        schedule="automatic",
        guidance_scale=7.0,
        width=SIDE,
        height=SIDE,
        seed=1,
    ).SerializeToString()
    now = int(time.time() * 1000)

    def job() -> NewJob:
        sha256 = model_sha256(MODEL)
        return NewJob(account_id, random_id(16), "deep", request, sha256, 1, PRIORITY_BULK, now)

    try:
        for at in range(0, jobs, _AT_ONCE):
            some = min(_AT_ONCE, jobs - at)
            await asyncio.gather(*(store.submit(job(), key_window_ms=1) for _ in range(some)))
    finally:
        await store.close()


def _python_path() -> str:
    """Children find what this process found, in the same order."""
    return os.pathsep.join(p for p in sys.path if p)
