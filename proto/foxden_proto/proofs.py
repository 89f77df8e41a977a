"""What an agent signs to show that it is itself. Pure: bytes in, bytes out.

A statement names what it is for, the nonce, the account, the agent and the broker, each with its
length before it, so that no two statements have the same bytes. A nonce is good for one connection;
clocks play no part. Each pool has a key of its own: with the broker in the statement as well, what
one broker was told is of no use at another.
"""

from __future__ import annotations

from foxden_proto.address import Address

NONCE_BYTES = 32
PUBLIC_KEY_BYTES = 32  # Ed25519
SIGNATURE_BYTES = 64
AUDIENCE_CHARACTERS = 300

_LINK = b"foxden agent link v1"
_LEAVE = b"foxden agent leaves v1"
KEY_SCHEME = "foxden-key"  # of the Authorization header: `foxden-key ACCOUNT AGENT`


def audience(address: Address) -> str:
    """What an agent knows its broker by: the pin of its CA, or else where it is."""
    return f"pin:{address.pin}" if address.pin else f"host:{address.http_url}"


def link_statement(nonce: bytes, account_id: str, agent_id: str, broker: str) -> bytes:
    """What is signed at the start of a link. `broker`: its audience, as it was enrolled."""
    return _statement(_LINK, nonce, account_id, agent_id, broker)


def leave_statement(nonce: bytes, account_id: str, agent_id: str, broker: str) -> bytes:
    """What is signed to leave a pool."""
    return _statement(_LEAVE, nonce, account_id, agent_id, broker)


def authorization(account_id: str, agent_id: str) -> str:
    """The header with which an agent says who it is; it proves nothing yet."""
    return f"{KEY_SCHEME} {account_id} {agent_id}"


def split_authorization(header: str) -> tuple[str, str] | None:
    """(account_id, agent_id) of such a header; None where it is another kind."""
    words = header.split(" ")
    if len(words) != 3 or words[0].lower() != KEY_SCHEME:
        return None
    return words[1], words[2]


def _statement(purpose: bytes, nonce: bytes, *names: str) -> bytes:
    parts = [purpose, nonce, *(name.encode() for name in names)]
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)
