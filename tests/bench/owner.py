"""What an agent costs its owner: memory while idle, and seconds until a card is given back."""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import psutil
from measuring import Row, median
from real_pool import Pool, gone, wait_until

from foxden import events
from foxden.cli.main import main as foxden_command

_MB = 1e6
_TIMES = 5
_BIG = {"steps": 150, "width": 256, "height": 256}  # the largest that the demo model draws


def run_memory() -> list[Row]:
    """Resident memory of a broker and an agent that have nothing to do, without an engine."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        pool = Pool(Path(folder))
        stack.callback(pool.close)
        broker = psutil.Process(pool.start_broker().pid)
        agent = psutil.Process(pool.start_agent("one").pid)
        home = ["--home", str(Path(folder) / "one")]
        assert foxden_command(["pause", *home]) == 0  # the engine goes with the card
        wait_until(lambda: not pool.engines_of("one"), 20)
        time.sleep(2)
        of_broker, of_agent = (one.memory_info().rss / _MB for one in (broker, agent))
        # Linux alone tells it: pages that several processes share count once, in parts.
        shares = [getattr(one.memory_full_info(), "pss", 0) / _MB for one in (broker, agent)]
    return [
        Row(
            "agent_memory",
            of_agent,
            "MB",
            "<= 100",
            f"resident, idle, without engine; {shares[1]:.0f} where shared pages count in parts",
        ),
        Row(
            "up_memory",
            of_agent + of_broker,
            "MB",
            "<= 180",
            f"broker {of_broker:.0f} and agent {of_agent:.0f}, resident, idle, without engine; "
            f"{sum(shares):.0f} where shared pages count in parts; interpreter, gRPC, and in the "
            "broker SQLAlchemy and numpy",
        ),
    ]


def run_give_back() -> list[Row]:
    """From the owner's word until the broker knows, and until the engine's memory is back, while
    it draws."""
    told: list[float] = []
    back: list[float] = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        pool = Pool(Path(folder))
        stack.callback(pool.close)
        pool.start_broker()
        pool.start_agent("one")
        client = pool.client()
        home = ["--home", str(Path(folder) / "one")]
        for _ in range(_TIMES):
            job = client.submit("a red cube", **_BIG)
            next(e for e in job.watch() if isinstance(e, events.Progress))
            engine = pool.engine_of("one")
            begun = time.monotonic()
            assert foxden_command(["pause", *home]) == 0
            wait_until(lambda: client.cards()[0].mode == "paused", 20)
            told.append(time.monotonic() - begun)
            wait_until(lambda engine=engine: gone([engine]), 20)
            back.append(time.monotonic() - begun)
            job.cancel()
            assert foxden_command(["resume", *home]) == 0
            wait_until(lambda: client.cards()[0].mode == "ready", 60)
    how = f"`foxden pause` in the middle of a 256 px image on the CPU, {_TIMES} times"
    return [
        Row("owner_no_new_work", max(told), "s", "<= 2", f"{how}: the slowest; a look a second"),
        Row(
            "owner_memory_back",
            max(back),
            "s",
            "<= 5",
            f"{how}: the slowest; {median(back):.1f} in the median; the engine is killed",
        ),
    ]
