"""The rows: jobs per second, processor time per job, dispatch, depth."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from measuring import Row, median

from load.rig import Rig, Side, rig

CARDS = 30
SLEEP = 0.2  # seconds of a card for one image: 30 cards could draw 150 a second
IN_FLIGHT = 120  # jobs that clients wait for: every card has one running and one staged, and more
WARM_SECONDS, SECONDS = 4.0, 15.0
SIMULATED = "an engine that sleeps"


def throughput(
    made: Rig, agents: Side, clients: Side, seconds: float = SECONDS
) -> tuple[dict[str, Any], dict[str, float]]:
    """What clients saw of so many seconds, and processor milliseconds per job of each process."""
    clients.ask({"in_flight": IN_FLIGHT, "seconds": WARM_SECONDS})
    cpu = made.cpu(agents=agents, clients=clients)
    agents.ask("report")
    seen = clients.ask({"in_flight": IN_FLIGHT, "seconds": seconds})
    spent = cpu.spent()
    drawn = agents.ask("report")["done"]
    assert not seen["failed"], seen["first_failure"]
    # Jobs that end after the bell cost time, too: each is counted where its time is.
    return seen, {name: 1000 * used / drawn for name, used in spent.items()}


def load_sqlite() -> list[Row]:
    return _load("sqlite", ">= 100")


def load_postgres() -> list[Row]:
    return _load("postgresql", ">= 80")


def _load(database: str, reach: str) -> list[Row]:
    with rig(database) as made:
        made.start()
        agents, clients = made.agents(CARDS, SLEEP), made.clients()
        seen, per_job = throughput(made, agents, clients)
    rate = seen["done"] / SECONDS
    parts = ", ".join(f"{name} {ms:.1f}" for name, ms in per_job.items())
    short = database.removesuffix("ql")
    waited = 1000 * median(seen["seconds"])
    return [
        Row(
            f"load_{short}",
            rate,
            "jobs/s",
            reach,
            f"{SIMULATED}; {CARDS} cards, 100 KB pictures, every fsync, {IN_FLIGHT} jobs in "
            f"flight, each {waited:.0f} ms in the median; processor ms per job: {parts}",
        ),
        Row(
            f"load_{short}_broker_cpu",
            per_job["broker"],
            "ms/job",
            "<= 6",
            f"{SIMULATED}; user and system time of the broker's process over {seen['done']} jobs",
        ),
    ]


def dispatch() -> list[Row]:
    """At 20 jobs a second, arriving by chance, on idle cards."""
    with rig() as made:
        made.start()
        agents, clients = made.agents(CARDS, SLEEP), made.clients()
        clients.ask({"per_second": 20, "seconds": WARM_SECONDS})
        agents.ask("report")
        clients.ask({"per_second": 20, "seconds": 2 * SECONDS})
        times = [1000 * one for one in agents.ask("report")["dispatch"]]
    cuts = statistics.quantiles(times, n=100)
    how = f"{SIMULATED}; SDK's submit until the agent has the assignment, {len(times)} jobs"
    return [
        Row("dispatch_p50", cuts[49], "ms", "<= 10", f"{how}: two commits with fsync"),
        Row("dispatch_p99", cuts[98], "ms", "<= 50", how),
    ]


def depth(shallow: int = 100, deep: int = 100_000) -> list[Row]:
    """The same load with so many jobs of a lower class waiting behind it."""

    def measure(waiting: int) -> tuple[float, dict[str, float]]:
        with rig() as made:
            made.start()
            made.stop()
            made.fill(waiting)
            made.start()
            agents, clients = made.agents(CARDS, SLEEP), made.clients("interactive")
            seen, per_job = throughput(made, agents, clients)
            return seen["done"] / SECONDS, per_job

    (few, cheap), (many, dear) = measure(shallow), measure(deep)
    return [
        Row(
            "depth_ratio",
            many / few,
            "x",
            ">= 0.8",
            f"{SIMULATED}; {many:.0f} jobs/s with {deep:,} waiting, {few:.0f} with {shallow}; "
            f"broker {dear['broker']:.1f} and {cheap['broker']:.1f} ms per job",
        )
    ]


def idle_links(number: int = 5000, seconds: float = 60.0) -> list[Row]:
    """So many agents that do nothing but beat, and all of them coming back after a kill -9."""
    with rig() as made:
        made.start()
        bare = made.broker_memory()
        links = made.links(number)
        time.sleep(10)  # the last to come have beaten twice
        cpu = made.cpu(links=links)
        time.sleep(seconds)
        spent, memory = cpu.spent(), made.broker_memory()
        assert made.pool.broker is not None
        made.pool.broker.kill()
        begun = time.monotonic()
        links.ask("lost")
        made.start()
        started = time.monotonic() - begun
        links.ask("welcome")
        storm = time.monotonic() - begun
    return [
        Row(
            "links_memory",
            memory,
            "MB",
            "<= 500",
            f"simulated agents on real links, a card each; the broker alone has {bare:.0f} MB: "
            f"{1000 * (memory - bare) / number:.0f} KB per link",
        ),
        Row(
            "links_cpu",
            spent["broker"] / seconds,
            "core",
            "<= 0.5",
            f"a heartbeat per link every 5 s: {1000 * spent['broker'] / seconds / number * 5:.2f} "
            "ms each",
        ),
        Row(
            "links_storm",
            storm,
            "s",
            "<= 60",
            f"kill -9 until every link is welcome again, {started:.1f} s of it until the broker "
            f"was back; redials after 0.25 to 0.5 s, doubling to 30 s",
        ),
    ]


BENCHMARKS: dict[str, Callable[[], list[Row]]] = {
    "load_sqlite": load_sqlite,
    "load_postgres": load_postgres,
    "dispatch": dispatch,
}
LONG: dict[str, Callable[[], list[Row]]] = {"depth": depth, "idle_links": idle_links}
