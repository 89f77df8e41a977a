"""The tray's icon, drawn: one shape per mode, so that colour alone never says it."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image, ImageDraw

SIZE = 64
_SCALE = 4  # drawn so many times as large, then made smaller: pillow's own edges are rough
_FOX, _GREY, _RED, _NIGHT, _WHITE = "#d9541e", "#6b655e", "#c81e3a", "#5b6796", "#ffffff"
_WIDTH = 6.5

Pen = ImageDraw.ImageDraw


def icon(mode: str) -> Image.Image:
    """64 x 64 RGBA; a mode that is not known looks like one that is not known yet."""
    ground, colour, mark = _ICONS.get(mode, _ICONS["unread"])
    image = Image.new("RGBA", (SIZE * _SCALE, SIZE * _SCALE), (0, 0, 0, 0))
    pen = ImageDraw.Draw(image)
    ground(pen, colour)
    mark(pen)
    return image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def _s(*values: float) -> list[float]:
    return [value * _SCALE for value in values]


def _disc(pen: Pen, colour: str) -> None:
    pen.ellipse(_s(3, 3, 61, 61), fill=colour)


def _ring(pen: Pen, colour: str) -> None:
    pen.ellipse(_s(3, 3, 61, 61), fill=_WHITE, outline=colour, width=int(_WIDTH * _SCALE))


def _triangle(pen: Pen, colour: str) -> None:
    pen.polygon(_s(32, 3, 62, 59, 2, 59), fill=colour)


def _square(pen: Pen, colour: str) -> None:
    pen.rounded_rectangle(_s(3, 3, 61, 61), radius=14 * _SCALE, fill=colour)


def _line(pen: Pen, *points: float, colour: str = _WHITE) -> None:
    scaled = _s(*points)
    ends = list(zip(scaled[::2], scaled[1::2], strict=True))
    pen.line(ends, fill=colour, width=int(_WIDTH * _SCALE), joint="curve")
    radius = _WIDTH * _SCALE / 2
    for x, y in ends:
        pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour)


def _dot(pen: Pen, x: float, y: float, colour: str = _WHITE, radius: float = 4.5) -> None:
    pen.ellipse(_s(x - radius, y - radius, x + radius, y + radius), fill=colour)


def _tick(pen: Pen) -> None:
    _line(pen, 19, 33, 28, 42, 45, 22)


def _clock(pen: Pen) -> None:
    _line(pen, 32, 16, 32, 33, 43, 40)


def _bars(pen: Pen) -> None:
    _line(pen, 24, 20, 24, 44)
    _line(pen, 40, 20, 40, 44)


def _pad(pen: Pen) -> None:
    _line(pen, 13, 32, 29, 32)
    _line(pen, 21, 24, 21, 40)
    _dot(pen, 42, 38)
    _dot(pen, 49, 28)


def _call(pen: Pen) -> None:
    _line(pen, 32, 24, 32, 40)
    _dot(pen, 32, 51, radius=4)


def _moon(pen: Pen) -> None:
    pen.ellipse(_s(16, 14, 50, 48), fill=_WHITE)
    pen.ellipse(_s(27, 9, 57, 39), fill=_NIGHT)


def _down(pen: Pen) -> None:
    _line(pen, 32, 17, 32, 44)
    _line(pen, 21, 34, 32, 45, 43, 34)


def _cross(pen: Pen) -> None:
    _line(pen, 22, 22, 42, 42)
    _line(pen, 42, 22, 22, 42)


def _dots(pen: Pen) -> None:
    for x in (20, 32, 44):
        _dot(pen, x, 32, _GREY, 4)


def _gap(pen: Pen) -> None:
    _line(pen, 15, 32, 24, 32, colour=_FOX)
    _line(pen, 40, 32, 49, 32, colour=_FOX)


def _slash(pen: Pen) -> None:
    _line(pen, 18, 46, 46, 18, colour=_GREY)


_ICONS: dict[str, tuple[Callable[[Pen, str], None], str, Callable[[Pen], None]]] = {
    "ready": (_disc, _FOX, _tick),
    "duty_cycled": (_disc, _FOX, _clock),
    "paused": (_disc, _GREY, _bars),
    "gaming": (_square, _GREY, _pad),
    "hot": (_triangle, _RED, _call),
    "quiet_hours": (_disc, _NIGHT, _moon),
    "draining": (_square, _FOX, _down),
    "broken": (_square, _RED, _cross),
    "unread": (_ring, _GREY, _dots),
    "offline": (_ring, _FOX, _gap),
    "away": (_ring, _GREY, _slash),
}
MODES = tuple(_ICONS)
