"""`foxden page`: with and without an agent, a browser, a screen."""

from __future__ import annotations

import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from foxden_agent.page import whereabouts
from foxden_agent.page.call import NoPage, PageCalls
from foxden_agent.page.command import has_screen
from foxden_agent.page.whereabouts import Whereabouts


def test_no_agent_x_says_what_to_start(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "foxden", "--home", str(tmp_path), "page"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "foxden up" in done.stderr


HEARD: list[str] = []


@pytest.fixture
def impostor() -> Iterator[int]:
    """Another program that listens where the agent once did."""

    class Answers(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            HEARD.append(str(self.headers))
            self.send_response(200)
            self.send_header("Content-Length", "64")
            self.end_headers()
            self.wfile.write(b"0" * 64)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


def test_another_program_at_its_port_x_is_not_taken_for_the_agent(
    tmp_path: Path, impostor: int
) -> None:
    whereabouts.write(tmp_path, Whereabouts(impostor, "s" * 40))
    calls = PageCalls(tmp_path)
    for call in (calls.status, calls.address, lambda: calls.do("quit")):
        with pytest.raises(NoPage, match="Another program answers"):
            call()
    assert HEARD
    assert not any("ssss" in head for head in HEARD), "it was told the secret"


@pytest.mark.parametrize(
    ("environment", "system", "screen"),
    [
        ({}, "linux", False),
        ({"DISPLAY": ""}, "linux", False),
        ({"DISPLAY": ":0"}, "linux", True),
        ({"WAYLAND_DISPLAY": "wayland-0"}, "linux", True),
        ({}, "win32", True),
    ],
)
def test_screen(environment: dict[str, str], system: str, screen: bool) -> None:
    assert has_screen(environment, system) is screen
