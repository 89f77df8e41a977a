"""The service with agents that are shell scripts: started, updated, rolled back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest
import releases

from foxden_agent import identity
from foxden_agent.updating import rounds, service, versions
from foxden_agent.updating.fetching import FetchFailed
from foxden_agent.updating.manifest import BadRelease
from foxden_agent.updating.rounds import Source
from foxden_agent.updating.service import Service
from foxden_agent.updating.versions import BadArchive, Known, Versions
from foxden_proto.timers import Timers

TIMERS = Timers(update_check=2.0, update_trial=60.0)
IMPATIENT = Timers(update_check=2.0, update_trial=2.0)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Versions:
    """Foxden 0.1.0, installed for one user."""
    monkeypatch.setattr(service, "_LOOK_SECONDS", 0.05)
    root = tmp_path / "program"
    releases.program(root / "versions/0.1.0", "0.1.0")
    here = Versions(root)
    here.switch("0.1.0")
    (tmp_path / "home/logs").mkdir(parents=True)
    return here


def look(source: Source, here: Versions, tmp_path: Path, **more: bool) -> object:
    return rounds.look(source, here, tmp_path / "home", "agent-1", time.time(), **more)


@contextmanager
def running(
    tmp_path: Path, source: Source, here: Versions, timers: Timers = TIMERS
) -> Iterator[list[Path | None]]:
    """A service until the context ends; the list takes what it goes on as."""
    ended: list[Path | None] = []
    one = Service(tmp_path / "home", [], source, timers, here)
    thread = Thread(target=lambda: ended.append(one.run()))
    thread.start()
    try:
        yield ended
    finally:
        one.stop()
        thread.join(20)
        assert not thread.is_alive()


def wait_for(done: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)


def test_release_is_made_ready_and_then_named(installed: Versions, tmp_path: Path) -> None:
    source = releases.release(tmp_path / "server", "0.2.0")
    assert type(look(source, installed, tmp_path, only_look=True)).__name__ == "Fetch"
    assert installed.installed() == ["0.1.0"]
    assert type(look(source, installed, tmp_path)).__name__ == "Start"
    assert installed.installed() == ["0.1.0", "0.2.0"]
    assert installed.current() == "0.1.0"
    assert installed.known().ready == "0.2.0"
    assert not list(installed.downloads.iterdir())


def test_person_and_service_do_not_unpack_at_once(installed: Versions, tmp_path: Path) -> None:
    source = releases.release(tmp_path / "server", "0.2.0")
    held = identity.locked(installed.root / "updates.lock", AssertionError("free before"))
    with held, pytest.raises(FetchFailed, match="being fetched already"):
        look(source, installed, tmp_path)
    assert installed.installed() == ["0.1.0"]
    assert type(look(source, installed, tmp_path)).__name__ == "Start"


def test_old_description_shown_again_changes_nothing(installed: Versions, tmp_path: Path) -> None:
    source = releases.release(tmp_path / "server", "0.2.0")
    old = (tmp_path / "server/release.json").read_bytes()
    releases.release(tmp_path / "server", "0.3.0")
    look(source, installed, tmp_path)
    (tmp_path / "server/release.json").write_bytes(old)
    found = look(source, installed, tmp_path)
    assert "old description" in getattr(found, "reason", "")


def test_description_of_a_stranger_is_refused(installed: Versions, tmp_path: Path) -> None:
    source = releases.release(tmp_path / "server", "0.2.0")
    stranger = releases.release(tmp_path / "other", "0.2.0")
    with pytest.raises(BadRelease, match="not Foxden's"):
        look(Source(source.url, stranger.root), installed, tmp_path)
    assert installed.known() == Known()


def test_program_that_says_another_version_is_not_laid_beside(
    installed: Versions, tmp_path: Path
) -> None:
    releases.release(tmp_path / "server", "0.2.0")
    archive = next((tmp_path / "server").glob("*.tar.xz"))
    with pytest.raises(BadArchive, match=r"does not say it is 9\.9\.9"):
        installed.unpack(archive, "9.9.9")
    assert installed.installed() == ["0.1.0"]


def test_archive_cut_short_is_refused_and_leaves_nothing(
    installed: Versions, tmp_path: Path
) -> None:
    releases.release(tmp_path / "server", "0.2.0")
    archive = next((tmp_path / "server").glob("*.tar.xz"))
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadArchive):
        installed.unpack(archive, "0.2.0")
    assert [one.name for one in (installed.root / "versions").iterdir()] == ["0.1.0"]


def test_update_that_gets_online_stays_and_the_service_goes_on_as_it(
    installed: Versions, tmp_path: Path
) -> None:
    releases.program(installed.root / "versions/0.0.9", "0.0.9")
    source = releases.release(tmp_path / "server", "0.2.0")
    with running(tmp_path, source, installed) as ended:
        wait_for(lambda: bool(ended))
    assert ended == [installed.root / "current" / "foxden"]
    assert installed.current() == "0.2.0"
    assert installed.installed() == ["0.1.0", "0.2.0"]  # one old one is kept
    assert installed.known().trial is None


@pytest.mark.parametrize("agent", [releases.SILENT, releases.CRASHING], ids=["silent", "crashing"])
def test_update_that_does_not_get_online_is_rolled_back_and_not_tried_again(
    installed: Versions, tmp_path: Path, agent: str
) -> None:
    source = releases.release(tmp_path / "server", "0.2.0", agent)
    with running(tmp_path, source, installed, IMPATIENT) as ended:
        wait_for(lambda: installed.known().bad == ("0.2.0",))
        wait_for(lambda: "0.1.0 runs again" in installed.known().said)
        assert not ended
    assert installed.current() == "0.1.0"
    assert "did not get online" in getattr(look(source, installed, tmp_path), "reason", "")


def test_trial_that_the_pc_did_not_survive_is_given_up(installed: Versions, tmp_path: Path) -> None:
    releases.program(installed.root / "versions/0.2.0", "0.2.0", releases.SILENT)
    installed.switch("0.2.0")
    installed.remember(Known(trial=versions.Trial("0.2.0", "0.1.0", starts=3)))
    with running(tmp_path, Source(), installed):
        wait_for(lambda: installed.current() == "0.1.0")
    assert installed.known().bad == ("0.2.0",)


def test_agent_that_dies_is_started_again(installed: Versions, tmp_path: Path) -> None:
    mark = tmp_path / "once"
    program = installed.program("0.1.0")
    text = program.read_text().replace(
        releases.WELL,
        f"[ -e {mark} ] || {{ touch {mark}; exit 3; }}\ntouch {mark}2\n{releases.WELL}",
    )
    program.write_text(text)
    with running(tmp_path, Source(), installed):
        wait_for(Path(f"{mark}2").exists)


def test_service_that_waits_to_become_the_new_version_does_not_fetch_it_again(
    installed: Versions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its agent runs from there already, for as long as a game goes on."""
    source = releases.release(tmp_path / "server", "0.2.0")
    looks: list[bool] = []
    monkeypatch.setattr(rounds, "look", lambda *_, **__: looks.append(True))
    one = Service(tmp_path / "home", [], source, TIMERS, installed)
    one._renew = True
    turns = iter([True, True, False])
    monkeypatch.setattr(one, "_paused", lambda seconds: next(turns))
    one._look_for_updates()
    assert looks == []


def test_damaged_memory_is_no_memory(installed: Versions) -> None:
    (installed.root / "updates.json").write_text("{")
    assert installed.known() == Known()


def test_link_is_replaced_in_one_step(installed: Versions) -> None:
    releases.program(installed.root / "versions/0.2.0", "0.2.0")
    installed.switch("0.2.0")
    assert installed.current() == "0.2.0"
    assert (installed.root / "current").readlink() == Path("versions/0.2.0")
