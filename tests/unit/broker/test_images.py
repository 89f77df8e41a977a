"""What is believed to be a PNG."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from foxden_broker.images import PNG_HEADER_BYTES, png_size


def picture(format: str, width: int = 64, height: int = 24) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height)).save(stream, format)
    return stream.getvalue()


def test_png_tells_its_size_from_its_first_bytes() -> None:
    data = picture("PNG")
    assert png_size(data) == (64, 24)
    assert png_size(data[:PNG_HEADER_BYTES]) == (64, 24)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        picture("PNG")[: PNG_HEADER_BYTES - 1],
        picture("JPEG"),
        picture("WEBP"),
        b"\x89PNG\r\n\x1a\n" + b"\x00" * 40,
        b"<html>" * 10,
        picture("PNG").replace(b"\r\n", b"\n"),
    ],
)
def test_anything_else_is_none(data: bytes) -> None:
    assert png_size(data) is None
