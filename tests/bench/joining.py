"""From a join link to online: one prepared machine, and thirty that come at once.

python joining.py LINK HOME      what each of the thirty runs: the agent's own code, but that
                                 its card is made up; a line of JSON when it is online
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import psutil
from measuring import NORMAL_TIMERS, ROOT, Row, median
from real_pool import Pool

from foxden_proto.timers import Timers

ROUNDS = 3
THIRTY = 30
_SECONDS = 180.0  # to give up after


def run() -> list[Row]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="foxden-bench-")))
        pool = Pool(folder)
        stack.callback(pool.close)
        pool.start_broker("--public-host", "localhost", **NORMAL_TIMERS)
        _one(pool, "warm-up")  # fills the file cache
        parts = [_one(pool, f"one-{number}") for number in range(ROUNDS)]
        thirty = _thirty(pool)
    joins, starts = [median([part[n] for part in parts]) for n in (0, 1)]
    return [
        Row(
            "join_seconds",
            median([sum(part) for part in parts]),
            "s",
            "<= 10",
            f"`foxden join` {joins:.1f} s, then `foxden agent` until it is online {starts:.1f} s: "
            "importing torch",
        ),
        Row(
            "join_thirty_seconds",
            thirty[0],
            "s",
            "<= 30",
            f"30 processes on this one machine, with the agent's joining and link but a made-up "
            f"card, from the start of the first: {thirty[1]:.0f} s of processor time to start and "
            f"join them, {thirty[2]:.1f} s in the broker",
        ),
    ]


def _one(pool: Pool, name: str) -> tuple[float, float]:
    """Seconds of the command that joins, and of the agent until its card can be given work."""
    link = pool.client().create_join_link().text
    begun = time.perf_counter()
    command = [sys.executable, "-m", "foxden", "join", link, "--yes", "--json"]
    command += ["--home", str(pool.folder / name)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=_environment())
    joined = time.perf_counter()
    agent = pool.start_agent(name, joined=True, FOXDEN_TOKEN="", **NORMAL_TIMERS)
    online = time.perf_counter()
    agent.stop()
    return joined - begun, online - joined


def _thirty(pool: Pool) -> tuple[float, float, float]:
    """Seconds until the last of them is online; processor seconds of theirs, and of the broker."""
    link = pool.client().create_join_link(THIRTY).text
    assert pool.broker is not None
    before = _processor_seconds(pool.broker.pid)
    with ExitStack() as stack:
        begun = time.perf_counter()
        machines = [
            stack.enter_context(_machine(link, pool.folder / f"of-thirty-{number}"))
            for number in range(THIRTY)
        ]
        for machine in machines:
            assert machine.stdout is not None
            assert machine.stdout.readline(), f"a machine ended with {machine.wait(5)}"
        online = time.perf_counter()
        agents = [agent for agent in pool.client().agents() if agent.state == "online"]
        assert len(agents) == THIRTY, f"{len(agents)} of {THIRTY} are online"
        theirs = sum(_processor_seconds(machine.pid) for machine in machines)
        brokers = _processor_seconds(pool.broker.pid) - before
        for machine in machines:
            machine.kill()
    return online - begun, theirs, brokers


def _processor_seconds(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def _machine(link: str, home: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, __file__, link, str(home)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=_environment(),
    )


def _environment() -> dict[str, str]:
    """Without a session bus: a keyring that asks for a password would wait for its owner."""
    left = {"FOXDEN_URL", "FOXDEN_TOKEN", "FOXDEN_HOME", "DBUS_SESSION_BUS_ADDRESS"}
    kept = {key: value for key, value in os.environ.items() if key not in left}
    return {**kept, **NORMAL_TIMERS, "PYTHONPATH": str(ROOT / "tests" / "support")}


async def _be_one(link: str, home: Path) -> None:
    from machine import Machine

    machine = Machine(home, Timers.from_environment())
    await machine.join(link)
    async with machine.serving(), asyncio.timeout(_SECONDS):
        await machine.online.wait()
        print(json.dumps({"online": True}), flush=True)
        await asyncio.sleep(_SECONDS)


if __name__ == "__main__":
    asyncio.run(_be_one(sys.argv[1], Path(sys.argv[2])))
