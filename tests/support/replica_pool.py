"""Several real brokers on one PostgreSQL, with a load balancer before them."""

from __future__ import annotations

from pathlib import Path

import psycopg
from balancer import Balancer
from postgres import Cluster
from real_pool import Pool, Process, wait_until

import foxden
from foxden_proto.address import Address, parse


class SharedPool(Pool):
    """Brokers by name, agents and clients; pictures lie in one folder that all brokers use."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.cluster = Cluster()
        self.replicas: dict[str, Process] = {}
        self.urls: dict[str, str] = {}
        self._balancers: list[Balancer] = []
        self.balanced = ""  # the address of all of them

    def start_replica(self, name: str, **environment: str) -> Process:
        """The first start takes free ports; later ones the same again."""
        ports = ["--grpc-port", "0", "--http-port", "0"]
        if name in self.urls:
            address = parse(self.urls[name])
            ports = ["--grpc-port", str(address.grpc_port), "--http-port", str(address.http_port)]
        arguments = ["--home", str(self.folder / name), *ports]
        arguments += ["--database-url", self.cluster.url()]
        arguments += ["--blobs", str(self.folder / "blobs")]
        log = self.folder / f"{name}.log"
        replica = Process(["-m", "foxden_broker"], arguments, log, **environment)
        self.processes.append(replica)
        self.replicas[name] = replica
        ready = replica.ready()
        self.urls[name] = ready["url"]
        if not self.token:
            self.url, self.token = ready["url"], ready["token"]
            self.agent_token = self.client().create_token("agents", ["agent"]).secret
        return replica

    def balance(self, *names: str) -> str:
        """The address of a balancer before these, which prefers the first; agents and clients
        that dial it find whichever is there."""
        addresses = [parse(self.urls[name]) for name in names]
        grpc = Balancer([(a.host, a.grpc_port) for a in addresses])
        http = Balancer([(a.host, a.http_port) for a in addresses])
        self._balancers += [grpc, http]
        self.balanced = str(Address("127.0.0.1", grpc.port, http.port))
        return self.balanced

    def come_by(self, name: str) -> None:
        """Whoever comes through the balancer finds this broker first from now on; blocks until the
        agent `one` has."""
        log = self.agents["one"].log
        before = log.read_text().count("as session")
        for balancer in self._balancers:
            balancer.prefer(list(self.urls).index(name))
            balancer.cut()
        wait_until(lambda: log.read_text().count("as session") > before, 60, "no agent came")

    def mend(self) -> None:
        """Start the brokers that are dead. Blocks until one plans for the account."""
        for name, replica in self.replicas.items():
            if replica.exit_code is not None:
                self.start_replica(name)
        wait_until(self.owner, 60, "no broker plans")

    def client_of(self, name: str) -> foxden.Client:
        return self.client(url=self.urls[name])

    def rows(self, query: str, *values: object) -> list[tuple]:
        """What the database itself says; `%s` for the values."""
        with psycopg.connect(self.cluster.url(), autocommit=True) as conn:
            return conn.execute(query.encode(), values).fetchall()

    def owner(self) -> str:
        """The name of the replica that plans for the account just now; empty where none does."""
        found = self.rows(
            "SELECT replica_id FROM scheduling_lease "
            "WHERE until_ms > extract(epoch FROM now()) * 1000"
        )
        ids = {
            (self.folder / name / "broker" / "replica-id").read_text().strip(): name
            for name in self.replicas
        }
        return ids.get(found[0][0], "") if found else ""

    def epoch(self) -> int:
        return int(self.rows("SELECT epoch FROM scheduling_lease")[0][0])

    def close(self) -> None:
        super().close()
        for balancer in self._balancers:
            balancer.close()
        self.cluster.close()
