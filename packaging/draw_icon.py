"""Draw Foxden's icon: a fox's head from triangles, as PNG for Linux and ICO for Windows.

python packaging/draw_icon.py        writes packaging/linux/foxden.png, packaging/windows/foxden.ico
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

HERE = Path(__file__).resolve().parent
ORANGE, DARK, WHITE, INK = "#e8722c", "#c4551a", "#fbf3ea", "#2b2320"
# Corners on a grid of 64.
SHAPES = (
    (ORANGE, [(6, 6), (26, 20), (10, 36)]),  # ears
    (ORANGE, [(58, 6), (38, 20), (54, 36)]),
    (DARK, [(11, 13), (21, 20), (13, 28)]),
    (DARK, [(53, 13), (43, 20), (51, 28)]),
    (ORANGE, [(10, 30), (26, 18), (38, 18), (54, 30), (32, 60)]),  # face
    (WHITE, [(8, 34), (27, 40), (32, 60)]),  # cheeks
    (WHITE, [(56, 34), (37, 40), (32, 60)]),
    (INK, [(28, 53), (36, 53), (32, 60)]),  # nose
)


def draw(size: int) -> Image.Image:
    """The icon, `size` pixels wide; drawn larger and made smaller, for smooth edges."""
    scale = size * 4 / 64
    large = Image.new("RGBA", (size * 4, size * 4))
    pen = ImageDraw.Draw(large)
    for colour, corners in SHAPES:
        pen.polygon([(x * scale, y * scale) for x, y in corners], fill=colour)
    for x in (23, 41):
        pen.ellipse([(x - 2.5) * scale, 33.5 * scale, (x + 2.5) * scale, 38.5 * scale], fill=INK)
    return large.resize((size, size), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    draw(256).save(HERE / "linux/foxden.png", optimize=True)
    sizes = [16, 24, 32, 48, 64, 256]
    draw(256).save(HERE / "windows/foxden.ico", sizes=[(one, one) for one in sizes])
