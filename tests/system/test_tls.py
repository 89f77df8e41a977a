"""A broker with its own CA: who knows the pin gets in, and nobody sends a token to another."""

from __future__ import annotations

import httpx
import pytest
from real_pool import wait_until

import foxden
from foxden_proto.address import parse

pytestmark = [pytest.mark.system, pytest.mark.engine]

PROMPT = "a red cube on a blue background"


def test_pinned_broker_serves_over_tls_until_a_token_is_revoked(pool):
    pool.start_broker("--public-host", "127.0.0.1")
    assert parse(pool.url).pin
    assert pool.http.startswith("https://")
    pool.start_agent()

    result = pool.client().generate(PROMPT, seed=7, progress=False)

    assert len(result) == 1
    with pytest.raises(httpx.HTTPError):  # the system's roots do not know this CA
        httpx.get(f"{pool.http}/healthz")

    # An agent whose token is revoked is told, and ends.
    admin, agent = pool.client(), pool.agents["one"]
    (token,) = [t for t in admin.tokens() if t.scopes == ("agent",)]
    admin.revoke_token(token.id)
    assert agent.stop_code(20) == 4
    assert "revoked" in agent.log.read_text()
    wait_until(lambda: not admin.cards()[0].online, 10)


def test_wrong_pin_is_refused_before_the_token_is_sent(pool):
    pool.start_broker("--public-host", "127.0.0.1")
    right = parse(pool.url).pin
    wrong = pool.url.replace(right, "0" * 64)

    with pytest.raises(foxden.Unavailable, match="pin"):
        pool.client(url=wrong).models()
    agent = pool.start_agent("stranger", broker=wrong, wait=False)
    assert agent.stop_code(30) == 4
    assert "pin" in agent.log.read_text()


def test_restart_keeps_the_pin(pool):
    pool.start_broker("--public-host", "127.0.0.1")
    before = pool.url
    pool.broker.kill()
    pool.start_broker("--public-host", "127.0.0.1")
    assert pool.url == before
    assert pool.client().models() == []
