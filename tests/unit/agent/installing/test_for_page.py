"""The installation as the owner's page sees it."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from importlib.metadata import version
from pathlib import Path

import pytest

from foxden_agent.doctor.judging import CardFacts
from foxden_agent.installing import environment, for_page
from foxden_agent.installing.environment import EngineInstaller, InstallPlan, Progress, Status
from foxden_agent.installing.for_page import EngineForPage
from foxden_agent.installing.torch_builds import Machine
from foxden_agent.installing.uv_run import InstallFailed
from foxden_agent.page import plugs
from foxden_agent.page.plugs import CannotInstall


class Slow(EngineInstaller):
    """Installs for as long as it is let."""

    ended = False
    fails = False
    priority = 0

    def install(self, plan: InstallPlan, progress=lambda told: None) -> Status:  # type: ignore[no-untyped-def]
        if sys.platform == "linux":
            self.priority = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        try:
            for done in range(100_000):
                if self.fails:
                    raise InstallFailed("The disk is full.", "Make space.")
                progress(Progress(1, 2, "torch", done, 100_000))
        finally:
            self.ended = True
        return Status()


def page(one: EngineInstaller) -> EngineForPage:
    return EngineForPage(one)


def slow(home: Path, *cards: CardFacts, driver: str = "") -> Slow:
    return Slow(home, machine=lambda: Machine("Linux", "x86_64", driver, cards))


async def test_plan_names_size_and_what_cannot_be_checked(tmp_path: Path) -> None:
    (part,) = await page(slow(tmp_path)).plan()
    assert "torch" in part.name
    assert part.size > 1e8
    assert "No NVIDIA card" in part.note
    assert "estimate" in part.note
    assert "no hash" in part.note


async def test_refusal_is_the_pages_own_error(tmp_path: Path) -> None:
    card = CardFacts("NVIDIA GeForce RTX 5090", "12.0")
    with pytest.raises(CannotInstall, match="Update the driver to at least 580"):
        await page(slow(tmp_path, card, driver="570.86")).plan()


async def test_progress_comes_on_the_loop_and_cancelling_waits_for_the_end(tmp_path: Path) -> None:
    one = slow(tmp_path)
    seen: list[plugs.Progress] = []
    first = asyncio.Event()

    def tell(told: plugs.Progress) -> None:
        seen.append(told)
        first.set()

    running = asyncio.create_task(page(one).install(tell))
    await first.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert one.ended
    assert seen[0] == plugs.Progress("torch", 0, 100_000)


@pytest.mark.skipif(sys.platform != "linux", reason="priorities as Linux tells them")
async def test_installation_gives_way_to_whatever_the_owner_does(tmp_path: Path) -> None:
    one = slow(tmp_path)
    one.fails = True
    for _ in range(2):
        with pytest.raises(CannotInstall):
            await page(one).install(lambda told: None)
    assert one.priority == 19
    assert os.getpriority(os.PRIO_PROCESS, 0) < 19


async def test_failure_is_the_pages_own_error_with_the_way_on(tmp_path: Path) -> None:
    one = slow(tmp_path)
    one.fails = True
    with pytest.raises(CannotInstall, match=r"disk is full\. Make space"):
        await page(one).install(lambda told: None)


def test_checkout_is_ready_where_torch_can_be_imported(tmp_path: Path) -> None:
    assert page(slow(tmp_path)).ready()


def test_shell_is_ready_once_its_environment_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(for_page, "frozen", lambda: True)
    assert not page(slow(tmp_path)).ready()
    made = tmp_path / "engines" / f"{version('foxden')}-cpu"
    made.mkdir(parents=True)
    (made / environment._TOLD).write_text("{}")
    assert not page(slow(tmp_path)).ready(), "its Python is gone"
    python = environment._python_of(made)
    python.parent.mkdir()
    python.touch()
    assert page(slow(tmp_path)).ready()
