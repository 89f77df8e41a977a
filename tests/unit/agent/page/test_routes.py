"""The page's addresses, called as a browser and as a stranger would."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from foxden_agent.page import routes, whereabouts
from foxden_agent.page.guard import HALF, HEADERS
from foxden_agent.page.keys import Keys
from foxden_agent.page.server import listen, served
from foxden_agent.page.shown import Shown
from foxden_agent.page.whereabouts import Whereabouts

PORT = 7481
ORIGIN = f"http://127.0.0.1:{PORT}"
SECRET = "s" * 40


@pytest.fixture
async def shown(tmp_path: Path) -> Shown:
    return Shown(tmp_path, "1.2.3")


@pytest.fixture
async def stranger(shown: Shown) -> AsyncIterator[httpx.AsyncClient]:
    app: Any = routes.create(shown, Keys(SECRET, lambda: 0.0), Whereabouts(PORT, SECRET))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=ORIGIN) as client:
        yield client


@pytest.fixture
async def owner(stranger: httpx.AsyncClient) -> httpx.AsyncClient:
    """A browser that came in by the door."""
    key = (await stranger.post("/api/key", headers={"Authorization": f"Bearer {SECRET}"})).json()
    opened = await stranger.get("/open", params={"key": key["key"]})
    assert opened.status_code == 303
    half = opened.headers["location"].partition("#half=")[2]
    stranger.headers.update({HALF: half, "origin": ORIGIN})
    return stranger


async def test_door_x_sets_a_cookie_no_script_reads_and_leaves_its_address(
    stranger: httpx.AsyncClient,
) -> None:
    key = (await stranger.post("/api/key", headers={"Authorization": f"Bearer {SECRET}"})).json()
    opened = await stranger.get("/open", params={"key": key["key"]})
    cookie = opened.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert key["key"] not in opened.headers["location"]
    again = await stranger.get("/open", params={"key": key["key"]})
    assert again.headers["location"] == "/#locked"
    assert "set-cookie" not in again.headers


async def test_stranger_x_sees_program_files_and_nothing_of_the_owner(
    stranger: httpx.AsyncClient,
) -> None:
    for path in ("/", "/main.js", "/style.css", "/texts.json", "/icon.svg"):
        answer = await stranger.get(path)
        assert answer.status_code == 200, path
        for name, value in HEADERS.items():
            assert answer.headers[name] == value
    for path in ("status", "history", "log", "settings", "first-run/picture.png"):
        refused = await stranger.get(f"/api/{path}")
        assert refused.status_code == 403
        assert refused.headers["x-frame-options"] == "DENY"
    for path in ("key", "pause", "resume", "settings", "quit", "first-run/join"):
        assert (await stranger.post(f"/api/{path}", json={})).status_code == 403


async def test_every_script_that_is_named_is_served(stranger: httpx.AsyncClient) -> None:
    folder = Path(routes.__file__).parent / "files"
    for path in folder.iterdir():
        if path.is_file() and path.name != "index.html":
            assert (await stranger.get(f"/{path.name}")).status_code == 200, path.name


async def test_pause_and_resume_x_write_the_file_that_the_agent_looks_at(
    owner: httpx.AsyncClient, shown: Shown
) -> None:
    wishes = shown.folder / "wishes.json"
    assert (await owner.post("/api/pause", json={"how": "hour"})).status_code == 200
    assert json.loads(wishes.read_text())["wish"]["seconds"] == 3600
    assert (await owner.post("/api/pause", json={"how": "restart"})).status_code == 409
    assert (await owner.post("/api/pause", json={"how": "ever"})).status_code == 400
    assert (await owner.post("/api/resume", json={})).status_code == 200
    assert json.loads(wishes.read_text())["wish"] is None


async def test_settings_x_all_or_nothing_with_a_complaint_for_each_field(
    owner: httpx.AsyncClient, shown: Shown
) -> None:
    bad = {"hold": -1, "quiet_hours": ["never"], "share_least": 0.5, "odd": 1}
    refused = await owner.post("/api/settings", json={"values": bad})
    assert refused.status_code == 422
    assert set(refused.json()["errors"]) == {"hold", "quiet_hours", "odd"}
    assert not (shown.folder / "policy.json").exists()
    # Each alone would be refused: they go together.
    both = {"temperature.stop": 70, "temperature.resume": 60, "temperature_slow": 65}
    saved = await owner.post("/api/settings", json={"values": both})
    assert saved.status_code == 200
    assert saved.json()["fields"]["temperature.stop"]["value"] == 70
    assert json.loads((shown.folder / "policy.json").read_text())["temperature_slow"] == 65


async def test_settings_file_broken_by_hand_x_says_so_and_stays(
    owner: httpx.AsyncClient, shown: Shown
) -> None:
    (shown.folder / "policy.json").write_text("{")
    answer = await owner.get("/api/settings")
    assert answer.status_code == 409
    assert "no JSON" in answer.json()["problem"]
    assert (await owner.post("/api/settings", json={"values": {"hold": 1}})).status_code == 409
    assert (shown.folder / "policy.json").read_text() == "{"


@pytest.mark.parametrize(
    "call",
    [
        {"content": b"x" * 70_000, "headers": {"content-type": "application/json"}},
        {"content": b"{", "headers": {"content-type": "application/json"}},
        {"content": b"[1]", "headers": {"content-type": "application/json"}},
        {"content": b"\xff\xfe", "headers": {"content-type": "application/json"}},
        {"content": b"[" * 60_000, "headers": {"content-type": "application/json"}},
        {"content": b"how=hour", "headers": {"content-type": "text/plain"}},
        {"json": {}},
        {"json": {"how": ["hour"]}},
    ],
)
async def test_body_that_is_no_call_x_refused(
    owner: httpx.AsyncClient, shown: Shown, call: dict[str, Any]
) -> None:
    assert (await owner.post("/api/pause", **call)).status_code in (400, 403, 415)
    assert not (shown.folder / "wishes.json").exists()


async def test_body_without_an_announced_length_x_cut_off_where_it_is_too_large(
    owner: httpx.AsyncClient, shown: Shown
) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield b'{"how": "hour"'
        for _ in range(100):
            yield b" " * 1000
        yield b"}"

    headers = {"content-type": "application/json"}
    answer = await owner.post("/api/pause", content=endless(), headers=headers)
    assert answer.status_code == 413
    assert not (shown.folder / "wishes.json").exists()


async def test_quit_x_only_where_nobody_starts_it_again(
    owner: httpx.AsyncClient, shown: Shown
) -> None:
    shown.may_quit = False
    assert (await owner.post("/api/quit", json={})).status_code == 409
    assert not shown.stop.is_set()
    shown.may_quit = True
    assert (await owner.post("/api/quit", json={})).status_code == 200
    assert shown.stop.is_set()


async def test_file_of_whereabouts_x_is_private_and_goes_with_the_page(shown: Shown) -> None:
    async with served(shown, 0) as where:
        file = shown.folder / "page.json"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert whereabouts.read(shown.folder) == where
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(where.origin)
            assert answer.status_code == 200
            assert "server" not in answer.headers
    assert not file.exists()


async def test_port_taken_x_another_is_found(shown: Shown) -> None:
    with listen(0) as taken:
        port = taken.getsockname()[1]
        async with served(shown, port) as where:
            assert where.port != port


async def test_next_agent_has_written_the_file_x_it_stays(shown: Shown) -> None:
    other = Whereabouts(1234, "n" * 40)
    async with served(shown, 0):
        whereabouts.write(shown.folder, other)
    assert whereabouts.read(shown.folder) == other


async def test_server_that_dies_x_is_said_and_takes_nothing_with_it(
    shown: Shown, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(shown, 0):
        serving = next(task for task in asyncio.all_tasks() if task.get_name() == "page")
        serving.cancel()
        await asyncio.wait([serving])
    assert not [line for line in caplog.records if line.levelname == "CRITICAL"]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"port": 1}', '{"port": "1", "secret": "x"}', '{"port": 1, "secret": ""}'],
)
def test_damaged_file_of_whereabouts_x_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "page.json").write_text(text)
    assert whereabouts.read(tmp_path) is None
