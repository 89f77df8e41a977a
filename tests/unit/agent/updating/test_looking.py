"""The thread that looks for updates: nothing ends it but the service."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import releases

from foxden_agent.updating import rounds
from foxden_agent.updating.deciding import Nothing, Start
from foxden_agent.updating.fetching import FetchFailed
from foxden_agent.updating.looking import LOOK_ASKED, Looking
from foxden_agent.updating.manifest import BadRelease
from foxden_agent.updating.versions import BadArchive, Versions

Found = Start | Nothing | Exception


@pytest.fixture
def installed(tmp_path: Path) -> Versions:
    releases.program(tmp_path / "program/versions/0.1.0", "0.1.0")
    here = Versions(tmp_path / "program")
    here.switch("0.1.0")
    (tmp_path / "home/agent").mkdir(parents=True)
    return here


def looking(
    here: Versions, tmp_path: Path, every: float = 0.1, busy: Callable[[], bool] = lambda: False
) -> Looking:
    home = tmp_path / "home"
    return Looking(rounds.Source(), here, home, every, busy=busy, look_seconds=0.01)


def finding(monkeypatch: pytest.MonkeyPatch, *found: Found) -> threading.Event:
    """What the looks find, one after the other; set when all were asked for."""
    rest, over = list(found), threading.Event()

    def look(*_: object, **__: object) -> Start | Nothing:
        if not rest:
            over.set()
            return Nothing("no more")
        one = rest.pop(0)
        if isinstance(one, Exception):
            raise one
        return one

    monkeypatch.setattr(rounds, "look", look)
    return over


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        FetchFailed("away"),
        BadRelease("a stranger's"),
        BadArchive("damaged"),
        ZeroDivisionError("nobody thought of that"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_look_that_fails_is_made_again(
    installed: Versions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    over = finding(monkeypatch, error)
    one = looking(installed, tmp_path)
    one.start()
    assert over.wait(10)
    one.end()


def test_disk_without_room_for_a_word_is_no_end(
    installed: Versions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = finding(monkeypatch, FetchFailed("away"), Start("0.2.0"))
    (installed.root / "updates.json").mkdir()
    one = looking(installed, tmp_path)
    one.start()
    assert over.wait(10)
    one.end()


def test_version_that_was_withdrawn_before_it_started_waits_no_more(
    installed: Versions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finding(monkeypatch, Start("0.2.0"), FetchFailed("away"), Nothing("withdrawn"))
    one = looking(installed, tmp_path)
    waiting = []
    for _ in range(3):
        with suppress(FetchFailed):
            one._round()
        waiting.append((one.ready, installed.known().said))
    ready = ("0.2.0", "Foxden 0.2.0 is ready")
    assert waiting == [ready, ready, ("", "")]
    assert one.take() == ""


def test_nothing_is_looked_for_while_a_version_is_on_trial_or_takes_over(
    installed: Versions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent runs from there already, for as long as a game goes on: it would be laid anew."""
    over = finding(monkeypatch)
    busy = threading.Event()
    busy.set()
    one = looking(installed, tmp_path, 0.02, busy.is_set)
    one.start()
    assert not over.wait(0.5)
    busy.clear()
    assert over.wait(10)
    one.end()


def test_person_who_asks_is_looked_for_at_once(
    installed: Versions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = finding(monkeypatch)
    one = looking(installed, tmp_path, 1e6)
    one.start()
    assert not over.wait(0.2)
    (tmp_path / "home" / LOOK_ASKED).touch()
    assert over.wait(10)
    began = time.monotonic()
    one.end()
    assert time.monotonic() - began < 5
    assert not (tmp_path / "home" / LOOK_ASKED).exists()
