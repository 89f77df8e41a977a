"""Look at a finished picture and say what is drawn on it, by measuring, not by a network.

Background: the median of the border. Objects: connected areas that are nearer to their own colour
than to the background. Colour: the palette colour nearest to the area's median. Shape: the best
of our eleven drawings laid over the area at every likely size and offset, where a drawing earns
its overlap (IoU of the outlines) less the mean colour difference inside (shading tells a ball
from a circle). A best overlap under ``MIN_IOU`` is no shape at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import drawing
import scenes
import torch
from torch import Tensor
from torch.nn import functional

MIN_IOU = 0.75
MIN_AREA = 20  # pixels; less is a speck
FINALISTS = 4
SPECK_CONTRAST = 45.0  # RGB distance (0–441) from the background below which nothing is drawn

SCALES = torch.tensor([[1, 1, scale] for scale in (0.88, 0.94, 1.0, 1.06)])
MOVES = torch.tensor([[x, y, 0.0] for x in (-1.0, 0.0, 1.0) for y in (-1.0, 0.0, 1.0)])


@dataclass(frozen=True)
class Fit:
    """How well a drawing lies over an object at ``place`` (3,): x, y, radius in pixels."""

    score: float
    iou: float
    place: Tensor


@dataclass(frozen=True)
class Found:
    """One object on a picture: ``shape`` is None when no drawing fits; centre in pixels."""

    colour: str
    shape: str | None
    iou: float
    x: float
    y: float
    area: int


@dataclass(frozen=True)
class Seen:
    """What is on a picture: objects from the left, then from the top."""

    background: str
    objects: tuple[Found, ...]


def nearest_colour(rgb: Tensor) -> str:
    """The palette's name for ``rgb`` (3,), 0–255."""
    names: list[str] = list(scenes.COLOURS)
    palette = torch.tensor([scenes.COLOURS[name] for name in names], dtype=torch.float32)
    return names[int((palette - rgb).norm(dim=1).argmin())]


def areas(mask: Tensor) -> list[Tensor]:
    """Connected areas (8 neighbours) of at least ``MIN_AREA`` pixels of a (64, 64) mask."""
    labels = torch.arange(1, mask.numel() + 1).view(mask.shape).float() * mask
    while True:
        grown = functional.max_pool2d(labels[None, None], 3, 1, 1)[0, 0] * mask
        if torch.equal(grown, labels):
            break
        labels = grown
    found = [labels == label for label in labels.unique().tolist() if label]
    return [area for area in found if int(area.sum()) >= MIN_AREA]


def ink(picture: Tensor, area: Tensor) -> Tensor:
    """Median RGB (3,) of the area, without its rim where that leaves anything."""
    inner = -functional.max_pool2d(-area.float()[None, None], 3, 1, 1)[0, 0] > 0
    if int(inner.sum()) < MIN_AREA:
        inner = area
    return picture[:, inner].median(dim=1).values


def look(picture: Tensor) -> Seen:
    """What is on ``picture`` (3, 64, 64), RGB in [-1, 1]."""
    rgb = (picture.float().clamp(-1, 1) + 1) * 127.5
    border = torch.ones(rgb.shape[1:], dtype=torch.bool)
    border[2:-2, 2:-2] = False
    background = rgb[:, border].median(dim=1).values
    contrast = (rgb - background[:, None, None]).norm(dim=0)
    found = []
    for area in areas(contrast > SPECK_CONTRAST):
        colour = ink(rgb, area)
        mask = functional.max_pool2d(area.float()[None, None], 3, 1, 1)[0, 0] > 0
        mask &= contrast > edge_contrast(colour, background)
        shape, iou = fit(rgb, mask, colour, background)
        ys, xs = mask.nonzero(as_tuple=True)
        if len(xs):
            x, y = float(xs.float().mean()), float(ys.float().mean())
            found.append(Found(nearest_colour(colour), shape, iou, x, y, len(xs)))
    return Seen(nearest_colour(background), tuple(sorted(found, key=lambda f: (f.x, f.y))))


def fit(rgb: Tensor, mask: Tensor, colour: Tensor, background: Tensor) -> tuple[str | None, float]:
    """The best fitting shape and its IoU for a (64, 64) mask; None below ``MIN_IOU``.

    Every shape is tried once where the mask's box puts it; for the ``FINALISTS`` best, sizes and
    then offsets around that place are tried too, since a wobbly edge spoils the box.
    """
    ys, xs = mask.nonzero(as_tuple=True)
    if not len(xs):
        return None, 0.0
    edges = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
    left, top, right, bottom = (float(edge) for edge in edges)
    first: list[tuple[Fit, str]] = []
    for shape in scenes.SHAPES:
        x0, y0, x1, y1 = BOXES[shape]
        radius = max(2.0, ((right - left) / (x1 - x0) + (bottom - top) / (y1 - y0)) / 2)
        cx = (left + right) / 2 - radius * (x0 + x1) / 2
        cy = (top + bottom) / 2 - radius * (y0 + y1) / 2
        place = torch.tensor([[cx, cy, radius]])
        first.append((lay(shape, place, rgb, mask, colour, background), shape))
    first.sort(key=lambda row: row[0].score, reverse=True)
    best, name = Fit(-1.0, 0.0, torch.zeros(3)), ""
    for start, shape in first[:FINALISTS]:
        sized = lay(shape, start.place * SCALES, rgb, mask, colour, background)
        moved = lay(shape, sized.place + MOVES, rgb, mask, colour, background)
        if moved.score > best.score:
            best, name = moved, shape
    return (name if best.iou >= MIN_IOU else None), best.iou


def lay(
    shape: str, places: Tensor, rgb: Tensor, mask: Tensor, colour: Tensor, background: Tensor
) -> Fit:
    """The best of ``places`` (n, 3: x, y, radius in pixels) for a drawing of ``shape``."""
    cover, shade = drawing.layers(shape, *places.unbind(1))
    wanted = drawing.paint(colour.expand(len(places), 3), shade)
    wanted = torch.lerp(background[:, None, None], wanted, cover[:, None])
    outline = (wanted - background[:, None, None]).norm(dim=1) > edge_contrast(colour, background)
    both = outline & mask
    overlap = both.flatten(1).sum(1)
    iou = overlap / (outline | mask).flatten(1).sum(1)
    difference = (wanted - rgb).norm(dim=1) / 441.7 * both
    score = iou - difference.flatten(1).sum(1) / overlap.clamp(min=1)
    winner = int(score.argmax())
    return Fit(float(score[winner]), float(iou[winner]), places[winner])


def edge_contrast(colour: Tensor, background: Tensor) -> float:
    """Distance from the background at which an object's outline is drawn.

    Half way to the object's colour, yet never so far that a shaded face (a brown cube's light
    top on pink) falls out of the object.
    """
    return min(float((colour - background).norm()) / 2, 1.4 * SPECK_CONTRAST)


def _boxes() -> dict[str, tuple[float, float, float, float]]:
    """Each shape's bounding box (x0, y0, x1, y1) in radii from its centre, measured."""
    place = torch.tensor([[32.0, 32.0, 25.0]])
    boxes = {}
    for shape in scenes.SHAPES:
        cover, _ = drawing.layers(shape, *place.unbind(1))
        ys, xs = (cover[0] >= 0.5).nonzero(as_tuple=True)
        edges = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        x0, y0, x1, y1 = ((float(edge) - 32) / 25 for edge in edges)
        boxes[shape] = (x0, y0, x1, y1)
    return boxes


BOXES = _boxes()
