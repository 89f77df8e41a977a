"""People and programs that ask for pictures through the real SDK, and what they were told."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from foxden import events
from foxden.client import AsyncClient
from foxden.config import Config
from foxden.errors import FoxdenError, InvalidRequest
from foxden.jobs import AsyncJob
from foxden_proto.address import Address
from simulated.calls import SimulatedTransport
from simulated.clock import Process
from simulated.network import Network

RETRY_FOR = 60.0


@dataclass
class Wish:
    """One job that somebody wants, and everything they heard of it."""

    prompt: str  # its own: tells the job in the store
    count: int
    key: str
    deadline: float | None
    draw: random.Random
    job_ids: set[str] = field(default_factory=set)  # of every acknowledgement
    refused: str = ""  # the broker said no for good
    pictures: dict[int, bytes] = field(default_factory=dict)
    last: list[str] = field(default_factory=list)  # how it ended, each time it was told
    cancelled: bool = False


class User:
    """One member with one client."""

    def __init__(
        self,
        name: str,
        token: str,
        network: Network,
        draw: random.Random,
        models: list[str],
        calm: bool,
        note: Callable[..., None],
        violated: Callable[[str], None],
    ) -> None:
        self.name = name
        self._draw, self._models, self._note, self._violated = draw, models, note, violated
        self._calm = calm  # asks for nothing whose end depends on when it happens
        self.wishes: list[Wish] = []
        self.process = Process(name)
        self._client = AsyncClient("foxden://127.0.0.1", token, retry_for=RETRY_FOR)
        config = Config(Address("127.0.0.1"), token)
        self._client._transport = SimulatedTransport(network, name, config, RETRY_FOR)

    def start(self) -> None:
        self.process.start(self._run(), self.name)

    @property
    def done(self) -> bool:
        return not self.process.tasks

    async def _run(self) -> None:
        pause = self._draw.choice([5.0, 15.0, 40.0])
        following: list[asyncio.Task[None]] = []
        for number in range(self._draw.randint(1, 10)):
            await asyncio.sleep(self._draw.expovariate(1 / pause))
            draw = random.Random(self._draw.getrandbits(64))
            deadline = draw.choice([None, None, None, draw.uniform(20, 300)])
            wish = Wish(
                f"{self.name} wish {number}",
                draw.choice([1, 1, 2, 4]),
                f"key-{self.name}-{number}",
                None if self._calm else deadline,
                draw,
            )
            self.wishes.append(wish)
            following.append(asyncio.create_task(self._pursue(wish), name=wish.prompt))
        await asyncio.gather(*following)

    async def _pursue(self, wish: Wish) -> None:
        job = await self._submit(wish)
        if job is None:
            return
        draw = wish.draw
        way = draw.choice(["wait", "wait", "wait", "cancel", "come back", "leave"])
        if self._calm and way == "cancel":
            way = "wait"
        if way == "leave":
            return
        if way == "cancel":
            waiting = asyncio.create_task(self._watch(wish, job), name=f"watch {wish.prompt}")
            await asyncio.sleep(draw.expovariate(1 / 10))
            await self._cancel(wish, job)
            await waiting
            return
        if way == "come back":
            try:
                async with asyncio.timeout(draw.uniform(0.1, 40)):
                    await self._watch(wish, job)
            except TimeoutError:
                pass
        await self._watch(wish, job)

    async def _submit(self, wish: Wish) -> AsyncJob | None:
        """Until the broker has answered; a program that starts again asks with the same key."""
        draw, options = wish.draw, dict[str, Any]()
        if draw.random() < 0.7 or self._calm:
            options["model"] = draw.choice(self._models)
        options["steps"] = draw.choice([draw.randint(1, 12)] * 7 + [40])
        options["priority"] = draw.choice(["interactive", "normal", "bulk"])
        options["seed"] = draw.randrange(1 << 30)
        while True:
            try:
                job = await self._client.submit(
                    wish.prompt,
                    count=wish.count,
                    idempotency_key=wish.key,
                    deadline=wish.deadline,
                    **options,
                )
            except InvalidRequest as error:
                wish.refused = str(error)
                return None
            except FoxdenError as error:
                self._note(f"{self.name}: {error}")
                await asyncio.sleep(wish.draw.uniform(1, 10))
                continue
            self._note(f"{self.name}: {wish.prompt!r} is job {job.id}")
            wish.job_ids.add(job.id)
            return job

    async def _cancel(self, wish: Wish, job: AsyncJob) -> None:
        while True:
            try:
                await job.cancel()
            except FoxdenError as error:
                self._note(f"{self.name}: cancel: {error}")
                if wish.draw.random() < 0.3:
                    return  # gives up; it may have been heard or not
                await asyncio.sleep(wish.draw.uniform(1, 10))
                continue
            wish.cancelled = True
            return

    async def _watch(self, wish: Wish, job: AsyncJob) -> None:
        while True:
            try:
                async with aclosing(job.watch()) as seen:
                    async for event in seen:
                        self._saw(wish, event)
                return
            except FoxdenError as error:
                self._note(f"{self.name}: watch: {error}")
                await asyncio.sleep(wish.draw.uniform(1, 10))

    def _saw(self, wish: Wish, event: events.Event) -> None:
        match event:
            case events.PictureReady():
                before = wish.pictures.setdefault(event.index, event.picture.data)
                if before != event.picture.data:
                    self._violated(f"{wish.prompt}/{event.index} was told as two pictures")
            case events.Done():
                wish.last.append("done")
            case events.Cancelled():
                wish.last.append("cancelled")
            case events.Failed():
                wish.last.append(event.state)
