"""The tray on a real panel, on a screen that nobody sees, beside a real agent."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from desktop import BAR, HEIGHT, WIDTH, Desktop, Unavailable, debians_gi, until
from real_pool import Pool, Process, gone

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def bindings(tmp_path_factory: pytest.TempPathFactory) -> str:
    """For PYTHONPATH."""
    try:
        return debians_gi(tmp_path_factory.mktemp("gi") / "site")
    except Unavailable as why:
        pytest.skip(str(why))


@pytest.fixture
def desktop() -> Iterator[Desktop]:
    try:
        made = Desktop()
    except Unavailable as why:
        pytest.skip(str(why))
    yield made
    made.close()


def start(pool: Pool, desktop: Desktop, bindings: str, *arguments: str) -> None:
    pool.start_broker()
    pool.start_agent(
        "one",
        arguments=["--page-port", "0", *arguments],
        DISPLAY=desktop.display,
        PYTHONPATH=bindings,
        DBUS_SESSION_BUS_ADDRESS="",
    )


def trays(pool: Pool) -> list[psutil.Process]:
    children = pool.agents["one"].descendants()
    return [child for child in children if "foxden_agent.tray" in child.cmdline()]


def test_icon_x_menu_opens_and_pauses_the_agent_and_the_icon_changes(
    pool: Pool, desktop: Desktop, bindings: str
) -> None:
    start(pool, desktop, bindings)
    (tray,) = trays(pool)
    until(lambda: desktop.windows(tray.pid), "no icon is shown")
    x, y, width, height = desktop.windows(tray.pid)[0]

    def looks() -> bytes:
        return desktop.pixels(x, y, width, height)

    until(lambda: len(set(looks())) > 20, "the icon is empty")
    until(lambda: b"\xd9\x54\x1e" in looks(), "the icon is not that of a card that is ready")
    ready = looks()

    def menu_is_open() -> bool:
        return any(window[3] > 100 for window in desktop.windows(tray.pid))

    desktop.click(x + width // 2, y + height // 2, 3)
    until(menu_is_open, "the menu does not open")
    # Lines that are read only are passed over: "Open", then "Pause" and its first choice.
    desktop.xdotool("key", "--delay", 120, "Down", "Down", "Right", "Return")
    wishes = pool.folder / "one" / "agent" / "wishes.json"
    until(wishes.exists, "nothing was paused")
    wish = json.loads(wishes.read_text())["wish"]
    assert (wish["kind"], wish["seconds"]) == ("for", 3600)
    until(lambda: pool.client().cards()[0].mode == "paused", "the pool does not hear of it", 10)
    until(lambda: looks() not in (ready, b""), "the icon does not change")
    pool.agents["one"].stop()
    until(lambda: gone([tray]), "the tray outlives its agent", 10)


def test_tray_that_crashes_x_the_link_stays_and_the_log_says_it_once(
    pool: Pool, desktop: Desktop, bindings: str
) -> None:
    start(pool, desktop, bindings)
    (tray,) = trays(pool)
    tray.kill()
    log = pool.agents["one"].log
    until(lambda: "no icon in the tray: it ended with code -9" in log.read_text(), "not said")
    assert trays(pool) == []
    assert pool.client().cards()[0].mode == "ready"
    assert log.read_text().count("no icon in the tray") == 1


def test_screen_without_a_panel_x_one_sentence_and_the_end(tmp_path: Path, bindings: str) -> None:
    desktop = Desktop(panel=False)
    try:
        program = (
            "from pathlib import Path; from foxden_agent.tray import program\n"
            f"program.run(Path({str(tmp_path)!r}), 'en', supervised=False, wait=0.0)"
        )
        environment = {**desktop.environment, "PYTHONPATH": bindings}
        words = [sys.executable, "-c", program]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=30)
        assert done.returncode == 1
        assert "NoTray: no panel of this desktop shows icons" in done.stderr
    finally:
        desktop.close()


def test_panel_but_no_gtk_x_a_click_on_the_icon_opens_the_page(
    pool: Pool, desktop: Desktop, tmp_path: Path
) -> None:
    browser, heard = tmp_path / "browser", tmp_path / "address"
    browser.write_text(f'#!/bin/sh\nprintf %s "$1" > "{heard}"\n')
    browser.chmod(0o755)
    # It belongs to no pool yet, and so needs no engine.
    words = ["--home", str(tmp_path / "pc"), "--device", "cpu", "--page-port", "0"]
    environment = {"DISPLAY": desktop.display, "BROWSER": str(browser), "PYTHONPATH": ""}
    agent = Process(["-m", "foxden_agent"], words, tmp_path / "pc.log", **environment)
    pool.agents["one"] = agent
    try:
        until(lambda: trays(pool), "no tray is started")
        # Its window has no process id to be found by: it is the only one in the panel's corner.
        x, y, size = WIDTH - BAR, HEIGHT - BAR, BAR
        until(lambda: len(set(desktop.pixels(x, y, size, size))) > 20, "no icon is shown")

        def clicked() -> bool:
            desktop.click(x + size // 2, y + size // 2)
            return heard.exists() and bool(heard.read_text())

        until(clicked, "the click opens nothing")
        with urllib.request.urlopen(heard.read_text().replace("/open", "/texts.json")) as answer:
            assert answer.status == 200
        assert "/open?key=" in heard.read_text()
    finally:
        agent.discard()
