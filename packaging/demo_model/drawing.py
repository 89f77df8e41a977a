"""Render scenes: every shape is a signed distance, so its edges are smooth at any size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from scenes import PIXELS, SHAPES, Scene
from torch import Tensor


def box(x: Tensor, y: Tensor, half_width: float, half_height: float) -> Tensor:
    """Signed distance to a box around the origin (exact at edges, a bound at corners)."""
    return torch.maximum(x.abs() - half_width, y.abs() - half_height)


def polygon(x: Tensor, y: Tensor, corners: Sequence[tuple[float, float]]) -> Tensor:
    """Exact signed distance to a simple polygon, negative inside.

    Formula: Inigo Quilez, "2D distance functions" (sdPolygon).
    """
    nearest = torch.full_like(x, torch.inf)
    inside = torch.ones_like(x)
    for (ax, ay), (bx, by) in zip(corners, (*corners[1:], corners[0]), strict=True):
        ex, ey, wx, wy = bx - ax, by - ay, x - ax, y - ay
        along = ((wx * ex + wy * ey) / (ex * ex + ey * ey)).clamp(0, 1)
        nearest = torch.minimum(nearest, (wx - ex * along) ** 2 + (wy - ey * along) ** 2)
        below, above, left = y >= ay, y < by, ex * wy > ey * wx
        crossing = (below & above & left) | ~(below | above | left)
        inside = torch.where(crossing, -inside, inside)
    return inside * nearest.sqrt()


def _around(count: int, *radii: float) -> list[tuple[float, float]]:
    """``count`` corners on circles of the given radii in turn, the first one straight up."""
    turns = [math.tau * i / count for i in range(count)]
    return [
        (radii[i % len(radii)] * math.sin(turn), -radii[i % len(radii)] * math.cos(turn))
        for i, turn in enumerate(turns)
    ]


_HEART = [
    (
        math.sin(turn) ** 3,
        -(13 * math.cos(turn) - 5 * math.cos(2 * turn) - 2 * math.cos(3 * turn)) / 15.5 - 0.09,
    )
    for turn in (math.tau * i / 32 for i in range(32))
]
OUTLINES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "circle": lambda x, y: torch.hypot(x, y) - 0.94,
    "ball": lambda x, y: torch.hypot(x, y) - 0.94,
    "square": lambda x, y: box(x, y, 0.84, 0.84),
    "triangle": lambda x, y: polygon(x, y, [(0.0, -0.98), (1.04, 0.8), (-1.04, 0.8)]),
    "star": lambda x, y: polygon(x, y - 0.06, _around(10, 1.1, 0.5)),
    "heart": lambda x, y: polygon(x, y, _HEART),
    "ring": lambda x, y: (torch.hypot(x, y) - 0.71).abs() - 0.25,
    "cross": lambda x, y: torch.minimum(box(x, y, 0.96, 0.33), box(x, y, 0.33, 0.96)),
    "diamond": lambda x, y: polygon(x, y, [(0, -1.06), (0.76, 0), (0, 1.06), (-0.76, 0)]),
    "moon": lambda x, y: torch.maximum(
        torch.hypot(x - 0.12, y) - 1.0, 0.82 - torch.hypot(x - 0.6, y + 0.12)
    ),
    "cube": lambda x, y: polygon(x, y, _around(6, 1.06)),
}
"""Signed distance in radii, by shape, at (x, y) in radii from the centre, y downwards."""


def shading(shape: str, x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """How far each pixel is lightened (up to 1 = white) or darkened (down to -1 = black).

    ``x`` and ``y`` are in radii, ``radius`` in pixels (it only sets how soft a face's edge is).
    """
    if shape == "cube":  # top face light, left face plain, right face dark
        top = (0.5 - (y + x.abs() / math.sqrt(3)) * radius).clamp(0, 1)
        right = (0.5 + x * radius).clamp(0, 1)
        return torch.lerp(-0.45 * right, torch.full_like(x, 0.5), top)
    if shape == "ball":  # a soft highlight up left, darker down right
        away = torch.hypot(x + 0.35, y + 0.35)
        dark = ((away - 0.75) / 0.75).clamp(0, 1)
        return 0.85 * torch.exp(-((away / 0.27) ** 2)) - 0.5 * dark * dark * (3 - 2 * dark)
    return torch.zeros_like(x)


def paint(base: Tensor, shade: Tensor) -> Tensor:
    """RGB 0–255 of ``base`` (..., 3) under ``shade`` (..., h, w): (..., 3, h, w)."""
    colour, amount = base[..., None, None], shade[..., None, :, :]
    return torch.where(amount > 0, colour + (255 - colour) * amount, colour * (1 + amount))


def layers(shape: str, x: Tensor, y: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    """Coverage 0–1 and shading, each (n, 64, 64), of ``n`` drawings of one shape (pixels)."""
    axis = torch.arange(PIXELS, dtype=torch.float32) + 0.5
    radius = radius[:, None, None]
    px = (axis[None, None, :] - x[:, None, None]) / radius
    py = (axis[None, :, None] - y[:, None, None]) / radius
    px, py = torch.broadcast_tensors(px, py)
    cover = (0.5 - OUTLINES[shape](px, py) * radius).clamp(0, 1)
    return cover, shading(shape, px, py, radius)


def render(scenes: Sequence[Scene]) -> Tensor:
    """Pictures (n, 3, 64, 64), float32, RGB in [-1, 1]."""
    canvas = torch.tensor([scene.background for scene in scenes])[:, :, None, None]
    canvas = canvas.expand(-1, -1, PIXELS, PIXELS).clone()
    for slot in range(max((len(scene.things) for scene in scenes), default=0)):
        for shape in SHAPES:
            chosen = [
                (i, scene.things[slot])
                for i, scene in enumerate(scenes)
                if slot < len(scene.things) and scene.things[slot].shape == shape
            ]
            if not chosen:
                continue
            where = torch.tensor([i for i, _ in chosen])
            place = torch.tensor([(thing.x, thing.y, thing.radius) for _, thing in chosen])
            cover, shade = layers(shape, *place.unbind(1))
            ink = paint(torch.tensor([thing.rgb for _, thing in chosen]), shade)
            canvas[where] = torch.lerp(canvas[where], ink, cover[:, None])
    return (canvas.clamp(0, 255) / 127.5 - 1).to(torch.float32)
