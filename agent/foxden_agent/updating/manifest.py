"""What a release says of itself, and who says so. Pure: bytes in, a Manifest or BadRelease out.

Two levels of Ed25519, as in Tailscale's distsign: the root key, which never is on a machine with a
network, signs a signing key for some months; the signing key signs each release. The program knows
the root's public key alone, so that a stolen signing key dies with its date.
A file `release.json` carries both:

    {"key": {"payload": "…", "signature": "…"}, "release": {"payload": "…", "signature": "…"}}

Payloads are JSON, in base64, and signed with a word in front that says what they are: a signature
for the one can't be shown for the other.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

KEY_WORD = b"foxden signing key v1\n"
RELEASE_WORD = b"foxden release v1\n"
LONGEST = 64 * 1024  # bytes of a release.json; more is not read
_VERSION = re.compile(r"[0-9]{1,4}\.[0-9]{1,4}\.[0-9]{1,4}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


_AGAIN = (
    "Nothing was changed, and it is asked for again; if it stays so, tell whoever runs the server "
    "that the updates come from."
)
_CLOCK = (
    "Nothing was changed. Check this PC's date; if it is right, tell whoever runs the server that "
    "the updates come from: it has to be signed anew."
)


class BadRelease(Exception):
    """The release cannot be trusted, or not be understood; the text says why, and what to do."""

    def __init__(self, what: str, advice: str = _AGAIN) -> None:
        super().__init__(f"{what} {advice}")


@dataclass(frozen=True)
class ReleaseFile:
    """What one platform downloads."""

    name: str  # beside release.json
    sha256: str
    size: int  # bytes


@dataclass(frozen=True)
class Manifest:
    """One release."""

    serial: int  # each release has a higher one: an older release is no news
    version: str  # "0.2.0"
    minimum: str  # the oldest version that can become this one
    share: float  # of the agents that take it, 0 to 1
    files: dict[str, ReleaseFile]  # by platform, e.g. "linux-x86_64"
    expires: float  # Unix time; a release that nobody renewed is not taken any more


def read(data: bytes, root: bytes, now: float) -> Manifest:
    """The manifest in a release.json. `root`: the 32 bytes of the root's public key.

    Raises BadRelease.
    """
    if len(data) > LONGEST:
        raise BadRelease("The release's description is too long.")
    told = _object(data, "The release's description")
    key = _signed(told.get("key"), root, KEY_WORD, "the signing key")
    if _number(key, "expires") < now:
        raise BadRelease("The release was signed with a key whose time is over.", _CLOCK)
    signer = _bytes(key.get("key"), "the signing key")
    fields = _signed(told.get("release"), signer, RELEASE_WORD, "the release")
    manifest = _manifest(fields)
    if manifest.expires < now:
        what = f"The description of release {manifest.version} is too old to be trusted."
        raise BadRelease(what, _CLOCK)
    return manifest


def numbers(version: str) -> tuple[int, ...]:
    """A version as numbers, to be compared.

    >>> numbers("0.10.0") > numbers("0.9.12")
    True
    """
    return tuple(int(part) for part in re.findall(r"\d+", version))


def _manifest(told: dict[str, Any]) -> Manifest:
    files = {}
    given = told.get("files")
    if not isinstance(given, dict):
        raise BadRelease("The release names no files.")
    for platform, one in given.items():
        one = one if isinstance(one, dict) else {}
        name, sha256, size = (one.get(k) for k in ("name", "sha256", "size"))
        if not (
            isinstance(name, str)
            and _NAME.fullmatch(name)  # no path: it is put into our own folder
            and isinstance(sha256, str)
            and _SHA256.fullmatch(sha256)
            and isinstance(size, int)
            and 0 < size < 2**32
        ):
            raise BadRelease(f"The release's file for {platform} is not described well.")
        files[str(platform)] = ReleaseFile(name, sha256, size)
    version, minimum = told.get("version"), told.get("minimum", "0.0.0")
    for one in (version, minimum):
        if not isinstance(one, str) or not _VERSION.fullmatch(one):
            raise BadRelease(f"The release has no version that could be understood: {one!r:.40}.")
    share = _number(told, "share")
    if not 0.0 <= share <= 1.0:
        raise BadRelease(f"The release is for a share of {share:g}: it must be 0 to 1.")
    serial = int(_number(told, "serial"))
    return Manifest(serial, str(version), str(minimum), share, files, _number(told, "expires"))


def _signed(envelope: Any, key: bytes, word: bytes, what: str) -> dict[str, Any]:
    """The payload of an envelope that this key signed."""
    if not isinstance(envelope, dict):
        raise BadRelease(f"In the release's description {what} is missing.")
    payload = _bytes(envelope.get("payload"), what)
    signature = _bytes(envelope.get("signature"), what)
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, word + payload)
    except (InvalidSignature, ValueError):
        raise BadRelease(f"The signature of {what} is wrong: it is not Foxden's.") from None
    return _object(payload, what)


def _bytes(text: Any, what: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise BadRelease(f"In the release's description {what} is damaged.") from None


def _object(data: bytes, what: str) -> dict[str, Any]:
    try:
        told = json.loads(data)
    except (ValueError, RecursionError):  # of brackets alone, nested
        told = None
    if not isinstance(told, dict):
        raise BadRelease(f"{what[0].upper()}{what[1:]} is damaged: it is no JSON object.")
    return told


def _number(told: dict[str, Any], name: str) -> float:
    value = told.get(name)
    # JSON as Python reads it has NaN, which is older than no date, and numbers without end.
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < 2**63:
        raise BadRelease(f"The release's description says nothing understandable of {name!r}.")
    return float(value)
