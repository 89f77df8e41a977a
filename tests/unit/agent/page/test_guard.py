"""Who is let through to the owner's page."""

from __future__ import annotations

import pytest

from foxden_agent.page.guard import COOKIE, HALF, HEADERS, refusal
from foxden_agent.page.keys import Keys

PORT = 7481
OWN = {"host": f"127.0.0.1:{PORT}"}
FROM_HERE = {"origin": f"http://127.0.0.1:{PORT}"}
KEYS = Keys("s" * 40, lambda: 0.0)
SESSION = KEYS.open(KEYS.new_key())
assert SESSION is not None
IN = {"cookie": f"other=1; {COOKIE}={SESSION.cookie}", HALF: SESSION.half}
BEARER = {"authorization": "Bearer " + "s" * 40}


def let_in(method: str, path: str, headers: dict[str, str]) -> bool:
    return not refusal(method, path, headers, PORT, KEYS)


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", "/", OWN),
        ("GET", "/main.js", OWN),
        ("GET", "/open", OWN),
        ("GET", "/api/status", OWN | IN),
        ("GET", "/api/status", OWN | IN | {"sec-fetch-site": "same-origin"}),
        ("POST", "/api/pause", OWN | IN | FROM_HERE),
        ("GET", "/api/status", OWN | BEARER),
        ("POST", "/api/pause", OWN | BEARER),
    ],
)
def test_owner_is_let_in(method: str, path: str, headers: dict[str, str]) -> None:
    assert let_in(method, path, headers)


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        pytest.param("GET", "/", {"host": f"evil.example:{PORT}"}, id="a name made to point here"),
        pytest.param("GET", "/api/status", BEARER, id="no host"),
        pytest.param("GET", "/", {"host": "127.0.0.1:80"}, id="another port's name"),
        pytest.param("GET", "/", {"host": f"localhost:{PORT}"}, id="a name that can be others'"),
        pytest.param("GET", "/api/status", OWN, id="nobody"),
        pytest.param("GET", "/api/status", OWN | {"cookie": IN["cookie"]}, id="cookie alone"),
        pytest.param("GET", "/api/status", OWN | {HALF: IN[HALF]}, id="half alone"),
        pytest.param("GET", "/api/status", OWN | IN | {"cookie": "\x00;=;"}, id="odd cookie"),
        pytest.param(
            "GET", "/api/status", OWN | IN | {"sec-fetch-site": "same-site"}, id="another port"
        ),
        pytest.param(
            "GET", "/api/status", OWN | IN | {"origin": "http://evil.example"}, id="another site"
        ),
        pytest.param("POST", "/api/pause", OWN | IN, id="a write without an origin"),
        pytest.param("POST", "/api/pause", OWN | IN | {"origin": "null"}, id="a hidden origin"),
        pytest.param(
            "POST", "/api/pause", OWN | BEARER | {"origin": "http://127.0.0.1:9"}, id="with secret"
        ),
        pytest.param("POST", "/", OWN | IN | FROM_HERE, id="a write elsewhere"),
        pytest.param("PUT", "/api/pause", OWN | BEARER, id="another method"),
        pytest.param("OPTIONS", "/api/pause", OWN, id="a preflight"),
        pytest.param("GET", "/api/status", OWN | {"authorization": "Bearer x"}, id="wrong secret"),
        pytest.param("GET", "/api/status", OWN | {"authorization": "s" * 40}, id="no scheme"),
    ],
)
def test_stranger_is_kept_out(method: str, path: str, headers: dict[str, str]) -> None:
    assert not let_in(method, path, headers)


def test_policy_of_content_x_no_inline_script_no_frame_nothing_from_elsewhere() -> None:
    policy = HEADERS["content-security-policy"]
    assert "unsafe" not in policy
    assert "http" not in policy
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
