"""Installed for real, under a systemd of the user's own: how the service is told to end, and what
is left of it. A stop, a crash, a wrong setting, an update of the package, an uninstallation."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from clean_root import HOME, Clean
from desktop import BAR, HEIGHT, WIDTH, Desktop, Unavailable

PACKAGING = Path(__file__).parents[2] / "packaging/linux"
pytestmark = pytest.mark.timeout(600)  # the first of them waits for the build
QUICK = "[Service]\nRestartSec=0\n"
# An engine that hangs: it hears neither the end of its agent nor a signal.
HANGS = "#!/bin/sh\ntrap '' TERM\nwhile :; do sleep 1; done\n"


class Unit:
    """foxden.service of the machine's user."""

    def __init__(self, machine: Clean) -> None:
        self._machine = machine

    def do(self, *words: str) -> None:
        self._machine.as_user("systemctl", "--user", *words, "foxden.service")

    def says(self, name: str) -> str:
        words = ["systemctl", "--user", "show", "-p", name, "--value", "foxden.service"]
        return self._machine.as_user(*words).strip()

    def runs(self, agents: int = 1) -> bool:
        """As it should: one service, and what it looks after."""
        mine = ours(self._machine).values()
        told = [line for line in mine if " -m foxden_agent " in line]
        return self.says("ActiveState") == "active" and len(told) == agents


def ours(machine: Clean) -> dict[int, str]:
    """Foxden's processes there, by their id."""
    return {pid: told for pid, told in machine.processes().items() if "foxden " in told}


def until(what: Callable[[], object], why: str, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, why
        time.sleep(0.1)


def click(machine: Clean, entry: str, **variables: str) -> str:
    """What a desktop does with an entry; what that prints."""
    told = machine.path(entry).read_text().splitlines()
    (line,) = [one for one in told if one.startswith("Exec=")]
    return machine.as_user(*shlex.split(line.removeprefix("Exec=")), **variables)


@pytest.fixture
def unit(machine: Clean) -> Iterator[Unit]:
    made = Unit(machine)
    folder = machine.path(HOME) / ".config/systemd/user/foxden.service.d"
    folder.mkdir(parents=True)
    (folder / "quick.conf").write_text(QUICK)
    machine.as_user("systemctl", "--user", "daemon-reload")
    yield made
    subprocess.run(machine.words("systemctl", "--user", "stop", "foxden"), check=False)
    for path in machine.path(HOME).iterdir():
        shutil.rmtree(path)


def test_service_that_is_killed_is_started_again_and_one_that_is_stopped_is_not(
    machine: Clean, unit: Unit
) -> None:
    unit.do("start")
    until(unit.runs, "it does not start")
    first = unit.says("MainPID")
    before = ours(machine)
    os.kill(int(first), signal.SIGKILL)
    until(lambda: unit.says("MainPID") not in ("0", first) and unit.runs(), "not started again")
    assert not before.keys() & ours(machine).keys()
    unit.do("stop")
    assert (unit.says("ActiveState"), unit.says("Result")) == ("inactive", "success")
    assert ours(machine) == {}


def test_service_that_is_told_to_end_by_the_command_stays_ended(machine: Clean, unit: Unit) -> None:
    unit.do("start")
    until(unit.runs, "it does not start")
    machine.as_user("foxden", "service", "--stop")
    until(lambda: unit.says("ActiveState") == "inactive", "it does not end")
    assert (unit.says("Result"), unit.says("NRestarts")) == ("success", "0")
    assert ours(machine) == {}


def test_service_that_is_stopped_before_it_could_listen_to_signals_has_not_failed(
    machine: Clean, unit: Unit
) -> None:
    unit.do("start")
    unit.do("stop")
    assert (unit.says("ActiveState"), unit.says("Result")) == ("inactive", "success")
    assert ours(machine) == {}


def test_service_with_a_wrong_setting_is_not_started_again(machine: Clean, unit: Unit) -> None:
    settings = machine.path(HOME) / ".config/foxden/environment"
    settings.parent.mkdir()
    settings.write_text("FOXDEN_UPDATE_URL=ftp://example.org/release.json\n")
    unit.do("start")
    until(lambda: unit.says("ActiveState") == "failed", "it was started again")
    assert (unit.says("ExecMainStatus"), unit.says("NRestarts")) == ("2", "0")


def test_service_that_was_there_before_the_desktop_shows_its_icon_there(
    machine: Clean, unit: Unit
) -> None:
    try:
        desktop = Desktop()
    except Unavailable as why:
        pytest.skip(str(why))
    try:
        unit.do("start")  # as at a login: before there is a screen
        until(unit.runs, "it does not start")
        click(machine, "/etc/xdg/autostart/foxden.desktop", DISPLAY=desktop.display)

        def icon() -> bool:
            return len(set(desktop.pixels(WIDTH - BAR, HEIGHT - BAR, BAR, BAR))) > 20

        until(icon, "no icon is shown")
        assert unit.says("Result") == "success"
    finally:
        unit.do("stop")
        machine.as_user("systemctl", "--user", "unset-environment", "DISPLAY")
        desktop.close()


def test_entry_in_the_menu_starts_the_service_and_then_opens_the_page(
    machine: Clean, unit: Unit
) -> None:
    entry = "/usr/share/applications/foxden.desktop"
    click(machine, entry)
    until(unit.runs, "it does not start")
    until(lambda: "http://127.0.0.1:" in click(machine, entry), "no page is opened")
    unit.do("stop")


def test_update_of_the_package_ends_what_runs_of_all_users_and_starts_the_units_again(
    machine: Clean, unit: Unit
) -> None:
    unit.do("start")
    until(unit.runs, "it does not start")
    # Another user, without a systemd: an agent by hand, and its engine hangs.
    home = machine.path("/tmp/other")
    python = home / f"foxden/engines/{version('foxden')}-cpu/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(HANGS)
    python.chmod(0o755)
    (python.parents[1] / "engine.json").write_text("{}")
    shutil.chown(home, "nobody", "nogroup")
    for path in home.rglob("*"):
        shutil.chown(path, "nobody", "nogroup")
    words = ["chroot", "--userspec=nobody:nogroup", str(machine.root), "env", "-i"]
    words += ["HOME=/tmp/other", f"PATH={os.defpath}", "foxden", "agent", "--device", "cpu"]
    words += ["--home", "/tmp/other/foxden", "--broker", "foxden://127.0.0.1:1"]
    quiet = subprocess.DEVNULL
    other = subprocess.Popen([*words, "--token", "fxd_x"], stdin=quiet, stderr=quiet)

    def engines() -> list[str]:
        return [told for told in machine.processes().values() if "foxden_agent.engine" in told]

    until(engines, "the engine is not started")
    before = ours(machine)
    assert len(before) == 3, before
    for name in ("prerm", "postinst"):
        shutil.copy2(PACKAGING / name, machine.path(f"/run/{name}"))
    machine.as_root("/run/prerm", "upgrade", "99.0")
    assert other.poll() is not None
    assert ours(machine) == {}
    assert engines() == []
    assert unit.says("ActiveState") == "inactive"
    machine.as_root("/run/postinst", "configure", "0.0")
    until(unit.runs, "the user's service is not started again")
    machine.as_root("/run/prerm", "remove")
    assert ours(machine) == {}
    machine.as_root("/run/postinst", "abort-remove")
    assert ours(machine) == {}, "what was taken away came back"
    shutil.rmtree(home)


def test_installer_says_why_it_has_not_joined_and_the_uninstaller_leaves_nothing(
    machine: Clean, program: Path
) -> None:
    before = machine.files()
    bundle = machine.path("/tmp/foxden")
    shutil.copytree(program.parent, bundle, symlinks=True)
    words = ["/tmp/foxden/install.sh", "--no-start", "--join", "-", "--yes"]
    done = subprocess.run(
        machine.words(*words), input="foxden://x:1/join/no-link", capture_output=True, text=True
    )
    assert done.returncode == 3, done.stdout + done.stderr
    assert "is installed" in done.stdout
    assert "foxden: " in done.stderr  # why it has not joined
    assert "no-link" not in done.stdout + done.stderr
    shutil.rmtree(bundle)
    unit = Unit(machine)
    unit.do("start")
    until(unit.runs, "it does not start")
    # By hand, by its link, and for another home folder.
    words = [f"{HOME}/.local/bin/foxden", "service", "--", "--page-port", "0"]
    by_hand = subprocess.Popen(machine.words(*words, FOXDEN_HOME=f"{HOME}/other"))
    until(lambda: len(ours(machine)) == 4, "the second one does not start")
    machine.as_user(f"{HOME}/.local/share/foxden/program/current/uninstall.sh", "--purge")
    by_hand.wait(5)
    assert ours(machine) == {}
    shutil.rmtree(machine.path(HOME) / "other")
    assert machine.files() - before == set()
