"""The installed program's whole way at a pool: a link, joining, the service, a picture, the owner's
page and icon, and leaving. The broker is the checkout's, as on another machine."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.cookiejar import CookieJar
from importlib.metadata import version
from pathlib import Path
from urllib.error import HTTPError

import psutil
import pytest
from desktop import BAR, HEIGHT, WIDTH, Desktop, Unavailable
from pictures import matches_prompt
from real_pool import ONE_THREAD, Pool, gone, wait_until

from foxden_agent.page import guard, routes
from foxden_agent.page.call import PageCalls

FILES = Path(routes.__file__).with_name("files")
pytestmark = pytest.mark.timeout(600)  # the first of them waits for the build


class Owner:
    """A user of the installed program, with an engine that is there already: the checkout's."""

    def __init__(self, program: Path, folder: Path) -> None:
        self.program = program
        self.home = folder / "home"
        python = self.home / f".local/share/foxden/engines/{version('foxden')}-cpu/bin/python"
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)
        (python.parents[1] / "engine.json").write_text('{"build": "cpu"}')
        self.environment = {"HOME": str(self.home), "PATH": os.defpath, "LANG": "C.UTF-8"}
        self.calls = PageCalls(self.home / ".local/share/foxden/agent")

    def foxden(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.program), *words],
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def told(self, *words: str, **environment: str) -> dict:
        done = self.foxden(*words, "--json", **environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def serves(self, **environment: str) -> subprocess.Popen[bytes]:
        words = [str(self.program), "service", "--", "--device", "cpu", "--page-port", "0"]
        environment = {**self.environment, **ONE_THREAD, **environment}
        return subprocess.Popen(words, env=environment, stdin=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    made = Pool(tmp_path_factory.mktemp("pool"))
    # Its timers as they are: the installed agent's are not ten times faster.
    made.start_broker("--public-host", "localhost", FOXDEN_TIME_SCALE="1")
    yield made
    made.close()


@pytest.fixture(scope="module")
def desktop() -> Iterator[Desktop]:
    try:
        made = Desktop()
    except Unavailable as why:
        pytest.skip(str(why))
    yield made
    made.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that writes down its address and its environment."""
    folder = tmp_path_factory.mktemp("browser")
    program = folder / "browser"
    program.write_text(
        f'#!/bin/sh\nenv > "{folder}/environment"\nprintf %s "$1" > "{folder}/address"\n'
    )
    program.chmod(0o755)
    return program


@pytest.fixture(scope="module")
def owner(
    program: Path,
    pool: Pool,
    desktop: Desktop,
    browser: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Owner]:
    """He has joined by a link that the bundle's command made, and is online."""
    made = Owner(program, tmp_path_factory.mktemp("owner"))
    who = {"FOXDEN_URL": pool.url, "FOXDEN_TOKEN": pool.token}
    link = made.told("join-link", **who)["text"]
    joined = made.told("join", link, "--yes")
    assert not joined["pending"]
    service = made.serves(DISPLAY=desktop.display, BROWSER=str(browser), LD_LIBRARY_PATH="/his/own")
    try:
        wait_until(lambda: any(card.online for card in pool.client().cards()), 180, "not online")
        yield made
        family = psutil.Process(service.pid).children(recursive=True)
        left = made.told("leave")
        assert (left["broker_told"], left["problems"]) == (True, [])
        wait_until(lambda: not pool.client().agents(), why="the broker still knows the machine")
    finally:
        service.terminate()
        code = service.wait(20)
    assert code == 0
    assert gone(family)
    assert not {path.name for path in made.home.rglob("*")} & {"pools.json", "keys", "page.json"}


def test_it_draws_for_the_pool(owner: Owner, pool: Pool) -> None:
    (picture,) = pool.client().generate("a red cube on a blue background", seed=7, progress=False)
    assert matches_prompt(picture.image)


def test_its_key_is_in_a_file_where_there_is_no_keyring(owner: Owner) -> None:
    (key,) = (owner.home / ".local/share/foxden/agent/keys").iterdir()
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_page_lets_its_owner_in_and_has_all_its_files(owner: Owner) -> None:
    address = owner.told("page", "--print")["address"]
    jar = urllib.request.HTTPCookieProcessor(CookieJar())
    visit = urllib.request.build_opener(jar)
    origin = address.split("/open")[0]
    with visit.open(address) as answer:
        half = answer.url.partition("#half=")[2]
        assert answer.read() == (FILES / "index.html").read_bytes()
    for path, (name, kind) in routes._FILES.items():
        with visit.open(origin + path) as answer:
            assert answer.headers["Content-Type"] == kind
            assert answer.read() == (FILES / name).read_bytes(), name
    with visit.open(f"{origin}/texts.json") as answer:
        assert json.load(answer)["texts"] == json.loads((FILES / "texts/en.json").read_text())
    for path in ("status", "settings", "log", "history"):
        request = urllib.request.Request(f"{origin}/api/{path}", headers={guard.HALF: half})
        with visit.open(request) as answer:
            assert json.load(answer), path
    with pytest.raises(HTTPError, match="403"):  # without his half of the session
        visit.open(f"{origin}/api/status")


def test_owner_who_pauses_is_heard_by_the_pool(owner: Owner, pool: Pool) -> None:
    assert owner.foxden("pause").returncode == 0
    wait_until(lambda: pool.client().cards()[0].mode == "paused", why="the pool does not hear it")
    assert owner.calls.status()["cards"][0]["mode"] == "paused"
    assert owner.foxden("resume").returncode == 0
    wait_until(lambda: pool.client().cards()[0].mode == "ready", why="the pool does not hear it")


def test_icon_is_in_the_panel_and_a_click_opens_the_page_in_a_clean_environment(
    owner: Owner, desktop: Desktop, browser: Path
) -> None:
    x, y = WIDTH - BAR, HEIGHT - BAR
    wait_until(lambda: len(set(desktop.pixels(x, y, BAR, BAR))) > 20, why="no icon is shown")
    heard = browser.with_name("address")

    def clicked() -> bool:
        desktop.click(x + BAR // 2, y + BAR // 2)
        return heard.exists() and bool(heard.read_text())

    wait_until(clicked, why="the click opens nothing")
    with urllib.request.urlopen(heard.read_text()) as answer:
        assert answer.read() == (FILES / "index.html").read_bytes()
    # With the bundle's libraries the browser of the system would not start.
    environment = browser.with_name("environment").read_text().splitlines()
    assert "LD_LIBRARY_PATH=/his/own" in environment


def test_tray_without_a_screen_says_so_and_ends_at_once(call: Callable) -> None:
    began = time.monotonic()
    done = call("tray")
    assert (done.returncode, done.stdout) == (1, "")
    assert "there is no screen here" in done.stderr
    assert "Traceback" not in done.stderr
    assert time.monotonic() - began < 20
