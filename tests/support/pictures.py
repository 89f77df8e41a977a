"""Whether a picture shows what the demo prompt says: a red cube on a blue background."""

from __future__ import annotations

from PIL import Image


def is_blue(pixel: tuple[int, ...]) -> bool:
    return pixel[2] > 120 and pixel[2] > pixel[0] + 60 and pixel[2] > pixel[1] + 40


def has_red(image: Image.Image) -> bool:
    pixels = image.convert("RGB").resize((16, 16)).get_flattened_data()
    return sum(p[0] > 140 and p[0] > p[1] + 60 and p[0] > p[2] + 60 for p in pixels) >= 8


def matches_prompt(image: Image.Image) -> bool:
    """Blue at the edges, something red inside."""
    rgb = image.convert("RGB")
    corners = [(0, 0), (rgb.width - 1, 0), (0, rgb.height - 1), (rgb.width - 1, rgb.height - 1)]
    return all(is_blue(rgb.getpixel(corner)) for corner in corners) and has_red(rgb)
