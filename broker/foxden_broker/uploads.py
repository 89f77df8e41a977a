"""Permissions that need no memory: signed by the broker, good for one lease alone. Pure.

An agent gets a token with each image it is given, and for the bytes it PUTs a receipt. Without
the receipt a card could claim a picture it never sent, and hand one account's picture to another
by naming its hash.
"""

from __future__ import annotations

import hmac

from foxden_broker.store.base import Lease


def upload_path(account_id: str, lease: Lease) -> str:
    """Where at the HTTP door the picture of a lease is PUT."""
    return f"/v1/pictures/{account_id}/{lease.job_id}/{lease.index}/{lease.lease_no}"


def checkpoint_path(account_id: str, lease: Lease) -> str:
    """Where at the HTTP door a lease PUTs checkpoints, and fetches the one it was given."""
    return f"/v1/checkpoints/{account_id}/{lease.job_id}/{lease.index}/{lease.lease_no}"


class Signer:
    """Signs with one key of 32 bytes; a broker that starts again reads the same key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def upload_token(self, account_id: str, lease: Lease) -> str:
        return self._sign("upload", account_id, *_words(lease))

    def check_upload_token(self, token: str, account_id: str, lease: Lease) -> bool:
        return hmac.compare_digest(token.encode(), self.upload_token(account_id, lease).encode())

    def receipt(self, account_id: str, lease: Lease, sha: str, size: int) -> str:
        return self._sign("receipt", account_id, *_words(lease), sha, str(size))

    def check_receipt(
        self, receipt: str, account_id: str, lease: Lease, sha: str, size: int
    ) -> bool:
        expected = self.receipt(account_id, lease, sha, size)
        return hmac.compare_digest(receipt.encode(), expected.encode())

    def checkpoint_receipt(self, account_id: str, lease: Lease, sha: str, size: int) -> str:
        """Another word is signed than with a picture: neither can be shown for the other."""
        return self._sign("checkpoint", account_id, *_words(lease), sha, str(size))

    def check_checkpoint_receipt(
        self, receipt: str, account_id: str, lease: Lease, sha: str, size: int
    ) -> bool:
        expected = self.checkpoint_receipt(account_id, lease, sha, size)
        return hmac.compare_digest(receipt.encode(), expected.encode())

    def mark(self, *words: str) -> bytes:
        """32 bytes that only this broker can make for these words, for other uses than pictures."""
        return hmac.digest(self._key, "\n".join(("mark", *words)).encode(), "sha256")

    def _sign(self, *words: str) -> str:
        return hmac.digest(self._key, "\n".join(words).encode(), "sha256").hex()


def _words(lease: Lease) -> tuple[str, str, str]:
    return lease.job_id, str(lease.index), str(lease.lease_no)
