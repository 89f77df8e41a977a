"""A worker whose batches are placed on a card of 12 GB that is smaller than it says: the engine
process is played (tests/support/fake_engine.py), everything else is real."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_engine
import pytest
import pytest_asyncio
from placement_models import MODELS, card

from foxden_agent.card_engine import CardEngine
from foxden_agent.placement import Placement, Work
from foxden_agent.placement.placer import Placer
from foxden_agent.placement.remembered import Measurements
from foxden_agent.worker import CardWorker
from foxden_proto.link import AgentLink, BrokerLink, LeaseKey
from foxden_proto.timers import Timers
from foxden_proto.v1 import link_pb2 as pb
from foxden_proto.v1 import pool_pb2
from foxden_proto.v1.generation_pb2 import ImageRequest

SHA = "d" * 64
TIMERS = Timers(engine_retry_first=0.2, engine_retry_most=20.0)
SQUARE = Work(512 * 512)


class Pictures:
    """The broker's HTTP door."""

    async def put(self, *_: object, **__: object) -> Any:
        return SimpleNamespace(sha256="a" * 64, size=3, receipt="signed")


class Placed:
    """A worker that runs, its placer, and what became of its images."""

    def __init__(self, folder: Path, model: str) -> None:
        now = time.monotonic()
        self.folder, self.file = folder, folder / "placement.json"
        self.placer = self.placer_anew(model)
        self.local: Any = SimpleNamespace(
            model=pool_pb2.Model(
                name="m", sha256=SHA, default_width=512, default_height=512, max_size=2048
            ),
            path="/models/m",
            files=(),
        )
        self.ends: list[Any] = []
        self.news = asyncio.Event()
        self.changes = 0
        info = pool_pb2.CardInfo(card_id="card", device="cuda:0", most_together=64)
        hello = pb.Hello(protocol=1, agent_id="agent", agent_version="1", cards=[info])
        self._agent, self._broker = AgentLink(TIMERS, hello, now), BrokerLink(TIMERS, now)
        self._agent.opened(now)
        self._broker.opened(now)
        pictures: Any = Pictures()
        self.worker = CardWorker(
            "card",
            "cuda:0",
            CardEngine("cpu", TIMERS),
            {SHA: self.local},
            self._agent,
            pictures,
            self._flush,
            together=64,
            placer=self.placer,
            changed=self._changed,
        )
        self._flush()
        self._broker.welcome("session", "account", [], [])
        self._deliver()

    def placer_anew(self, model: str) -> Placer:
        """As after a restart of the agent."""
        measurements = Measurements.read(self.file, 20_000)
        return Placer("card", card(12), {SHA: MODELS[model]}, measurements, self.file)

    async def draw(self, *prompts: str, side: int = 512) -> list[Any]:
        """One assignment; how its images ended, in the order of their ends."""
        self.ends.clear()
        tasks = []
        for index, prompt in enumerate(prompts):
            request = ImageRequest(
                model_sha256=SHA, width=side, height=side, guidance_scale=7, prompt=prompt
            )
            lease = LeaseKey("job", index, time.monotonic_ns()).message()
            tasks.append(pb.AssignedTask(lease=lease, request=request))
        self._broker.assign(pb.Assignment(card_id="card", tasks=tasks), time.monotonic())
        self._deliver()
        await self.until(lambda: len(self.ends) >= len(prompts))
        return self.ends

    async def until(self, happened: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not happened():
                self.news.clear()
                await self.news.wait()

    @property
    def placements(self) -> list[list[str]]:
        return fake_engine.placements(self.folder)

    def _changed(self) -> None:
        self.changes += 1
        self.news.set()

    def _flush(self) -> None:
        for data in self._agent.outgoing():
            self._broker.receive(data, time.monotonic())
            frame = pb.AgentFrame.FromString(data)
            name = frame.WhichOneof("frame")
            if name in ("finished", "failed", "released", "stopped"):
                self.ends.append(getattr(frame, str(name)))
        self.news.set()

    def _deliver(self) -> None:
        for data in self._broker.outgoing():
            for event in self._agent.receive(data, time.monotonic()):
                if isinstance(event, pb.Assignment):
                    self.worker.assign(event)
        self._flush()


@pytest_asyncio.fixture
async def sd15(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Placed]:
    monkeypatch.setattr("sys.executable", str(fake_engine.install(tmp_path)))
    made = Placed(tmp_path, "SD 1.5")
    running = asyncio.create_task(made.worker.run())
    yield made
    assert not running.done(), running.exception()
    running.cancel()
    await asyncio.wait([running])


def kinds(ends: list[Any]) -> list[str]:
    return [type(end).__name__ for end in ends]


async def test_batch_x_goes_to_the_engine_with_its_placement(sd15: Placed) -> None:
    assert kinds(await sd15.draw("a cat")) == ["TaskFinished"]
    assert sd15.placements == [["float16", ""]]


async def test_out_of_memory_once_x_is_drawn_again_a_rung_lower_in_the_same_attempt(
    sd15: Placed,
) -> None:
    # "tall" needs offloading; tiles come first on the ladder, so the second try does not do.
    assert kinds(await sd15.draw("tall")) == ["TaskFailed"]
    first, second = sd15.placements
    assert first == second == ["float16", ""]
    for _ in range(3):
        ends = await sd15.draw("tall")
        if kinds(ends) == ["TaskFinished"]:
            break
    assert kinds(ends) == ["TaskFinished"]
    assert sd15.placements[-1][1] == "model"
    assert sd15.changes  # the pool hears of it


async def test_out_of_memory_x_next_time_and_after_a_restart_it_begins_there(
    sd15: Placed,
) -> None:
    while kinds(await sd15.draw("tall")) != ["TaskFinished"]:
        pass
    tries = len(sd15.placements)
    assert kinds(await sd15.draw("tall")) == ["TaskFinished"]
    assert len(sd15.placements) == tries + 1
    found = sd15.placer_anew("SD 1.5").choose(SHA, SQUARE)
    assert isinstance(found, Placement)
    assert found.offload == "model"


async def test_out_of_memory_in_any_case_x_fails_after_two_tries(sd15: Placed) -> None:
    (end,) = await sd15.draw("huge")
    assert end.retryable
    assert "out of memory" in end.reason
    assert len(sd15.placements) == 2


async def test_spilled_x_the_picture_counts_and_the_next_begins_lower(sd15: Placed) -> None:
    before = sd15.placer.choose(SHA, SQUARE)
    assert kinds(await sd15.draw("spilling")) == ["TaskFinished"]
    await sd15.until(lambda: sd15.changes > 0)  # what it took is said after the pictures
    after = sd15.placer.choose(SHA, SQUARE)
    assert isinstance(before, Placement)
    assert isinstance(after, Placement)
    assert after.name != before.name


async def test_batch_that_would_not_lie_like_one_alone_x_is_drawn_one_by_one(
    sd15: Placed,
) -> None:
    side, images = 1024, 16
    alone = sd15.placer.choose(SHA, Work(side * side))
    many = sd15.placer.choose(SHA, Work(side * side, images))
    assert isinstance(alone, Placement)
    assert not isinstance(many, Placement)  # so many steps at once fit in no way
    sd15.worker.together = 1024  # the pool believes that so many may ride together
    found = await sd15.draw(*["a cat"] * images, side=side)
    assert [end.picture.batch_size for end in found] == [1] * images


async def test_picture_that_fits_in_no_way_x_fails_with_what_would_fit(sd15: Placed) -> None:
    sd15.placer.card = card(2)
    (end,) = await sd15.draw("a cat", side=2048)
    assert end.retryable  # another card can
    assert "up to 1248 x 1248 pixels fit here, a card with 4 GB can draw it" in end.reason
    assert not (sd15.folder / "placements").exists()


def test_fits_name_the_largest_picture_the_placement_and_what_would_fit(tmp_path: Path) -> None:
    placed = Placed(tmp_path, "SD 1.5")
    (fit,) = placed.placer.fits([placed.local])
    assert (fit.max_pixels, fit.placement, fit.refusal) == (3584 * 4096, "float16", "")
    placed.placer.card = card(2)
    (fit,) = placed.placer.fits([placed.local])
    assert fit.placement == "float16 tiled offload=sequential"
    assert fit.max_pixels == 1536 * 1024
    assert "a card with 4 GB can draw it" in fit.refusal


def test_model_of_unknown_size_x_is_left_to_the_engine(tmp_path: Path) -> None:
    placed = Placed(tmp_path, "SD 1.5")
    assert placed.placer.choose("e" * 64, SQUARE) is None
    placed.local.model.sha256 = "e" * 64
    assert placed.placer.fits([placed.local]) == []
