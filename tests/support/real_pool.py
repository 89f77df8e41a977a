"""Real processes for system tests: brokers, agents and their engines, started, killed and counted.

Protocol timers run three times faster (FOXDEN_TIME_SCALE); diffusers and the demo model are real.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import psutil
from store_rows import rows

import foxden
from foxden_proto.timers import Timers

# The machine does not run faster with them: with a tenth of the real ones, on two busy cores agents
# missed an acknowledgement (0.5 s) and an engine needed longer to import torch than it may (30 s).
TIME_SCALE = 0.3
TIMERS = Timers().scaled(TIME_SCALE)
# For a single program whose own timer a test waits for.
HURRIED = {"FOXDEN_TIME_SCALE": "0.1"}
# Several engines share the cores of one machine here, and a small picture gains nothing from two
# threads.
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
# An image of seconds, so that it can be disturbed in the middle; the longer one lasts while another
# program starts.
BRIEF = {"steps": 50, "width": 128, "height": 128}
LONG = {"steps": 150, "width": 128, "height": 128}


class Process:
    """One of our programs, supervised through its standard input, with its log in a file."""

    def __init__(
        self, program: Sequence[str], arguments: list[str], log: Path, **environment: str
    ) -> None:
        """`program` is what Python runs: "-m" and a module, or a script and its own arguments."""
        self.log = log
        self._process = subprocess.Popen(
            [sys.executable, *program, "--json", "--supervised", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("ab"),
            env={**os.environ, "FOXDEN_TIME_SCALE": str(TIME_SCALE), **ONE_THREAD, **environment},
        )
        self.pid = self._process.pid

    def ready(self) -> dict[str, str]:
        """Its one line of JSON. Fails with its log if it ends instead."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"{self.log.name}: ended with {self._process.wait(10)}\n{self.log.read_text()}"
        return json.loads(line)

    def descendants(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def kill(self) -> list[psutil.Process]:
        """kill -9; what it had started is returned, for a test to see that it goes too."""
        left = self.descendants()
        self._process.kill()
        self._process.wait()
        return left

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def stop(self) -> int:
        """Close its standard input, as a supervisor that dies does."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            return self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise
        finally:
            self._process.stdout.close()

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def assert_runs(self) -> None:
        assert self._process.poll() is None, f"{self.log.name} ended\n{self.log.read_text()}"

    def stop_code(self, seconds: float) -> int:
        """Its exit code, once it has ended by itself."""
        return self._process.wait(seconds)

    def discard(self) -> None:
        left = self.descendants()
        with suppress(Exception):
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
        for child in left:  # a test that failed may have left an engine suspended: it cannot end
            with suppress(psutil.NoSuchProcess):
                child.kill()
        for stream in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                if stream is not None:
                    stream.close()


class Pool:
    """A broker and its agents in one folder; everything can be killed and started again."""

    opened: ClassVar[list[Pool]] = []  # and not closed: what a failed test's report tells of

    def __init__(self, folder: Path, database_url: str = "") -> None:
        self.folder = folder
        self.database_url = database_url  # empty: SQLite in the broker's home
        self.url = self.http = self.token = ""
        self.agent_token = ""
        self.broker: Process | None = None
        self.agents: dict[str, Process] = {}
        self.processes: list[Process] = []  # all that were started
        self._clients: list[foxden.Client] = []
        self.opened.append(self)

    def start_broker(self, *arguments: str, **environment: str) -> Process:
        """The first start takes free ports; later ones the same again, as a service would."""
        ports = ["--grpc-port", "0", "--http-port", "0"]
        if self.url:
            from foxden_proto.address import parse

            address = parse(self.url)
            ports = ["--grpc-port", str(address.grpc_port), "--http-port", str(address.http_port)]
        home = ["--home", str(self.folder / "broker")]
        if self.database_url:
            home += ["--database-url", self.database_url]
        log = self.folder / "broker.log"
        self.broker = Process(
            ["-m", "foxden_broker"], [*home, *ports, *arguments], log, **environment
        )
        self.processes.append(self.broker)
        ready = self.broker.ready()
        self.url, self.http, self.token = ready["url"], ready["http"], ready["token"]
        if not self.agent_token:
            created = self.client().create_token("agents", ["agent"])
            self.agent_token = created.secret
        return self.broker

    def start_agent(
        self,
        name: str = "one",
        *,
        broker: str = "",
        wait: bool = True,
        joined: bool = False,
        arguments: Sequence[str] = (),
        device: str = "cpu",
        engine: Path | None = None,
        **environment: str,
    ) -> Process:
        """`joined`: it serves the pools that its home has joined, and this broker only if one is
        given; `engine`: a program in the place of the agent's own (engine_of_a_card.py)."""
        arguments = ["--home", str(self.folder / name), *arguments]
        if broker or not joined:
            arguments += ["--broker", broker or self.url]
        arguments += ["--device", device, "--name", name]
        log = self.folder / f"{name}.log"
        environment = {"FOXDEN_TOKEN": self.agent_token, **environment}
        program = ["-m", "foxden_agent"]
        if engine is not None:
            program = [str(Path(__file__).with_name("agent_with_engine.py")), str(engine)]
        agent = Process(program, arguments, log, **environment)
        self.agents[name] = agent
        self.processes.append(agent)
        if wait:
            agent.ready()
        return agent

    def rows(self, query: str, *values: object) -> list[tuple]:
        """What the broker's own database has; it must be running."""
        file = str(self.folder / "broker" / "broker" / "foxden.db")
        return rows(self.database_url or file, query, *values)

    def client(self, token: str = "", url: str = "") -> foxden.Client:
        client = foxden.Client(url or self.url, token=token or self.token)
        self._clients.append(client)
        return client

    def engines_of(self, name: str = "one") -> list[psutil.Process]:
        """The engine children of an agent: none while it starts one."""
        found = []
        for child in self.agents[name].descendants():
            with suppress(psutil.NoSuchProcess):
                if "foxden_agent.engine" in child.cmdline():
                    found.append(child)
        return found

    def engine_of(self, name: str = "one") -> psutil.Process:
        """The engine child of an agent."""
        found = self.engines_of(name)
        assert len(found) == 1, found
        return found[0]

    def logs(self) -> list[Path]:
        """Each once, in the order in which the programs were started first."""
        return list(dict.fromkeys(process.log for process in self.processes))

    def close(self) -> None:
        self.opened.remove(self)
        for client in self._clients:
            client.close()
        for process in self.processes:
            process.discard()


def wait_until(what: Callable[[], object], seconds: float = 30, why: str = "") -> None:
    """Poll until it is true; a system test's other process has no event to await."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, why or "it did not happen in time"
        time.sleep(0.02)


def gone(processes: list[psutil.Process]) -> bool:
    """True once none of these runs (a zombie does not)."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                return False
    return True
