"""Ways to break a den, one small object each: how it strikes, and how it heals."""

from __future__ import annotations

import random
import time
from typing import Protocol

from postgres import Cluster
from real_pool import TIMERS, wait_until

from chaos.den import AGENTS, Den
from chaos.recovery import seconds_without_core


class Fault(Protocol):
    """`strike` breaks something and returns at once; `heal` mends it, or lets it mend itself.
    `lasts`: how many seconds there should be between the two, from and to."""

    name: str
    lasts: tuple[float, float]

    def strike(self) -> None: ...
    def heal(self) -> None: ...


class BrokerKilled:
    name = "broker killed with -9"
    lasts = (0.0, 0.5)

    def __init__(self, den: Den) -> None:
        self._den = den
        self.starting = self.no_core = 0.0  # seconds; see `recovery.Recovery`

    def strike(self) -> None:
        assert self._den.pool.broker is not None
        self._den.pool.broker.kill()

    def heal(self) -> None:
        began = time.monotonic()
        broker = self._den.pool.start_broker()
        self.starting = time.monotonic() - began
        self.no_core = seconds_without_core(broker.pid)


class AgentKilled:
    """One agent with all it holds; the next time the other one."""

    name = "agent killed with -9"
    lasts = (0.0, 2.0)

    def __init__(self, den: Den) -> None:
        self._den = den
        self._struck = 0

    @property
    def _victim(self) -> str:
        return AGENTS[self._struck % len(AGENTS)]

    def strike(self) -> None:
        self._den.pool.agents[self._victim].kill()

    def heal(self) -> None:
        self._den.start_agent(self._victim)
        self._den.wait_until_online()
        self._struck += 1


class EngineKilled:
    """The engine of one agent, which starts another by itself."""

    name = "engine killed with -9"
    lasts = (0.0, 0.0)

    def __init__(self, den: Den) -> None:
        self._den = den

    def strike(self) -> None:
        # The fault before this one may have left its agent without: an engine takes seconds.
        pool = self._den.pool
        wait_until(lambda: pool.engines_of(AGENTS[0]), 60, "the agent started no engine")
        pool.engine_of(AGENTS[0]).kill()

    def heal(self) -> None:
        pass


class LinksReset:
    """Every connection of every agent."""

    name = "links reset"
    lasts = (0.0, 0.0)

    def __init__(self, den: Den) -> None:
        self._den = den

    def strike(self) -> None:
        for relay in self._den.relays.values():
            relay.cut()

    def heal(self) -> None:
        pass


class LinkBlackHoled:
    """One agent's bytes go nowhere, and nobody is told."""

    name = "link black-holed"
    lasts = (0.5, 1.8 * TIMERS.lease_lost)  # below and above what a lease outlives

    def __init__(self, den: Den) -> None:
        self._relay = den.relays[AGENTS[0]]

    def strike(self) -> None:
        self._relay.black_hole()

    def heal(self) -> None:
        self._relay.restore()


class LinksSlowed:
    """A fifth of a second for each piece, both ways, with as much jitter again."""

    name = "links slowed"
    lasts = (1.0, 3.0)

    def __init__(self, den: Den, draw: random.Random) -> None:
        self._den, self._draw = den, draw

    def strike(self) -> None:
        for relay in self._den.relays.values():
            relay.delay = self._draw.uniform(0.1, 0.3)

    def heal(self) -> None:
        for relay in self._den.relays.values():
            relay.delay = 0.0


class DatabaseRestarted:
    """PostgreSQL crashes with everything under way, and is started again."""

    name = "PostgreSQL restarted"
    lasts = (0.0, 2.0)

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def strike(self) -> None:
        self._cluster.stop("immediate")

    def heal(self) -> None:
        self._cluster.start()


class BackendsTerminated:
    """Every connection of the broker to its database, wherever its transaction is."""

    name = "PostgreSQL backends terminated"
    lasts = (0.0, 0.0)

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def strike(self) -> None:
        self._cluster.terminate_backends()

    def heal(self) -> None:
        pass
