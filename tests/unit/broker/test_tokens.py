"""Tokens: made, split, and checked against what the broker keeps."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace

import pytest

from foxden_broker.tokens import new_token, random_id, split, why_refused

SCOPES = frozenset({"generate"})
NOW = 1_000_000


def test_new_token_opens_the_door_and_the_secret_is_not_kept() -> None:
    token, text = new_token("account1", "ann", SCOPES, NOW)
    parts = split(text)
    assert parts is not None
    account, token_id, secret = parts
    assert (account, token_id) == (token.account_id, token.token_id) == ("account1", token_id)
    assert why_refused(token, secret, NOW) == ""
    assert secret not in repr(token)
    assert token.secret_sha256 == hashlib.sha256(secret.encode()).digest()


def test_two_tokens_share_nothing() -> None:
    first, second = (split(new_token("a", "ann", SCOPES, NOW)[1]) for _ in range(2))
    assert first is not None
    assert second is not None
    assert first[1:] != second[1:]


def test_random_id_is_of_its_length_and_alphabet() -> None:
    assert re.fullmatch(r"[a-z2-7]{40}", random_id(40))


@pytest.mark.parametrize(
    ("change", "now", "why"),
    [
        ({"revoked_ms": NOW - 1}, NOW, "revoked"),
        ({"expires_ms": NOW}, NOW, "expired"),
        ({"expires_ms": NOW + 1}, NOW, ""),
        ({"expires_ms": 0}, 2**60, ""),
        ({"secret_sha256": bytes(32)}, NOW, "not known"),
    ],
)
def test_known_token_in_each_condition(change: dict[str, int], now: int, why: str) -> None:
    token, text = new_token("a", "ann", SCOPES, NOW)
    refusal = why_refused(replace(token, **change), text[-32:], now)
    assert why in refusal if why else refusal == ""


def test_wrong_secret_is_refused_as_an_unknown_id_is() -> None:
    token, _ = new_token("a", "ann", SCOPES, NOW)
    assert why_refused(token, "x" * 32, NOW) == why_refused(None, "x" * 32, NOW) != ""


def test_wrong_secret_of_a_revoked_token_does_not_tell_that_it_was_revoked() -> None:
    token, _ = new_token("a", "ann", SCOPES, NOW)
    assert "revoked" not in why_refused(replace(token, revoked_ms=1), "x" * 32, NOW)


GOOD = "fxd_account1_" + "a" * 8 + "_" + "b" * 32


@pytest.mark.parametrize(
    "text",
    [
        "",
        "fxd_",
        GOOD[:-1],
        GOOD + "b",
        GOOD + "\n",
        " " + GOOD,
        GOOD.upper(),
        GOOD.replace("fxd", "sk"),
        GOOD.replace("account1", ""),
        GOOD.replace("account1", "a" * 33),
        GOOD.replace("account1", "../x"),
        GOOD.replace("b" * 32, "1" * 32),
        GOOD.replace("a" * 8, "é" * 8),
        "x" * 100_000,
    ],
)
def test_text_that_is_no_token_is_none(text: str) -> None:
    assert split(GOOD) is not None
    assert split(text) is None
