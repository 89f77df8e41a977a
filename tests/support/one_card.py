"""One card's worker with its real engine driver and its real link; the engine process itself and
the broker's HTTP door are played here."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_engine
import pytest

from foxden_agent import app
from foxden_agent.card_engine import CardEngine
from foxden_agent.owner_first import Lent, OwnerFirst
from foxden_agent.pictures import PictureRefused
from foxden_agent.policy.owner_files import OwnersWill
from foxden_agent.readings import CardReadings, MachineReadings, Readings
from foxden_agent.worker import CardWorker
from foxden_proto.link import AgentLink, BrokerLink, LeaseKey
from foxden_proto.timers import Timers
from foxden_proto.v1 import link_pb2 as pb
from foxden_proto.v1 import pool_pb2
from foxden_proto.v1.generation_pb2 import ImageRequest

DREAM = "d" * 64
TIMERS = Timers(engine_retry_first=0.2, engine_retry_most=20.0)
# The last words have 0.8 s, and running images are stored every 0.3 s.
QUICK = replace(TIMERS, release=1.0, checkpoint=0.3)


class Door:
    """The broker's HTTP door: what was PUT where, newest last. `mood`: `well`, `away` (nothing
    comes through), `hangs`, or `old` (it knows no checkpoints)."""

    def __init__(self) -> None:
        self.put_there: list[tuple[str, bytes]] = []
        self.kept: dict[str, bytes] = {}  # what GET answers, by path
        self.mood = "well"

    def puts(self, path: str) -> list[bytes]:
        return [data for where, data in self.put_there if where == path]

    async def put(
        self, path: str, token: str, data: bytes, wanted: Callable[[], bool], what: str = ""
    ) -> Any:
        if self.mood == "old" and what:
            raise PictureRefused(404, "Not Found", what)
        if self.mood == "hangs":
            await asyncio.Event().wait()
        while self.mood == "away":
            if not wanted():
                return None
            await asyncio.sleep(0.02)
        self.put_there.append((path, data))
        sha256 = hashlib.sha256(data).hexdigest()
        return SimpleNamespace(sha256=sha256, size=len(data), receipt="signed")

    async def get(self, path: str, token: str, sha256: str, size: int, **_: object) -> bytes:
        if path not in self.kept:
            raise PictureRefused(404, "not kept any more", "a checkpoint")
        return self.kept[path]


@asynccontextmanager
async def at_work(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, together: int = 1, timers: Timers = TIMERS
) -> AsyncIterator[Card]:
    """A card whose worker runs, with fake_engine.py for its engine; it must not have died."""
    monkeypatch.setattr("sys.executable", str(fake_engine.install(folder)))
    made = Card(folder, together, timers)
    running = asyncio.create_task(made.worker.run())
    yield made
    assert not running.done(), running.exception()
    running.cancel()
    await asyncio.wait([running])


class Card:
    """A worker that runs, and the broker's end of its link."""

    def __init__(self, folder: Path, together: int, timers: Timers = TIMERS) -> None:
        now = time.monotonic()
        self.folder = folder
        self.frames: list[pb.AgentFrame] = []
        self.ends: dict[LeaseKey, Any] = {}
        self._news = asyncio.Event()
        self.at = 100.0  # of the readings' clock
        model = pool_pb2.Model(
            name="dream",
            sha256=DREAM,
            family="sd15",
            default_width=64,
            default_height=64,
            default_steps=20,
            default_guidance_scale=7.0,
            multiple_of=8,
            min_size=64,
            max_size=1024,
        )
        info = pool_pb2.CardInfo(
            card_id="card", device="cpu", most_together=together, models=[model]
        )
        self._cards = [info]
        hello = pb.Hello(protocol=1, agent_id="agent", agent_version="1", cards=self._cards)
        self._agent, self._broker = AgentLink(timers, hello, now), BrokerLink(timers, now)
        self._agent.opened(now)
        self._broker.opened(now)
        local: Any = SimpleNamespace(
            model=model,
            path="/models/dream",
            files=(),
        )
        self.door = Door()
        pictures: Any = self.door
        engine = CardEngine("cpu", timers)
        self.worker = CardWorker(
            "card",
            "cpu",
            engine,
            {DREAM: local},
            self._agent,
            pictures,
            self._flush,
            together=together,
            changed=self._say_changes,
        )
        lent = {"cpu": Lent("card", self.worker, engine)}
        self.owner = OwnerFirst(lent, self._agent, self._flush, OwnersWill)
        self.read()
        self._flush()
        self._broker.welcome("session", "account", [], [])
        self._deliver()

    def give(self, *prompts: str, job: str = "job", **fields: Any) -> list[LeaseKey]:
        """One Assignment with an image for each prompt."""
        keys = [LeaseKey(job, index, 1) for index in range(len(prompts))]
        tasks = [
            pb.AssignedTask(
                lease=key.message(), request=request(prompt, **fields), checkpoint_path=path_of(key)
            )
            for key, prompt in zip(keys, prompts, strict=True)
        ]
        self.assign(tasks)
        return keys

    def go_on(
        self, *prompts: str, step: int, job: str = "job", kept: bool = True
    ) -> list[LeaseKey]:
        """One Assignment of images that were begun elsewhere."""
        keys = [LeaseKey(job, index, 2) for index in range(len(prompts))]
        tasks = []
        for key, prompt in zip(keys, prompts, strict=True):
            data = fake_engine.checkpoint(prompt, step)
            if kept:
                self.door.kept[path_of(key)] = data
            sha256 = hashlib.sha256(data).hexdigest()
            resume = pb.Checkpoint(sha256=sha256, size=len(data), step=step, path=path_of(key))
            tasks.append(
                pb.AssignedTask(
                    lease=key.message(),
                    request=request(prompt),
                    resume=resume,
                    checkpoint_path=path_of(key),
                )
            )
        self.assign(tasks)
        return keys

    def assign(self, tasks: list[pb.AssignedTask]) -> None:
        self._broker.assign(pb.Assignment(card_id="card", tasks=tasks), time.monotonic())
        self._deliver()

    async def ended(self, *keys: LeaseKey) -> list[Any]:
        """How these ended, once they all have."""
        await self.until(lambda: set(keys) <= set(self.ends))
        return [self.ends[key] for key in keys]

    async def until(self, happened: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not happened():
                self._news.clear()
                await self._news.wait()

    def said(self, name: str) -> list[Any]:
        return [getattr(f, name) for f in self.frames if f.WhichOneof("frame") == name]

    @property
    def drawn(self) -> list[list[str]]:
        """The prompts of each batch that reached an engine."""
        return [prompts for _, prompts in fake_engine.calls(self.folder)]

    def read(self, *, lost: str = "", **machine: Any) -> None:
        """A second passes on a PC that its owner has left, but for what is said of it. `lost`: the
        driver's word for why the card does not answer."""
        self.at += 1.0
        seen = {"full_screen": "", "idle_seconds": 3600.0} | machine
        card = CardReadings("cpu", self.at, present=not lost, problem=lost)
        moment = MachineReadings(self.at, 1.8e9 + self.at, **seen)
        self.owner.deliver(Readings(moment, (card,)))

    def _say_changes(self) -> None:
        self.owner.again()
        offered = list(self.worker._models.values())
        app._say_changes(self._agent, self._cards, {"card": self.worker}, offered)
        self._flush()

    @property
    def modes(self) -> list[pool_pb2.Mode.ValueType]:
        """What the card has said of itself, beside the heartbeats."""
        return [said.mode.mode for said in self.said("mode_changed")]

    def health(self, state: str) -> None:
        (self.folder / "state").write_text(state)

    def _flush(self) -> None:
        for data in self._agent.outgoing():
            self._broker.receive(data, time.monotonic())  # raises where it breaks a rule
            frame = pb.AgentFrame.FromString(data)
            self.frames.append(frame)
            name = frame.WhichOneof("frame")
            if name in ("finished", "failed", "released", "stopped"):
                payload = getattr(frame, name)
                if name == "released" and payload.releasing:
                    continue
                assert LeaseKey.of(payload.lease) not in self.ends, "it ended twice"
                self.ends[LeaseKey.of(payload.lease)] = payload
        self._news.set()

    def _deliver(self) -> None:
        for data in self._broker.outgoing():
            for event in self._agent.receive(data, time.monotonic()):
                if isinstance(event, pb.Assignment):
                    self.worker.assign(event)
        self._flush()


def path_of(key: LeaseKey) -> str:
    return f"/v1/checkpoints/main/{key.job_id}/{key.index}/{key.lease_no}"


def request(prompt: str, **fields: Any) -> ImageRequest:
    return ImageRequest(
        **{"model_sha256": DREAM, "width": 64, "height": 64} | fields, prompt=prompt
    )


def kinds(ends: list[Any]) -> list[str]:
    return [type(end).__name__ for end in ends]
