"""The service with agents that are shell scripts: started, updated, rolled back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import psutil
import pytest
import releases

from foxden_agent.installing.environment import Status
from foxden_agent.updating import rounds, supervising, yielding
from foxden_agent.updating.rounds import Source
from foxden_agent.updating.supervising import Service
from foxden_agent.updating.trial import Trial, Tried
from foxden_agent.updating.versions import Known, Versions
from foxden_proto.timers import Timers

TIMERS = Timers(update_check=2.0, update_trial=60.0)
IMPATIENT = Timers(update_check=50.0, update_trial=2.0)  # looks after a second, then once a minute


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Versions:
    """Foxden 0.1.0, installed for one user."""
    monkeypatch.setattr(supervising, "_LOOK_SECONDS", 0.05)
    monkeypatch.setattr(yielding, "_CHECK_SECONDS", 0.05)
    monkeypatch.setattr(yielding, "_ANSWER_SECONDS", 1.0)
    root = tmp_path / "program"
    releases.program(root / "versions/0.1.0", "0.1.0")
    here = Versions(root)
    here.switch("0.1.0")
    (tmp_path / "home/logs").mkdir(parents=True)
    return here


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


def lying(here: Versions) -> list[str]:
    return sorted(one.name for one in here.folder.iterdir() if one.is_dir())


def test_update_that_gets_online_stays_and_the_service_goes_on_as_it(
    installed: Versions, tmp_path: Path
) -> None:
    releases.program(installed.root / "versions/0.0.9", "0.0.9")
    installed.change(lambda known: Known(before="0.0.9"))
    source = releases.release(tmp_path / "server", "0.2.0")
    with running(tmp_path, source, installed) as ended:
        wait_for(lambda: bool(ended))
    assert ended == [installed.root / "current" / "foxden"]
    assert installed.current() == "0.2.0"
    assert installed.known().trial is None
    with running(tmp_path, source, installed):  # as the new version
        wait_for(lambda: lying(installed) == ["0.1.0", "0.2.0"])  # one old one is kept


def test_current_is_the_version_that_works_until_the_next_has_proved_itself(
    installed: Versions, tmp_path: Path
) -> None:
    """A PC that goes down meanwhile starts with a program that can take the trial back."""
    source = releases.release(tmp_path / "server", "0.2.0", releases.SILENT)
    with running(tmp_path, source, installed):
        wait_for(lambda: installed.known().trial == Trial("0.2.0", "0.1.0", 1))
        assert installed.current() == "0.1.0"
    # Told to end, and not killed: that start counts for nothing.
    assert installed.known().trial == Trial("0.2.0", "0.1.0", 0)


@pytest.mark.parametrize("agent", [releases.SILENT, releases.CRASHING], ids=["silent", "crashing"])
def test_update_that_does_not_get_online_is_taken_back_and_blamed_where_the_old_one_does(
    installed: Versions, tmp_path: Path, agent: str
) -> None:
    source = releases.release(tmp_path / "server", "0.2.0", agent)
    with running(tmp_path, source, installed, IMPATIENT) as ended:
        wait_for(lambda: installed.known().of("0.2.0").failures == 1)
        assert not ended
    known = installed.known()
    assert "0.1.0 runs again" in known.said
    assert (known.trial, known.ready, known.of("0.2.0").times) == (None, "", 1)
    assert installed.current() == "0.1.0"


def test_update_is_not_blamed_for_a_network_that_is_away(
    installed: Versions, tmp_path: Path
) -> None:
    """The rolled back version has no link either: the update is tried again later."""
    away = tmp_path / "home/away"
    source = releases.release(tmp_path / "server", "0.2.0", f"touch {away}\n{releases.WELL}")
    with running(tmp_path, source, installed, IMPATIENT):
        wait_for(lambda: installed.known().of("0.2.0").charge == 1)
        wait_for(lambda: installed.known().of("0.2.0").charge == 0)
    assert installed.known().of("0.2.0").failures == 0
    assert installed.known().of("0.2.0").times == 1
    assert installed.current() == "0.1.0"


def test_charge_is_settled_by_the_next_service_where_the_pc_went_down(
    installed: Versions, tmp_path: Path
) -> None:
    installed.change(lambda known: Known(tried=(Tried("0.2.0", 1, charge=1),)))
    with running(tmp_path, Source(), installed):
        wait_for(lambda: installed.known().of("0.2.0").failures == 1)


@pytest.mark.parametrize("agent", ["exit 4", releases.WELL], ids=["refused", "silent"])
def test_old_version_without_a_link_is_updated_too(
    installed: Versions, tmp_path: Path, agent: str
) -> None:
    """A broker may take it no more until it is newer."""
    away = tmp_path / "home/away"
    away.touch()
    releases.program(tmp_path / "old", "0.1.0", agent)
    (tmp_path / "old/foxden").replace(installed.program("0.1.0"))
    source = releases.release(tmp_path / "server", "0.2.0", f"rm {away}\n{releases.WELL}")
    rounds.look(source, installed, tmp_path / "home", "agent-1", time.time())
    with running(tmp_path, source, installed, IMPATIENT) as ended:
        wait_for(lambda: bool(ended))
    assert installed.current() == "0.2.0"


def test_update_waits_for_the_end_of_a_game_and_says_so(
    installed: Versions, tmp_path: Path
) -> None:
    game = tmp_path / "home/game"
    game.touch()
    source = releases.release(tmp_path / "server", "0.2.0")
    with releases.served(tmp_path / "server") as (url, asked):
        over_http = Source(url, source.root)
        with running(tmp_path, over_http, installed) as ended:
            wait_for(lambda: "waits" in installed.known().said)
            time.sleep(0.5)
            assert "(paused: a game is running)" in installed.known().said
            assert (lying(installed), installed.downloads.exists()) == (["0.1.0"], False)
            assert len(asked) == 1  # the description; not asked for again and again
            game.unlink()
            wait_for(lambda: bool(ended))
    assert installed.current() == "0.2.0"
    assert not (tmp_path / "home/agent/update-waits").exists()


def test_trial_that_the_pc_did_not_survive_is_given_up_and_not_begun_again(
    installed: Versions, tmp_path: Path
) -> None:
    started = tmp_path / "started"
    releases.program(installed.folder / "0.2.0", "0.2.0", f"touch {started}\n{releases.SILENT}")
    installed.change(lambda known: Known(trial=Trial("0.2.0", "0.1.0", starts=3)))
    with running(tmp_path, Source(), installed):
        wait_for(lambda: installed.known().of("0.2.0").failures == 3)
    assert installed.current() == "0.1.0"
    assert not started.exists()


def test_pc_that_went_down_between_the_switch_and_its_note_confirms_once_more(
    installed: Versions, tmp_path: Path
) -> None:
    releases.program(installed.folder / "0.2.0", "0.2.0")
    installed.switch("0.2.0")
    installed.change(lambda known: Known(trial=Trial("0.2.0", "0.1.0", starts=1)))
    with running(tmp_path, Source(), installed) as ended:
        wait_for(lambda: bool(ended))
    assert installed.known().before == "0.1.0"
    assert installed.current() == "0.2.0"


@pytest.mark.parametrize("lies", [True, False])
def test_trial_is_over_where_a_person_installed_another_version(
    installed: Versions, tmp_path: Path, lies: bool
) -> None:
    releases.program(installed.folder / "0.3.0", "0.3.0")
    if lies:
        releases.program(installed.folder / "0.2.0", "0.2.0", releases.CRASHING)
        installed.switch("0.3.0")
    installed.change(lambda known: Known(trial=Trial("0.2.0", "0.1.0", starts=1)))
    with running(tmp_path, Source(), installed):
        wait_for(lambda: installed.known() == Known())
        wait_for(lambda: (tmp_path / "home/agent").exists())  # the agent of `current`


def test_program_that_was_cut_short_is_a_failed_trial_and_ends_no_service(
    installed: Versions, tmp_path: Path
) -> None:
    """As a power cut may leave it."""
    releases.program(installed.folder / "0.2.0", "0.2.0")
    installed.program("0.2.0").write_bytes(b"\0" * 100)
    installed.change(lambda known: Known(trial=Trial("0.2.0", "0.1.0")))
    with running(tmp_path, Source(), installed):
        wait_for(lambda: installed.known().of("0.2.0").failures == 1)
    assert installed.current() == "0.1.0"


def test_sleep_of_the_pc_is_no_time_of_a_trial(installed: Versions, tmp_path: Path) -> None:
    releases.program(installed.folder / "0.2.0", "0.2.0", releases.SILENT)
    installed.change(lambda known: Known(trial=Trial("0.2.0", "0.1.0")))
    one = Service(tmp_path / "home", [], Source(), TIMERS, installed)
    with supervising.ExitStack() as stack:
        one._begin(stack)
        now = time.monotonic()
        try:
            for _ in range(5):
                one._once(now)
                now += 1000.0
            assert installed.known().trial is not None
            for _ in range(50):
                one._once(now)
                now += 4.0
            assert installed.known().trial is None
        finally:
            one._end_agent()


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


def test_second_service_of_the_program_leaves_its_updates_alone(
    installed: Versions, tmp_path: Path
) -> None:
    """For another home folder: it would take its own agent's link for the trial's."""
    source = releases.release(tmp_path / "server", "0.2.0", releases.SILENT)
    (tmp_path / "second/home/logs").mkdir(parents=True)
    with running(tmp_path, source, installed):
        wait_for(lambda: installed.known().trial is not None)
        with running(tmp_path / "second", source, installed) as ended:
            wait_for(lambda: (tmp_path / "second/home/agent").exists())
            time.sleep(1.0)
            assert not ended
        assert installed.known().trial is not None
    assert installed.current() == "0.1.0"


def test_end_of_the_service_ends_the_engines_installation(
    installed: Versions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or it would write beside the next service, and into what is being uninstalled."""
    monkeypatch.setattr(rounds.EngineInstaller, "status", lambda self: Status("/python"))
    pid = tmp_path / "pid"
    install = f'[ "$1" = engine ] && {{ echo $$ > {pid}; sleep 300; }}\n{releases.WELL}'
    source = releases.release(tmp_path / "server", "0.2.0", install)
    with running(tmp_path, source, installed):
        wait_for(lambda: pid.exists() and bool(pid.read_text().strip()))
    assert not psutil.pid_exists(int(pid.read_text()))


def test_trial_that_cannot_be_written_down_is_not_begun(
    installed: Versions, tmp_path: Path
) -> None:
    """After a crash nobody would know of it."""
    one = Service(
        tmp_path / "home", [], Source(url="file:///nowhere", root=b"-"), TIMERS, installed
    )
    (installed.root / "updates.json").mkdir()
    with supervising.ExitStack() as stack:
        one._begin(stack)
        assert one._looking is not None
        one._looking.ready = "0.2.0"
        assert not one._begin_trial()
        assert one._trial is None
        (installed.root / "updates.json").rmdir()
        one._looking.ready = "0.2.0"
        assert one._begin_trial()
    assert installed.known().trial == Trial("0.2.0", "0.1.0")


def test_full_disk_ends_neither_the_service_nor_its_looks(
    installed: Versions, tmp_path: Path
) -> None:
    """What is written down fails while the disk is full, and goes on with it."""
    source = releases.release(tmp_path / "server", "0.2.0")
    blocked = installed.root / "updates.json"
    blocked.mkdir()  # no file can take its place
    with running(tmp_path, source, installed) as ended:
        wait_for(lambda: (tmp_path / "home/agent/agent.json").exists())
        time.sleep(1.0)
        assert not ended
        blocked.rmdir()
        wait_for(lambda: bool(ended), 30)
    assert installed.current() == "0.2.0"
