"""A machine that joins and serves pools with the agent's own code; its card alone is made up.

The card takes images and holds them until the test has it end them; it draws nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from foxden_agent import identity
from foxden_agent.joined_pools import JoinedPools
from foxden_agent.joining import KeyStore, join
from foxden_agent.links import Links
from foxden_proto import limits
from foxden_proto.link import LeaseKey
from foxden_proto.timers import Timers
from foxden_proto.v1 import link_pb2 as pb
from foxden_proto.v1 import pool_pb2

SIDE = 64
MODEL = pool_pb2.Model(
    name="dream",
    sha256="d" * 64,
    default_width=SIDE,
    default_height=SIDE,
    default_steps=4,
    default_guidance_scale=7.0,
    default_sampler="Euler",
    default_schedule="automatic",
    multiple_of=8,
    min_size=SIDE,
    max_size=SIDE,
)


def no_keyring() -> Any:
    raise ModuleNotFoundError("keyring")  # the tests' own system may have one


def card_info(card_id: str) -> pool_pb2.CardInfo:
    sampler = pool_pb2.Sampler(name="Euler", schedules=["automatic"])
    return pool_pb2.CardInfo(
        card_id=card_id, name="a made-up card", device="cpu", models=[MODEL], samplers=[sampler]
    )


class Worker:
    """In the place of a CardWorker: it says yes to everything."""

    def __init__(self, links: Callable[[], Links]) -> None:
        self._links = links
        self.images: dict[LeaseKey, pb.AssignedTask] = {}
        self.preempted: list[LeaseKey] = []
        self.dropped: list[LeaseKey] = []
        self.prefetched: list[str] = []
        self.keeps_preempted = False  # True: it takes its time

    def assign(self, assignment: pb.Assignment) -> None:
        keys = [LeaseKey.of(task.lease) for task in assignment.tasks]
        self.images.update(zip(keys, assignment.tasks, strict=True))
        self._links().acknowledge(keys)
        for key in keys:
            self._links().started(key)
        self._links().flush()

    def end(self, key: LeaseKey, outcome: Any) -> None:
        if self.images.pop(key, None) is not None:
            self._links().outcome(key, outcome)
            self._links().flush()

    def stop(self, key: LeaseKey) -> None:
        self.end(key, pb.TaskStopped())

    def preempt(self, key: LeaseKey, reason: str) -> None:
        self.preempted.append(key)
        if not self.keeps_preempted:
            self.end(key, pb.TaskReleased(reason=reason))

    def drop(self, key: LeaseKey) -> None:
        self.dropped.append(key)
        self.images.pop(key, None)

    def prefetch(self, sha256: str) -> None:
        self.prefetched.append(sha256)


class Machine:
    """One home folder. `online` is set at the first welcome of a pool."""

    def __init__(self, home: Path, timers: Timers) -> None:
        self.folder = home / "agent"
        self.timers = timers
        self.keystore = KeyStore(self.folder, library=no_keyring)
        self.online = asyncio.Event()
        self.links: Links | None = None
        self.worker = Worker(lambda: self._links)

    @property
    def _links(self) -> Links:
        assert self.links is not None
        return self.links

    async def join(self, link: str, **more: Any) -> Any:
        return await join(self.folder, link, keystore=self.keystore, **more)

    @asynccontextmanager
    async def serving(self, *, alone: bool = False) -> AsyncIterator[asyncio.Task[None]]:
        """Serve what was joined; the task is the loop that does."""
        agent_id = identity.agent_id(self.folder)
        card = card_info(f"{agent_id}.cpu")
        hello = pb.Hello(
            protocol=limits.LINK_PROTOCOL,
            agent_id=agent_id,
            agent_name="made up",
            agent_version="1",
            cards=[card],
        )

        def modes() -> Iterable[pb.CardMode]:
            return [pb.CardMode(card_id=card.card_id, mode=pool_pb2.MODE_READY)]

        workers: Any = {card.card_id: self.worker}
        self.links = Links(self.timers, hello, workers, modes)
        first = asyncio.Event()
        first.set()
        owner: Any = SimpleNamespace(first=first, told=list, modes=modes)
        pools = JoinedPools(
            self.folder,
            agent_id,
            self.links,
            owner,
            alone=alone,
            online=self.online.set,
            keystore=self.keystore,
        )
        clock = asyncio.create_task(self.links.keep_time())
        running = asyncio.create_task(pools.run())
        try:
            yield running
        finally:
            for task in (running, clock):
                task.cancel()
            await asyncio.gather(running, clock, return_exceptions=True)
