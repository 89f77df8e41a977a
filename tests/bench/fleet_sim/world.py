"""What is simulated: cards, models, jobs. Everything comes from a seed.

Speeds are of the size that such cards have (seconds per step and megapixel of an SD 1.5-sized
model); only ratios matter for the results.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

NOISE = 0.2  # standard deviation of a drawing's time, relative
ROUND_TRIP = 0.05  # seconds between a decision and a card's start


@dataclass(frozen=True)
class CardClass:
    name: str
    rate: float  # seconds per step and megapixel
    memory: int  # GB
    disk: float  # GB per second into VRAM
    share: int  # of thirty


CLASSES = (
    CardClass("RTX 4090", 0.12, 24, 1.2, 3),
    CardClass("RTX 3090", 0.23, 24, 0.8, 4),
    CardClass("RTX 4070", 0.25, 12, 1.0, 6),
    CardClass("RTX 3080", 0.27, 10, 0.8, 5),
    CardClass("RTX 3060", 0.55, 12, 0.5, 7),
    CardClass("RTX 2070", 0.60, 8, 0.5, 5),
)


@dataclass(frozen=True)
class Model:
    name: str
    size: float  # GB on disk
    factor: float  # how much more a step costs than SD 1.5's
    needs: int  # GB of VRAM
    side: int  # pixels
    steps: int


_SD15 = Model("sd15", 2.1, 1.0, 4, 512, 25)
_SDXL = Model("sdxl", 6.9, 1.4, 8, 1024, 28)
_FLUX = Model("flux", 11.9, 4.0, 12, 1024, 12)


def models(count: int) -> list[Model]:
    """A third SD 1.5, a sixth Flux, the rest SDXL."""
    made = []
    for number in range(count):
        base = _FLUX if number % 6 == 5 else _SD15 if number % 3 == 1 else _SDXL
        rest = (base.factor, base.needs, base.side, base.steps)
        made.append(Model(f"{base.name}-{number}", base.size, *rest))
    return made


@dataclass
class SimCard:
    """A card; what it has loaded and holds is the simulator's to change."""

    card_id: str
    kind: CardClass
    rate: float  # its own: cards of a class differ by a few percent
    loaded: Model | None = None
    here: bool = True
    held: list[SimBatch] = field(default_factory=list)

    def fits(self, model: Model) -> bool:
        return self.kind.memory >= model.needs

    def draw(self, model: Model, steps: int = 0) -> float:
        """Mean seconds of one image, the model loaded."""
        return self.rate * (steps or model.steps) * (model.side / 1000) ** 2 * model.factor

    def load(self, model: Model) -> float:
        return 2.0 + model.size / self.kind.disk


@dataclass(eq=False)
class SimImage:
    """One image; with `count` of its job."""

    job_id: str
    index: int
    model: Model
    created: float
    member: str = "a"
    priority: int = 2
    noise: float = 1.0
    left: float = 1.0  # of its steps, after an owner took its card back
    done_at: float = -1.0
    started_at: float = -1.0
    steps: int = 0  # 0: the model's own
    number: int = 0  # by arrival


@dataclass(eq=False)
class SimBatch:
    images: list[SimImage]
    started: float = -1.0
    load: float = 0.0
    ends: float = -1.0


def fleet(count: int, random_: random.Random) -> list[SimCard]:
    """Mixed cards in the shares above, each a little off its class."""
    ring = [kind for kind in CLASSES for _ in range(kind.share)]
    cards = []
    for number in range(count):
        kind = ring[(number * 7) % len(ring)]
        cards.append(SimCard(f"card-{number}", kind, kind.rate * random_.uniform(0.93, 1.07)))
    return cards


def noise(random_: random.Random) -> float:
    return max(0.4, random_.gauss(1.0, NOISE))


def popularity(count: int) -> list[float]:
    """Few models are wanted often, many seldom."""
    return [1 / (1 + number) ** 0.7 for number in range(count)]


def batch_of_work(jobs: int, of: list[Model], random_: random.Random) -> list[SimImage]:
    """Jobs of one image each, all there at once."""
    weights = popularity(len(of))
    return [
        SimImage(f"j{n}", 0, random_.choices(of, weights)[0], 0.0, noise=noise(random_), number=n)
        for n in range(jobs)
    ]


def stream(jobs: int, per_second: float, of: list[Model], random_: random.Random) -> list[SimImage]:
    """Jobs of one image each that come at random moments (Poisson)."""
    weights, made, at = popularity(len(of)), [], 0.0
    for number in range(jobs):
        at += random_.expovariate(per_second)
        model = random_.choices(of, weights)[0]
        made.append(SimImage(f"j{number}", 0, model, at, noise=noise(random_), number=number))
    return made
