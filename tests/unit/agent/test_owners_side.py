"""Page and tray beside the agent, and the agent where they cannot be."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import fake_engine
import pytest

from foxden_agent import owners_side
from foxden_agent.owners_side import OwnersSide, beside_the_agent, first_run
from foxden_agent.page.call import PageCalls
from foxden_proto.timers import Timers


@pytest.fixture(autouse=True)
def no_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)


async def test_library_of_the_page_missing_x_one_sentence_and_no_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in [name for name in sys.modules if name.startswith("foxden_agent.page.server")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    async with beside_the_agent(OwnersSide(tmp_path)) as shown:
        assert not shown.served
    (line,) = [record.getMessage() for record in caplog.records]
    assert "uvicorn" in line
    assert "pip install" in line


async def test_folder_that_cannot_be_written_x_one_sentence_and_no_page(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "agent").write_text("a file where a folder should be")
    async with beside_the_agent(OwnersSide(tmp_path, page_port=0)) as shown:
        assert not shown.served
    assert "the agent works without" in caplog.text


async def test_no_page_wanted_x_none_and_no_tray(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with beside_the_agent(OwnersSide(tmp_path, page=False)) as shown:
        assert not shown.served
        await asyncio.sleep(0)
    assert caplog.text == ""


async def test_no_screen_x_a_page_and_one_sentence_about_the_tray(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with beside_the_agent(OwnersSide(tmp_path, page_port=0)) as shown:
        assert shown.served
        status = await asyncio.to_thread(PageCalls(shown.folder).status)
        assert status["phase"] == "starting"
    assert caplog.text.count("no icon in the tray: there is no screen here") == 1


async def test_first_run_x_ends_when_the_owner_quits(tmp_path: Path) -> None:
    side = OwnersSide(tmp_path, page_port=0)
    async with beside_the_agent(side) as shown:
        waiting = asyncio.create_task(first_run(side, shown, Timers()))
        await asyncio.sleep(0)  # it begins
        assert shown.phase == "first_run"
        await asyncio.to_thread(PageCalls(shown.folder).do, "quit")
        assert await asyncio.wait_for(waiting, 10) is None


async def test_test_picture_x_is_drawn_by_the_engines_own_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = fake_engine.install(tmp_path / "fake")
    monkeypatch.setattr(owners_side, "engine_python", lambda home: program)
    draw = owners_side._draws(OwnersSide(tmp_path, device="cpu"), Timers())
    assert await draw(lambda *_: None) != b""
    assert len(fake_engine.calls(tmp_path / "fake")) == 1
