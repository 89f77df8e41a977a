"""Programs that submit small jobs without a pause and write down everything they were told."""

from __future__ import annotations

import asyncio
import hashlib
import random
import threading
import time
from dataclasses import dataclass, field

import foxden

PROMPTS = ("a red cube on a blue background", "a green ball on a white background")
CANCELLED_OF_100 = 5
RESULT_SECONDS = 150  # for a job of two small images, whatever is broken meanwhile


@dataclass(frozen=True)
class Acknowledged:
    """A job that a client was told is stored."""

    job_id: str
    count: int
    seed: int
    cancelled: bool  # its client meant to cancel it


@dataclass
class Seen:
    """What all clients were told. Appended to by one thread; read when that has ended."""

    acknowledged: dict[str, Acknowledged] = field(default_factory=dict)
    pictures: dict[tuple[str, int], set[str]] = field(default_factory=dict)  # -> sha256 of bytes
    errors: list[str] = field(default_factory=list)
    acknowledged_at: list[float] = field(default_factory=list)  # monotonic seconds
    finished_at: list[float] = field(default_factory=list)


class Load:
    """`programs` clients with `jobs_each` jobs on their way at any time, until told to stop."""

    def __init__(
        self, url: str, token: str, *, seed: int, programs: int = 2, jobs_each: int = 3
    ) -> None:
        self.seen = Seen()
        self._url, self._token = url, token
        self._seed, self._programs, self._jobs_each = seed, programs, jobs_each
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()

    def wait_for_news(self, since: float, seconds: float = 60) -> tuple[float, float]:
        """Seconds from the monotonic moment `since` to the first job acknowledged after it, and to
        the first one finished after that."""
        acknowledged = self._first_after(self.seen.acknowledged_at, since, seconds)
        finished = self._first_after(self.seen.finished_at, acknowledged, seconds)
        return acknowledged - since, finished - since

    def drain(self, seconds: float = RESULT_SECONDS) -> Seen:
        """Submit nothing new, wait for all that is on its way, and say what was seen."""
        self._over.set()
        self._thread.join(seconds)
        assert not self._thread.is_alive(), f"jobs are still on their way after {seconds:.0f} s"
        return self.seen

    def _first_after(self, moments: list[float], since: float, seconds: float) -> float:
        end = time.monotonic() + seconds
        while not moments or moments[-1] <= since:
            assert time.monotonic() < end, f"nothing came for {seconds:.0f} s: {self.seen.errors}"
            time.sleep(0.01)
        return next(moment for moment in moments if moment > since)

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(self._programs):
                group.create_task(self._program(random.Random(f"{self._seed}/{number}")))

    async def _program(self, draw: random.Random) -> None:
        client = foxden.AsyncClient(self._url, self._token)
        async with client, asyncio.TaskGroup() as group:
            for _ in range(self._jobs_each):
                group.create_task(self._one_after_the_other(client, draw))

    async def _one_after_the_other(self, client: foxden.AsyncClient, draw: random.Random) -> None:
        while not self._over.is_set():
            try:
                await self._one_job(client, draw)
            except foxden.FoxdenError as error:
                self.seen.errors.append(f"{type(error).__name__}: {error}")
                await asyncio.sleep(0.2)

    async def _one_job(self, client: foxden.AsyncClient, draw: random.Random) -> None:
        count, seed = draw.choice((1, 1, 2)), draw.randrange(2**32)
        cancel = draw.randrange(100) < CANCELLED_OF_100
        job = await client.submit(
            draw.choice(PROMPTS),
            count=count,
            seed=seed,
            steps=draw.choice((2, 4, 8)),
            priority=draw.choice(("interactive", "normal", "bulk")),
        )
        self.seen.acknowledged[job.id] = Acknowledged(job.id, count, seed, cancel)
        self.seen.acknowledged_at.append(time.monotonic())
        if cancel:
            await job.cancel()
        try:
            for picture in await job.result(timeout=RESULT_SECONDS):
                key = (job.id, picture.index)
                digest = hashlib.sha256(picture.data).hexdigest()
                self.seen.pictures.setdefault(key, set()).add(digest)
        except foxden.JobCancelled:
            if not cancel:
                raise
        self.seen.finished_at.append(time.monotonic())
