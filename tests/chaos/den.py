"""A pool to break: a broker on one of the stores, two agents behind relays, and a load on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cuttable import Relay
from postgres import Cluster
from real_pool import Pool, wait_until

from chaos.invariants import Verdict, check
from chaos.load import Load
from foxden_proto.address import parse

STORES = ("sqlite", "postgresql")
AGENTS = ("one", "two")


class Den:
    """A pool whose every part a fault can reach. Start it, put a `load` on it, break it."""

    def __init__(self, folder: Path, cluster: Cluster | None = None) -> None:
        self.cluster = cluster
        self.pool = Pool(folder, cluster.new_database() if cluster else "")
        self.relays: dict[str, Relay] = {}  # by agent
        self._seed = 0

    def start(self) -> None:
        """Blocks until both agents can draw."""
        self.pool.start_broker()
        http_port = parse(self.pool.url).http_port
        self.relays = {name: Relay(("127.0.0.1", http_port)) for name in AGENTS}
        self.mend()

    def mend(self) -> None:
        """Start what is dead, whoever killed it, and let everything pass. Blocks until both agents
        can draw."""
        assert self.pool.broker is not None
        if self.pool.broker.exit_code is not None:
            self.pool.start_broker()
        for relay in self.relays.values():
            relay.delay = 0.0
            relay.restore()
        for name in AGENTS:
            agent = self.pool.agents.get(name)
            if agent is None or agent.exit_code is not None:
                self.start_agent(name)
        self.wait_until_online()

    def start_agent(self, name: str) -> None:
        """Start it and come back at once: its engine takes seconds."""
        target = (
            f"foxden://127.0.0.1:{parse(self.pool.url).grpc_port}?http={self.relays[name].port}"
        )
        self.pool.start_agent(name, broker=target, wait=False)

    def wait_until_online(self) -> None:
        """Until both agents are there. Fails with the log of one that ended."""
        client = self.pool.client()

        def online() -> bool:
            for name in AGENTS:
                self.pool.agents[name].assert_runs()
            return sum(card.online for card in client.cards()) == len(AGENTS)

        wait_until(online, 120, "an agent did not come back")

    @contextmanager
    def load(self, seed: int = 0) -> Iterator[Load]:
        """Clients at work; when the block ends they are left to finish."""
        load = Load(self.pool.url, self.pool.token, seed=seed)
        try:
            load.wait_for_news(0.0)
            yield load
        finally:
            load.drain()

    def verdicts(self, load: Load) -> list[Verdict]:
        """Judge everything that ever happened in this pool, and this load's part in it."""
        open_jobs = "SELECT count(*) FROM job WHERE state IN ('queued', 'running')"
        # What nobody waits for: a job whose client never heard that it was stored.
        wait_until(lambda: self.pool.rows(open_jobs) == [(0,)], 60, "a job never ends")
        return check(self.pool, load.seen)

    def close(self) -> None:
        self.pool.close()
        for relay in self.relays.values():
            relay.close()
