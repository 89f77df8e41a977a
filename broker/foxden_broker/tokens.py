"""Access tokens: `fxd_<account>_<id>_<secret>`. Pure, and the broker keeps only a hash.

The account and the id are in the token so that one is found by its key, without a search over all
accounts. The secret has 160 random bits, for which a plain SHA-256 is enough.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets

from foxden_broker.store.base import Token

SCOPES = ("generate", "admin", "agent")
_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
_FORM = re.compile(r"fxd_([a-z0-9]{1,32})_([a-z2-7]{8})_([a-z2-7]{32})")


def random_id(length: int) -> str:
    """`length` characters of 5 random bits each."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def new_token(
    account_id: str, member: str, scopes: frozenset[str], now_ms: int, expires_ms: int = 0
) -> tuple[Token, str]:
    """A token for the store and the text to hand out, which is not kept anywhere."""
    token_id, secret = random_id(8), random_id(32)
    token = Token(account_id, token_id, _hash(secret), member, scopes, now_ms, expires_ms)
    return token, f"fxd_{account_id}_{token_id}_{secret}"


def split(text: str) -> tuple[str, str, str] | None:
    """(account_id, token_id, secret) of a token's text; None where it is no token."""
    match = _FORM.fullmatch(text)
    return match.group(1, 2, 3) if match else None  # type: ignore[return-value]


def why_refused(token: Token | None, secret: str, now_ms: int) -> str:
    """Why this token does not open the door; empty where it does."""
    # Compared also for a missing token, so that an unknown id takes as long as a wrong secret.
    known = token.secret_sha256 if token else bytes(32)
    if not hmac.compare_digest(_hash(secret), known) or token is None:
        return "the token is not known"
    if token.revoked_ms:
        return "the token was revoked"
    if token.expires_ms and token.expires_ms <= now_ms:
        return "the token has expired"
    return ""


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
