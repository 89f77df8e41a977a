"""Many agents in one process, with the agent's own link and uploads. Their engine only sleeps.

    python sim_agents.py '{"url": ..., "token": ..., "agents": 30, "seconds": 0.2, ...}'

Prints a line of JSON once every agent is welcome, and one for each line it reads: `report` asks
for counts and dispatch times since the last report, `welcome` waits until every link is up again.
Ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import struct
import sys
import time
import zlib
from dataclasses import dataclass, field
from typing import Any

from foxden_agent.link_driver import LinkDriver
from foxden_agent.pictures import PictureRefused, PictureSender
from foxden_proto import limits
from foxden_proto.address import Address, parse
from foxden_proto.link import AgentLink, Dropped, Event, LeaseKey, LeasesExpired
from foxden_proto.timers import Timers
from foxden_proto.v1 import generation_pb2, link_pb2, pool_pb2

SIDE = 184  # pixels: as noise without compression a PNG of 100 KB
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


class Pictures:
    """A PNG of noise, made once; each copy has another text in it, and so another sha256."""

    def __init__(self) -> None:
        rows = b"".join(b"\0" + random.randbytes(3 * SIDE) for _ in range(SIDE))
        header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
        self._head = _SIGNATURE + chunk(b"IHDR", header)
        self._tail = chunk(b"IDAT", zlib.compress(rows, 0)) + chunk(b"IEND", b"")

    def another(self, text: str) -> bytes:
        return self._head + chunk(b"tEXt", b"parameters\0" + text.encode()) + self._tail


@dataclass
class Figures:
    """What happened since the last report."""

    done: int = 0
    refused: int = 0
    dispatch: list[float] = field(default_factory=list)  # seconds from submit to the assignment


class Card:
    """One card: takes images in turn, sleeps as long as a batch takes, sends what came of it."""

    def __init__(self, agent: SimulatedAgent, seconds: float) -> None:
        self._agent = agent
        self._seconds = seconds
        self._waiting: asyncio.Queue[list[link_pb2.AssignedTask]] = asyncio.Queue()
        self._beside: set[asyncio.Task[None]] = set()

    def take(self, tasks: list[link_pb2.AssignedTask]) -> None:
        self._waiting.put_nowait(tasks)

    async def run(self) -> None:
        link, flush = self._agent.link, self._agent.driver.flush
        while True:
            tasks = await self._waiting.get()
            keys = [LeaseKey.of(task.lease) for task in tasks]
            for key in keys:
                link.started(key)
            flush()
            await asyncio.sleep(self._seconds)
            for key, task in zip(keys, tasks, strict=True):
                if key in link.held:
                    sending = asyncio.create_task(self._send(key, task, len(tasks)))
                    self._beside.add(sending)
                    sending.add_done_callback(self._beside.discard)

    async def _send(self, key: LeaseKey, task: link_pb2.AssignedTask, batch: int) -> None:
        agent = self._agent
        png = agent.pictures.another(f"{key.job_id} {key.index} {key.lease_no}")
        try:
            stored = await agent.sender.put(
                task.upload_path, task.upload_token, png, lambda: key in agent.link.held
            )
        except PictureRefused as error:
            agent.figures.refused += 1
            agent.link.outcome(key, link_pb2.TaskFailed(reason=str(error), retryable=True))
            agent.driver.flush()
            return
        if stored is None:
            return
        picture = generation_pb2.Picture(
            width=task.request.width,
            height=task.request.height,
            seconds=self._seconds / batch,
            sha256=stored.sha256,
            size=stored.size,
            batch_size=batch,
            placement="simulated: an engine that sleeps",
            versions="simulated",
        )
        finished = link_pb2.TaskFinished(picture=picture, receipt=stored.receipt)
        agent.link.outcome(key, finished)
        agent.driver.flush()
        agent.figures.done += 1


class SimulatedAgent:
    """One agent with one card; everything but its engine is the real agent's."""

    def __init__(
        self, number: int, address: Address, settings: dict[str, Any], common: Common
    ) -> None:
        self.pictures, self.figures = common.pictures, common.figures
        name = f"{settings.get('name', 'sim')}-{number:05}"
        self._card_id = f"{name}:0"
        self._model = settings.get("model", "bench-model")
        card = card_info(self._card_id, name, self._model)
        timers = Timers.from_environment()
        hello = link_pb2.Hello(
            protocol=limits.LINK_PROTOCOL,
            agent_id=name,
            agent_name=name,
            agent_version="simulated",
            cards=[card],
        )
        self.link = AgentLink(timers, hello, time.monotonic())
        self.sender = PictureSender(address, lambda: None)
        self.driver = LinkDriver(
            self.link, address, settings["token"], self._on_event, self._readings, lambda: None
        )
        self.card = Card(self, float(settings.get("seconds", 0.2)))

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.driver.run())
            group.create_task(self.driver.keep_time())
            group.create_task(self.card.run())

    def _readings(self) -> tuple[list[pool_pb2.CardReadings], list[link_pb2.CardMode]]:
        sha256 = model_sha256(self._model)
        readings = pool_pb2.CardReadings(card_id=self._card_id, loaded_models=[sha256])
        mode = link_pb2.CardMode(card_id=self._card_id, mode=pool_pb2.MODE_READY)
        return [readings], [mode]

    def _on_event(self, event: Event) -> None:
        match event:
            case link_pb2.Assignment():
                now = time.monotonic()
                for task in event.tasks:
                    said, _, moment = task.request.prompt.partition(" ")
                    if said == "at":
                        self.figures.dispatch.append(now - float(moment))
                self.link.acknowledge([LeaseKey.of(task.lease) for task in event.tasks])
                self.driver.flush()
                self.card.take(list(event.tasks))
            case link_pb2.StopTask():
                key = LeaseKey.of(event.lease)
                self.link.outcome(key, link_pb2.TaskStopped())
                self.driver.flush()
            case Dropped() | LeasesExpired():
                pass  # the link has forgotten them, and the card looks before it sends


@dataclass
class Common:
    pictures: Pictures = field(default_factory=Pictures)
    figures: Figures = field(default_factory=Figures)


def model_sha256(name: str) -> str:
    return f"{zlib.crc32(name.encode()):08x}".ljust(64, "0")


def card_info(card_id: str, name: str, model: str) -> pool_pb2.CardInfo:
    offered = pool_pb2.Model(
        name=model,
        sha256=model_sha256(model),
        kind="checkpoint",
        family="sd1",
        default_width=SIDE,
        default_height=SIDE,
        default_steps=20,
        default_guidance_scale=7.0,
        default_sampler="Euler",
        default_schedule="automatic",
        multiple_of=8,
        min_size=64,
        max_size=1024,
    )
    return pool_pb2.CardInfo(
        card_id=card_id,
        name=name,
        device="simulated",
        memory_total=8 << 30,
        models=[offered],
        samplers=[pool_pb2.Sampler(name="Euler", schedules=["automatic"])],
        engine="simulated: sleeps",
    )


async def main(settings: dict[str, Any]) -> None:
    address, common = parse(settings["url"]), Common()
    agents = [SimulatedAgent(n, address, settings, common) for n in range(settings["agents"])]
    running = [asyncio.ensure_future(agent.run()) for agent in agents]

    async def all_welcome() -> None:
        while not all(agent.link.up for agent in agents):
            for task in running:
                if task.done():
                    task.result()
            await asyncio.sleep(0.02)

    await all_welcome()
    print(json.dumps({"pid": os.getpid()}), flush=True)
    loop = asyncio.get_running_loop()
    while line := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
        if line == "welcome":
            await all_welcome()
            print(json.dumps({"up": len(agents)}), flush=True)
        else:
            figures, common.figures = common.figures, Figures()
            for agent in agents:
                agent.figures = common.figures
            print(json.dumps(vars(figures)), flush=True)
    for task in running:
        task.cancel()


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
