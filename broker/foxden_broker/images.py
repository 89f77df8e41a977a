"""What the broker looks at in a picture before it believes that it is one. Pure."""

from __future__ import annotations

import struct

PNG_HEADER_BYTES = 24
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def png_size(head: bytes) -> tuple[int, int] | None:
    """(width, height) in pixels from the first 24 bytes of a PNG; None where it is none."""
    if len(head) < PNG_HEADER_BYTES or head[:8] != _SIGNATURE or head[12:16] != b"IHDR":
        return None
    width, height = struct.unpack(">II", head[16:24])
    return width, height
