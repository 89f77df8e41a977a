"""Models that come into the folder while the agent runs: what is offered, what is left alone."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from foxden_agent import arrived_models
from foxden_agent.mended_models import Shelf
from foxden_agent.models import DEMO_MODEL, LocalModel, scan
from foxden_agent.placement import ModelFacts


class Agent:
    """What the loop has to do with; the folder and the scan are real."""

    def __init__(self, home: Path) -> None:
        self.home, self.models = home, home / "models"
        self.models.mkdir()
        self.found = self.scan()
        self.facts: dict[str, ModelFacts] = {}
        self.shelf: Shelf = {one.model.sha256: one for one in self.found}
        self.changed = asyncio.Event()
        self.scans = 0
        self.most = 3

    def scan(self) -> list[LocalModel]:
        return scan(self.models, self.home / "hashes.json")

    def scanned(self) -> list[LocalModel]:
        self.scans += 1
        return self.scan()

    async def run(self) -> None:
        await arrived_models.run(
            *(self.models, self.found, self.facts, self.shelf, self.scanned),
            *(self.changed.set, self.most),
            every=0.01,
        )

    def arrive(self, name: str, *, missing: int = 0, index: str = "") -> Path:
        """A fetched copy of the demo model, whose bytes are its own; `missing` of them aren't there
        yet."""
        aside = self.home / name
        shutil.copytree(DEMO_MODEL, aside)
        (aside / "vae" / "config.json").write_text(f'{{"_name": "{name}"}}')
        if index:
            (aside / "model_index.json").write_text(index)
        files = [path for path in aside.rglob("*") if path.is_file()]
        total = sum(path.stat().st_size for path in files if path.name != "foxden.json")
        told = {"source": f"a/{name}", "bytes": total + missing}
        (aside / "foxden.json").write_text(json.dumps(told))
        return aside.rename(self.models / name)

    def offered(self) -> list[str]:
        return [one.model.name for one in self.shelf.values()]


@pytest_asyncio.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Agent]:
    made = Agent(tmp_path)
    running = asyncio.create_task(made.run())
    yield made
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def some_looks() -> None:
    await asyncio.sleep(0.3)


async def test_fetched_model_arrives_x_offered_with_what_it_takes(agent: Agent) -> None:
    agent.arrive("fox")
    await asyncio.wait_for(agent.changed.wait(), 10)
    assert agent.offered() == ["foxden-demo", "fox"]
    assert [one.model.name for one in agent.found] == ["foxden-demo", "fox"]
    assert {one.model.sha256 for one in agent.found[1:]} == {*agent.facts}


async def test_copied_by_hand_x_left_for_the_next_start(agent: Agent) -> None:
    shutil.copytree(DEMO_MODEL, agent.models / "by-hand")
    await some_looks()
    assert agent.scans == 0


async def test_copy_of_a_fetched_one_that_is_being_made_x_waits_until_it_is_whole(
    agent: Agent,
) -> None:
    folder = agent.arrive("fox", missing=7)
    await some_looks()
    assert agent.scans == 0
    (folder / "vae" / "more.txt").write_text("7 bytes")
    await asyncio.wait_for(agent.changed.wait(), 10)
    assert "fox" in agent.offered()


async def test_one_of_no_use_x_is_read_once(agent: Agent) -> None:
    agent.arrive("fox", index='{"_class_name": "WanPipeline"}')
    await some_looks()
    assert agent.scans == 1
    assert agent.offered() == ["foxden-demo"]


async def test_more_than_one_hello_can_say_x_not_offered(agent: Agent) -> None:
    for name in ("a", "b", "c"):
        agent.arrive(name)
    await some_looks()
    await asyncio.wait_for(agent.changed.wait(), 10)
    assert len(agent.found) == 3
