"""What an archive of a broker holds: the broker writes it, `foxden restore` reads it.

A tar archive with `foxden.db`, the private files, `tls/*`, `blobs/ACCOUNT/ab/cdef…` where pictures
are in it, and at last `manifest.json`: format, account, and each file's size and sha256.
"""

from __future__ import annotations

import re

from foxden_proto.limits import KIB, MIB, PICTURE_BYTES, UPLOAD_BYTES

FORMAT = 1
DATABASE = "foxden.db"
MANIFEST = "manifest.json"
PRIVATE_FILES = ("signing.key", "admin-token")
TLS_FOLDER = "tls"

_DATABASE_BYTES = 2**40
_MANIFEST_BYTES = 1024 * MIB
_PRIVATE_BYTES = 4 * KIB
_TLS_BYTES = 64 * KIB
_BLOB = re.compile(r"blobs/[a-z0-9]{1,32}/([0-9a-f]{2})/([0-9a-f]{62})")
_TLS = re.compile(r"tls/[A-Za-z0-9][A-Za-z0-9._-]{0,60}")


def blob_name(account_id: str, sha256: str) -> str:
    return f"blobs/{account_id}/{sha256[:2]}/{sha256[2:]}"


def most_bytes(name: str) -> int | None:
    """How large a file of this name may be; None for a name that no archive of ours has."""
    if name == DATABASE:
        return _DATABASE_BYTES
    if name == MANIFEST:
        return _MANIFEST_BYTES
    if name in PRIVATE_FILES:
        return _PRIVATE_BYTES
    if _TLS.fullmatch(name):
        return _TLS_BYTES
    return max(PICTURE_BYTES, UPLOAD_BYTES) if _BLOB.fullmatch(name) else None


def blob_sha256(name: str) -> str | None:
    """What the bytes of a blob's file must hash to; None for another file."""
    found = _BLOB.fullmatch(name)
    return found[1] + found[2] if found else None
