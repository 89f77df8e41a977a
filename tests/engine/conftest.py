"""Real diffusers on the demo model. One engine process serves a whole module."""

import io
import os
from collections.abc import Callable

import pytest
from PIL import Image

from foxden_agent.models import DEMO_MODEL
from foxden_proto.v1.engine_pb2 import Batch, BatchItem, EngineEvent, EnginePicture, ModelSource
from foxden_proto.v1.generation_pb2 import ImageRequest

# As the engine's own process has it, and before any test imports torch: OpenMP threads that wait
# busily make a picture last minutes where the cores are shared.
os.environ["GOMP_SPINCOUNT"] = "1000"
os.environ["HF_HUB_OFFLINE"] = "1"

PROMPT = "a red cube on a blue background"
MODEL = ModelSource(name="foxden-demo", sha256="demo", path=str(DEMO_MODEL), family="sd1")

MakeBatch = Callable[..., Batch]


def make_batch(count: int = 1, /, *, model: ModelSource = MODEL, **changes: object) -> Batch:
    """A batch of `count` images with seeds from `seed` on and the item ids "0", "1", …"""
    fields: dict[str, object] = {
        "model": model.name,
        "prompt": PROMPT,
        "steps": 20,
        "sampler": "DPM++ 2M",
        "schedule": "automatic",
        "guidance_scale": 3.0,
        "width": 64,
        "height": 64,
        "seed": 1,
    } | changes
    first = int(str(fields.pop("seed")))
    return Batch(
        model=model,
        items=[
            BatchItem(item_id=str(i), request=ImageRequest(**fields, seed=first + i))
            for i in range(count)
        ],
    )


@pytest.fixture(name="make_batch", scope="session")
def _make_batch() -> MakeBatch:
    return make_batch


class Drawn:
    """What came of a batch, in order."""

    def __init__(self, events: list[EngineEvent]) -> None:
        self.pictures: dict[str, EnginePicture] = {
            e.picture.item_id: e.picture for e in events if e.HasField("picture")
        }
        self.stopped = [e.stopped.item_id for e in events if e.HasField("stopped")]
        self.steps = [e.step.step for e in events if e.HasField("step")]
        self.stages = [e.stage.stage for e in events if e.HasField("stage")]

    def image(self, item_id: str = "0") -> Image.Image:
        return Image.open(io.BytesIO(self.pictures[item_id].png))


@pytest.fixture
def drawn() -> type[Drawn]:
    return Drawn


def _is_blue(pixel: tuple[int, int, int]) -> bool:
    return pixel[2] > 150 and pixel[2] > pixel[0] + 80


def _is_red(pixel: tuple[int, int, int]) -> bool:
    return pixel[0] > 130 and pixel[0] > pixel[2] + 50 and pixel[0] > pixel[1] + 60


def shows_red_on_blue(image: Image.Image) -> bool:
    """The border is blue, as a median, and at least 4 % of the picture are red."""
    width, height = image.size
    pixels = {(x, y): image.getpixel((x, y)) for x in range(width) for y in range(height)}
    border = [p for (x, y), p in pixels.items() if x in (0, width - 1) or y in (0, height - 1)]
    median = tuple(sorted(p[c] for p in border)[len(border) // 2] for c in range(3))
    return _is_blue(median) and sum(map(_is_red, pixels.values())) >= 0.04 * len(pixels)


@pytest.fixture
def red_on_blue() -> Callable[[Image.Image], bool]:
    return shows_red_on_blue
