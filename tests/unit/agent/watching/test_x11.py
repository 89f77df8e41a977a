"""The X server's own answers, from a real one without a screen (Xvfb)."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from foxden_agent.watching import x11
from foxden_agent.watching.linux import LinuxDesktop
from foxden_agent.watching.machine import AtTheScreen
from foxden_agent.watching.names import program_name

Server = tuple[str, Path]  # DISPLAY and the file with its cookie
KEY = bytes(range(16))


def entry(family: int, address: bytes, display: bytes, protocol: bytes, key: bytes) -> bytes:
    fields = b"".join(struct.pack(">H", len(f)) + f for f in (address, display, protocol, key))
    return struct.pack(">H", family) + fields


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An X server that lets in who knows its cookie."""
    if not shutil.which("Xvfb") or not shutil.which("xprop"):
        pytest.skip("no X server without a screen: install xvfb and x11-utils")
    authority = tmp_path_factory.mktemp("x11") / "authority"
    # Once without a number, for the server; programs look for their display's.
    authority.write_bytes(entry(65535, b"", b"", b"MIT-MAGIC-COOKIE-1", KEY))
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [
            "Xvfb",
            "-displayfd",
            str(writing),
            "-auth",
            str(authority),
            "-nolisten",
            "tcp",
            "-noreset",
        ],
        pass_fds=[writing],
        stderr=subprocess.DEVNULL,
    )
    os.close(writing)
    with os.fdopen(reading) as told:
        number = told.readline().strip()
    assert number, "Xvfb did not start"
    yield f":{number}", authority
    process.terminate()
    process.wait()


@pytest.fixture
def desktop(server: Server) -> Iterator[LinuxDesktop]:
    made = LinuxDesktop({"DISPLAY": server[0], "XAUTHORITY": str(server[1])})
    yield made
    made.close()


@pytest.fixture
def set_property(server: Server) -> Iterator[Callable[[str, str, str], None]]:
    """Properties of the root window, set by another program; gone afterwards."""
    name, authority = server
    environment = {**os.environ, "DISPLAY": name, "XAUTHORITY": str(authority)}
    done: list[str] = []

    def change(*arguments: str) -> None:
        subprocess.run(["xprop", "-root", *arguments], env=environment, check=True)

    def put(key: str, form: str, value: str) -> None:
        done.append(key)
        change("-f", key, form, "-set", key, value)

    yield put
    for key in done:
        change("-remove", key)


@pytest.fixture
def root(server: Server) -> str:
    display = x11.Display.open(*server)
    display.close()
    return hex(display.root)


def test_no_window_manager_full_screen_is_not_told_but_idle_time_is(desktop: LinuxDesktop) -> None:
    begun = time.monotonic()
    first = desktop.look(0)
    assert first.full_screen is None
    assert first.idle_seconds is not None
    risen = 0.0
    while risen < 0.05:  # nobody touches that server
        idle = desktop.look(0).idle_seconds
        assert idle is not None
        risen = idle - first.idle_seconds
    assert risen <= time.monotonic() - begun + 0.001


def test_window_fills_the_screen_its_program_is_named(desktop, set_property, root) -> None:
    set_property("_NET_SUPPORTED", "32a", "_NET_WM_STATE_FULLSCREEN")
    set_property("_NET_ACTIVE_WINDOW", "32x", root)
    assert desktop.look(0).full_screen == ""
    set_property("_NET_WM_PID", "32c", str(os.getpid()))
    set_property("_NET_WM_STATE", "32a", "_NET_WM_STATE_FULLSCREEN")
    assert desktop.look(1).full_screen == program_name(os.getpid())
    set_property("_NET_WM_STATE", "32a", "_NET_WM_STATE_FULLSCREEN, _NET_WM_STATE_HIDDEN")
    assert desktop.look(2).full_screen == ""


def test_window_without_a_process_is_named_by_its_class(desktop, set_property, root) -> None:
    set_property("_NET_SUPPORTED", "32a", "_NET_WM_STATE_FULLSCREEN")
    set_property("_NET_CLIENT_LIST", "32x", root)
    set_property("_NET_WM_STATE", "32a", "_NET_WM_STATE_FULLSCREEN")
    assert desktop.look(0).full_screen == "a program without a name"
    set_property("WM_CLASS", "8s", "doom")
    assert desktop.look(1).full_screen == "doom"


def test_window_that_was_closed_is_passed_over(desktop, set_property) -> None:
    set_property("_NET_SUPPORTED", "32a", "_NET_WM_STATE_FULLSCREEN")
    set_property("_NET_ACTIVE_WINDOW", "32x", "0x7ffffff")
    assert desktop.look(0).full_screen == ""


def test_wayland_tells_of_a_game_but_never_that_there_is_none(server, set_property, root) -> None:
    environ = {"DISPLAY": server[0], "XAUTHORITY": str(server[1]), "WAYLAND_DISPLAY": "wayland-0"}
    desktop = LinuxDesktop(environ)
    set_property("_NET_SUPPORTED", "32a", "_NET_WM_STATE_FULLSCREEN")
    set_property("_NET_ACTIVE_WINDOW", "32x", root)
    assert desktop.look(0) == AtTheScreen(None, None)
    set_property("_NET_WM_STATE", "32a", "_NET_WM_STATE_FULLSCREEN")
    assert desktop.look(1) == AtTheScreen("a program without a name", None)
    desktop.close()


def test_wrong_cookie_nothing_is_told(server, tmp_path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_bytes(entry(65535, b"", b"", b"MIT-MAGIC-COOKIE-1", bytes(16)))
    with pytest.raises(x11.X11Error, match="let"):
        x11.Display.open(server[0], wrong)
    desktop = LinuxDesktop({"DISPLAY": server[0], "XAUTHORITY": str(wrong)})
    assert desktop.look(0) == AtTheScreen(None, None)


def test_server_goes_away_nothing_is_told_and_it_is_tried_again_later(server) -> None:
    desktop = LinuxDesktop({"DISPLAY": server[0], "XAUTHORITY": str(server[1])})
    assert desktop.look(0).idle_seconds is not None
    assert desktop._display is not None
    desktop._display._connection.shutdown(2)
    assert desktop.look(1) == AtTheScreen(None, None)
    assert desktop.look(2) == AtTheScreen(None, None)
    assert desktop.look(20).idle_seconds is not None
    desktop.close()


@pytest.mark.parametrize("name", ["", "localhost:10.0", "host:0", ":x", ":999999"])
def test_no_display_of_this_machine_nothing_is_told(name: str) -> None:
    assert LinuxDesktop({"DISPLAY": name}).look(0) == AtTheScreen(None, None)


@pytest.mark.parametrize(
    ("name", "expected"), [(":0", (0, 0)), (":12.1", (12, 1)), ("unix:3", (3, 0))]
)
def test_display_names_are_read(name: str, expected: tuple[int, int]) -> None:
    assert x11.display_number(name) == expected


def test_cookie_of_this_machine_and_display_is_found() -> None:
    magic = b"MIT-MAGIC-COOKIE-1"
    file = (
        entry(256, b"elsewhere", b"0", magic, b"other machine")
        + entry(256, b"here", b"1", magic, b"other display")
        + entry(256, b"here", b"0", b"XDM-AUTHORIZATION-1", b"other protocol")
        + entry(256, b"here", b"0", magic, b"mine")
    )
    assert x11.cookie(file, 0, "here") == b"mine"
    assert x11.cookie(file, 2, "here") == b""
    for cut in (1, 3, len(file) - 1):
        with pytest.raises(x11.X11Error, match="cut"):
            x11.cookie(file[:cut], 0, "nowhere")


@pytest.mark.parametrize("length", [0, 20, 39])
def test_greeting_that_is_cut_is_refused(length: int) -> None:
    with pytest.raises(x11.X11Error):
        x11.root_window(bytes(length), 0)
