"""Releases are believed where both signatures hold, and only then."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from foxden_agent.updating.manifest import (
    KEY_WORD,
    LONGEST,
    RELEASE_WORD,
    BadRelease,
    numbers,
    read,
)

NOW = 1_000_000.0
ROOT, SIGNER, STRANGER = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2, 3))
FILE = {"name": "foxden-0.2.0-linux-x86_64.tar.xz", "sha256": "ab" * 32, "size": 1000}
RELEASE: dict[str, Any] = {
    "serial": 7,
    "version": "0.2.0",
    "minimum": "0.1.0",
    "share": 0.5,
    "files": {"linux-x86_64": FILE},
    "expires": NOW + 10,
}


def public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def envelope(key: Ed25519PrivateKey, word: bytes, told: Any) -> dict[str, str]:
    payload = json.dumps(told).encode()
    return {
        "payload": base64.b64encode(payload).decode(),
        "signature": base64.b64encode(key.sign(word + payload)).decode(),
    }


def described(
    release: Any = RELEASE,
    *,
    root: Ed25519PrivateKey = ROOT,
    signer: Ed25519PrivateKey = SIGNER,
    expires: float = NOW + 10,
) -> dict[str, Any]:
    key = {"key": base64.b64encode(public(SIGNER)).decode(), "expires": expires}
    return {
        "key": envelope(root, KEY_WORD, key),
        "release": envelope(signer, RELEASE_WORD, release),
    }


def reading(told: Any) -> Any:
    return read(json.dumps(told).encode(), public(ROOT), NOW)


def test_release_signed_by_a_key_of_the_root_is_believed() -> None:
    found = reading(described())
    assert (found.version, found.serial, found.share) == ("0.2.0", 7, 0.5)
    assert found.files["linux-x86_64"].size == 1000


def changed(told: dict[str, Any], part: str, old: bytes, new: bytes) -> dict[str, Any]:
    payload = base64.b64decode(told[part]["payload"]).replace(old, new)
    told[part]["payload"] = base64.b64encode(payload).decode()
    return told


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: described(root=STRANGER), "not Foxden's"),
        (lambda: described(signer=STRANGER), "not Foxden's"),
        (lambda: described(signer=ROOT), "not Foxden's"),  # the root signs keys alone
        (lambda: changed(described(), "release", b'"0.2.0"', b'"0.3.0"'), "not Foxden's"),
        (lambda: changed(described(), "key", b'"expires": 1', b'"expires": 9'), "not Foxden's"),
        (lambda: {"key": described()["key"], "release": described()["key"]}, "not Foxden's"),
        (lambda: described(expires=NOW - 1), "time is over.*Check this PC's date"),
        (lambda: described({**RELEASE, "expires": NOW - 1}), "too old.*Check this PC's date"),
        (lambda: described(expires=float("nan")), "nothing understandable of 'expires'"),
        (lambda: described({**RELEASE, "expires": float("nan")}), "understandable of 'expires'"),
        (lambda: described({**RELEASE, "serial": float("inf")}), "understandable of 'serial'"),
        (lambda: described({**RELEASE, "serial": 10**400}), "understandable of 'serial'"),
        (lambda: described({**RELEASE, "version": "0.2.\u0663"}), "no version"),
        (lambda: described({**RELEASE, "version": "../0.2.0"}), "no version"),
        (lambda: described({**RELEASE, "share": 1.5}), "share"),
        (lambda: described({**RELEASE, "serial": True}), "serial"),
        (lambda: described({**RELEASE, "files": []}), "files"),
        (lambda: described({**RELEASE, "files": {"x": None}}), "described"),
        (lambda: described({**RELEASE, "files": {"x": [FILE]}}), "described"),
        (lambda: described({**RELEASE, "files": {"x": {**FILE, "name": "../x"}}}), "described"),
        (lambda: described({**RELEASE, "files": {"x": {**FILE, "size": -1}}}), "described"),
        (lambda: {"key": described()["key"]}, "missing"),
        (lambda: {**described(), "release": {"payload": "%%", "signature": ""}}, "damaged"),
        (list, "damaged"),
    ],
)
def test_anything_else_is_refused_with_the_reason(make: Callable[[], Any], why: str) -> None:
    with pytest.raises(BadRelease, match=why):
        reading(make())


def test_refusal_says_that_nothing_was_changed_and_what_to_do() -> None:
    for told in (described(root=STRANGER), described(expires=NOW - 1), {}):
        with pytest.raises(BadRelease, match=r"Nothing was changed.*tell whoever runs the server"):
            reading(told)


def test_every_cut_of_a_release_is_refused() -> None:
    whole = json.dumps(described()).encode()
    for length in range(0, len(whole), 37):
        with pytest.raises(BadRelease):
            read(whole[:length], public(ROOT), NOW)


def test_endless_description_is_not_even_parsed() -> None:
    with pytest.raises(BadRelease, match="too long"):
        read(b" " * (LONGEST + 1), public(ROOT), NOW)


def test_brackets_alone_nested_as_deep_as_may_be_are_damage() -> None:
    with pytest.raises(BadRelease, match="damaged"):
        read(b"[" * 60_000, bytes(32), 0.0)


def test_versions_are_compared_as_numbers() -> None:
    assert numbers("0.10.0") > numbers("0.9.9") > numbers("0.9.0")
