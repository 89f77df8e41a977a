"""Join links as the broker makes and judges them. Pure: time is passed in."""

from __future__ import annotations

import hashlib
import hmac
import secrets

from foxden_broker.store.base import JoinLink
from foxden_broker.tokens import random_id
from foxden_proto import join_links
from foxden_proto.address import Address
from foxden_proto.join_links import Refusal

_SECRET_CHARACTERS = 26  # of 5 random bits each
_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"

# What people read. Each ends with what to do next.
SENTENCES = {
    Refusal.UNKNOWN: "The broker does not know this link: it is another broker's, or was never "
    "made. Ask your administrator for a new one (foxden join-link).",
    Refusal.EXPIRED: "This link has expired: ask your administrator for a new one.",
    Refusal.REVOKED: "This link was revoked: ask your administrator for a new one.",
    Refusal.USED_UP: "This link has let in as many machines as it was made for: ask your "
    "administrator for a new one (foxden join-link --uses 30 lets in thirty).",
    Refusal.AGENT_REVOKED: "This machine was shut out of the pool by its administrator, and the "
    "link it came by lets it in no more: ask for a new one if it shall come back.",
    Refusal.ID_TAKEN: "Another machine is in this pool under this one's id: its home folder was "
    "copied, its key was lost, or it is here with a token. Delete agent/agent.json in the home "
    "folder and join again, or ask the administrator to revoke the other (foxden agents revoke) "
    "and for a new link.",
    Refusal.TOO_MANY_TRIES: "Too many wrong links came from this network address.",
    Refusal.UNAVAILABLE: "The broker cannot store anything just now: try again soon.",
}


def new_link(
    account_id: str,
    address: Address,
    *,
    uses: int,
    approve: bool,
    member: str,
    now_ms: int,
    expires_ms: int,
) -> tuple[JoinLink, str]:
    """A link for the store, and the text to hand out, which is kept nowhere."""
    secret = "".join(secrets.choice(_ALPHABET) for _ in range(_SECRET_CHARACTERS))
    link = JoinLink(
        account_id,
        random_id(8),
        _hash(secret),
        uses,
        0,
        approve,
        member,
        created_ms=now_ms,
        expires_ms=expires_ms,
    )
    return link, join_links.JoinLink(address, account_id, link.link_id, secret).text()


def opens(link: JoinLink | None, secret: str) -> bool:
    """Whether this is the link's secret; only then anything about the link is told."""
    known = link.secret_sha256 if link else bytes(32)  # an unknown link takes as long
    return hmac.compare_digest(_hash(secret), known) and link is not None


def why_over(link: JoinLink, now_ms: int) -> Refusal | None:
    """Why nobody new can join by this link; None where one can."""
    if link.revoked_ms:
        return Refusal.REVOKED
    if link.expires_ms <= now_ms:
        return Refusal.EXPIRED
    return Refusal.USED_UP if link.used >= link.uses else None


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
