"""Join links: how a machine knows its broker, and shows it that it may join. Pure.

    foxden://host:7433/join/pin=<sha256>/http=7480/<account>-<link>-<secret>-<check>

Address, pin and HTTP port are an address's (address.py); parts that an address leaves out are left
out here. The secret has 130 random bits. `check` covers every character before it: a link that was
copied badly is told from one that is not known, without asking anybody. It is no signature. What
keeps an impostor out is the pin, which is compared before the secret is sent.

Nothing in a link has a meaning for a shell or a command line, so that it needs no quotes.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from enum import Enum

from foxden_proto.address import Address, AddressError, parse
from foxden_proto.limits import DEFAULT_HTTP_PORT

_KEY = re.compile(r"([a-z0-9]{1,32})-([a-z2-7]{8})-([a-z2-7]{26})-([a-z2-7]{7})")
_BEARER = re.compile(r"fxj_([a-z0-9]{1,32})_([a-z2-7]{8})_([a-z2-7]{26})")
_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
_MOST_CHARACTERS = 600
_FORM = "copy the whole link, from foxden:// to its end, or ask for a new one"


class JoinLinkError(ValueError):
    """What was given is no join link, or not the one that was made; the text says what to do."""


class Refusal(Enum):
    """Why a broker does not let a machine join, or leave; the values are on the wire."""

    UNKNOWN = "unknown"  # no such link, or another secret: which of them is not told
    EXPIRED = "expired"
    REVOKED = "revoked"  # the link
    USED_UP = "used_up"
    AGENT_REVOKED = "agent_revoked"  # this very key was revoked, or the agent that came by the link
    ID_TAKEN = "id_taken"  # another key, or a token's agent, has this agent_id
    TOO_MANY_TRIES = "too_many_tries"  # from this network address
    INVALID = "invalid"  # a value that cannot be
    UNAVAILABLE = "unavailable"  # the broker cannot store anything just now


@dataclass(frozen=True)
class JoinLink:
    """A link, read. Its text holds the secret: neither is for a log."""

    address: Address
    account_id: str
    link_id: str
    secret: str = field(repr=False)

    @property
    def bearer(self) -> str:
        """What is sent as a Bearer token, once the broker is known to be the right one."""
        return f"fxj_{self.account_id}_{self.link_id}_{self.secret}"

    def text(self) -> str:
        address = self.address
        parts = [f"foxden://{address.grpc_target}", "join"]
        if address.pin:
            parts.append(f"pin={address.pin}")
        if address.http_port != DEFAULT_HTTP_PORT:
            parts.append(f"http={address.http_port}")
        body = "/".join([*parts, f"{self.account_id}-{self.link_id}-{self.secret}"])
        return f"{body}-{_check(body)}"


def read(text: str) -> JoinLink:
    """The link in `text`. Raises JoinLinkError."""
    text = text.strip()
    if len(text) > _MOST_CHARACTERS or not text.isascii():
        raise JoinLinkError(f"This is no join link: {_FORM}.")
    place, join, rest = text.partition("/join/")
    if not join or not place.startswith("foxden://"):
        what = "the address of a broker" if text.startswith("foxden://") else "no join link"
        raise JoinLinkError(f"This is {what}: a join link has /join/ in it. Please {_FORM}.")
    *options, key = rest.split("/")
    found = _KEY.fullmatch(key)
    if found is None or _check(text[:-8]) != found[4]:
        raise JoinLinkError(f"This link was changed on its way, or is not whole: {_FORM}.")
    try:
        address = parse(place + ("?" + "&".join(options) if options else ""))
    except AddressError as error:
        raise JoinLinkError(f"This link's address cannot be used ({error}): {_FORM}.") from None
    return JoinLink(address, found[1], found[2], found[3])


def split_bearer(text: str) -> tuple[str, str, str] | None:
    """(account_id, link_id, secret) of what an agent sent; None where it is something else."""
    match = _BEARER.fullmatch(text)
    return match.group(1, 2, 3) if match else None  # type: ignore[return-value]


def _check(body: str) -> str:
    number = int.from_bytes(hashlib.sha256(body.encode()).digest()[:5], "big")
    return "".join(_ALPHABET[number >> 5 * place & 31] for place in range(7))
