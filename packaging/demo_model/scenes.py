"""What may be drawn: shapes, colours, sizes and places, and how scenes are chosen at random.

A ``Spec`` is what a caption says ("a large red cube on a blue background"); a ``Scene`` is one
exact drawing of it (centres and radii in pixels). Many scenes fit one spec: that is all the
variety a seed can choose from, and it is kept small on purpose, since a 64 pixel model draws
crisply only what it can foresee.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

PIXELS = 64
SHAPES = (
    "circle", "square", "triangle", "star", "heart", "ring",
    "cross", "diamond", "moon", "cube", "ball",
)  # fmt: skip
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 28, 36), "orange": (245, 135, 30), "yellow": (250, 214, 50),
    "green": (40, 160, 62), "cyan": (52, 200, 225), "blue": (36, 84, 226),
    "purple": (128, 42, 176), "pink": (255, 140, 192), "brown": (122, 80, 46),
    "black": (18, 18, 18), "white": (245, 244, 246), "gray": (130, 130, 134),
}  # fmt: skip
HELD_OUT = frozenset({
    ("purple", "star"), ("green", "heart"), ("orange", "cube"), ("cyan", "triangle"),
    ("pink", "cross"), ("yellow", "ring"), ("blue", "moon"), ("brown", "circle"),
    ("red", "diamond"), ("white", "square"), ("black", "ball"), ("gray", "star"),
})  # fmt: skip
"""Colour-shape pairs that are never drawn in training: they show whether the two compose."""

DEFAULT_COLOUR = {
    "circle": "blue", "square": "red", "triangle": "green", "star": "yellow", "heart": "red",
    "ring": "purple", "cross": "red", "diamond": "cyan", "moon": "yellow", "cube": "green",
    "ball": "red",
}  # fmt: skip
SIZES = {"small": (8.5, 10.0), "medium": (17.5, 20.0), "large": (23.5, 25.5)}
"""Radius in pixels, lowest and highest. Medium is what is drawn when no size is named."""
POSITIONS = {
    "middle": (0, 0), "left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1),
    "top left": (-1, -1), "top right": (1, -1), "bottom left": (-1, 1), "bottom right": (1, 1),
}  # fmt: skip
RELATIONS = ("and", "next to", "above", "below")
SHAPE_WEIGHTS = {"star": 1.8, "ring": 1.5, "diamond": 1.6, "square": 1.6, "cube": 1.5, "cross": 1.2}
KINDS = {
    "single": 0.52, "no background": 0.09, "no colour": 0.05, "size": 0.10, "position": 0.08,
    "size and position": 0.02, "several": 0.06, "pair": 0.07, "empty": 0.01,
}  # fmt: skip


@dataclass(frozen=True)
class Spec:
    """What a caption says. ``None`` means: not said, so the default is drawn.

    ``kinds`` holds (colour, shape) of the one object or of both objects of a pair; ``count`` is
    1–3 equal objects; no kinds at all is an empty picture.
    """

    kinds: tuple[tuple[str | None, str], ...]
    background: str | None
    size: str | None = None
    position: str | None = None
    relation: str | None = None
    count: int = 1

    @property
    def colours(self) -> tuple[str, ...]:
        """The colour each kind is drawn in."""
        return tuple(colour or DEFAULT_COLOUR[shape] for colour, shape in self.kinds)

    @property
    def backdrop(self) -> str:
        """The colour drawn behind: plain white if none is named, black behind white things."""
        return self.background or ("black" if "white" in self.colours else "white")


@dataclass(frozen=True)
class Thing:
    """One drawn object: colour as RGB 0–255, centre and radius in pixels of a 64 px picture."""

    shape: str
    rgb: tuple[float, float, float]
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Scene:
    """One exact drawing."""

    background: tuple[float, float, float]
    things: tuple[Thing, ...]


def random_kind(rng: random.Random, held_out: bool = False) -> tuple[str, str]:
    """A (colour, shape) pair: one never drawn in training if ``held_out``, else one that is."""
    if held_out:
        return rng.choice(sorted(HELD_OUT))
    while True:
        shape = rng.choices(SHAPES, [SHAPE_WEIGHTS.get(shape, 1.0) for shape in SHAPES])[0]
        pair = (rng.choice(list(COLOURS)), shape)
        if pair not in HELD_OUT:
            return pair


def random_spec(rng: random.Random, kind: str | None = None, held_out: bool = False) -> Spec:
    """A spec of one of ``KINDS`` (drawn by weight when ``kind`` is None)."""
    kind = kind or rng.choices(list(KINDS), list(KINDS.values()))[0]
    if kind == "empty":
        return Spec((), rng.choice(list(COLOURS)))
    first = random_kind(rng, held_out)
    taken = {first[0]}
    kinds: tuple[tuple[str | None, str], ...] = (first,)
    if kind == "no colour":
        kinds = ((None, first[1]),)
        taken = {DEFAULT_COLOUR[first[1]]}
    elif kind == "pair":
        second = random_kind(rng, held_out)
        while second == first:
            second = random_kind(rng, held_out)
        kinds = (first, second)
        taken.add(second[0])
    # a background is left out often where something else is the point of the caption
    unnamed = kind == "no background" or (kind != "single" and rng.random() < 0.2)
    free = [colour for colour in COLOURS if colour not in taken]
    background = None if unnamed else rng.choice(free)
    if background is None and Spec(kinds, None).backdrop in taken:
        background = rng.choice(free)  # black and white things together: no default can show both
    return Spec(
        kinds,
        background,
        size=rng.choice(("small", "large")) if kind in ("size", "size and position") else None,
        position=rng.choice(list(POSITIONS)) if "position" in kind else None,
        relation=rng.choice(RELATIONS) if kind == "pair" else None,
        count=rng.choice((2, 3)) if kind == "several" else 1,
    )


def random_scene(spec: Spec, rng: random.Random) -> Scene:
    """One drawing of ``spec``: radius, place (a pixel or two) and colours (±3) vary."""

    def shade_of(colour: str) -> tuple[float, float, float]:
        r, g, b = (part + rng.uniform(-3, 3) for part in COLOURS[colour])
        return r, g, b

    middle = PIXELS / 2
    if spec.relation or spec.count == 2:
        radius = rng.uniform(12.5, 14.0)
        offsets = [(-15.5, 0.0), (15.5, 0.0)]
        if spec.relation in ("above", "below"):
            sign = 1.0 if spec.relation == "below" else -1.0
            offsets = [(0.0, sign * 15.5), (0.0, sign * -15.5)]
    elif spec.count == 3:
        radius = rng.uniform(11.5, 12.5)
        offsets = [(-15.0, -14.0), (15.0, -14.0), (0.0, 14.0)]
    elif spec.position and spec.position != "middle":
        low, high = {"small": (8.5, 10.0), "large": (16.0, 17.0)}.get(spec.size or "", (12.5, 14.0))
        radius = rng.uniform(low, high)
        room = middle - radius - 2.5
        dx, dy = POSITIONS[spec.position]
        offsets = [(dx * room, dy * room)]
    else:
        radius = rng.uniform(*SIZES[spec.size or "medium"])
        offsets = [(0.0, 0.0)]
    spread = 1.5 if len(offsets) == 1 else 0.7
    kinds = list(zip(spec.colours, (shape for _, shape in spec.kinds), strict=True))
    kinds = kinds * spec.count
    return Scene(
        shade_of(spec.backdrop),
        tuple(
            Thing(
                shape,
                shade_of(colour),
                middle + dx + rng.uniform(-spread, spread),
                middle + dy + rng.uniform(-spread, spread),
                radius,
            )
            for (colour, shape), (dx, dy) in zip(kinds, offsets, strict=False)
        ),
    )
