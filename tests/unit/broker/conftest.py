"""Models, cards and requests as the broker's pure parts see them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from foxden_proto.v1.generation_pb2 import ImageRequest
from foxden_proto.v1.pool_pb2 import CardInfo, Model, Sampler


def model(name: str = "dream", sha: str = "", **values: Any) -> Model:
    standard = {
        "default_width": 512,
        "default_height": 512,
        "default_steps": 20,
        "default_guidance_scale": 7.0,
        "default_sampler": "Euler",
        "default_schedule": "automatic",
        "multiple_of": 8,
        "min_size": 64,
        "max_size": 1024,
    }
    return Model(name=name, sha256=(sha or name[0]).ljust(64, "0"), **(standard | values))


def card(card_id: str = "card", *models: Model, **values: Any) -> CardInfo:
    """A card whose samplers all run with the same schedules."""
    schedules = values.pop("schedules", ["automatic", "karras"])
    samplers = [
        Sampler(name=name, schedules=schedules)
        for name in values.pop("samplers", ["Euler", "DDIM"])
    ]
    standard = {"name": f"the {card_id}", "models": models or [model()], "samplers": samplers}
    return CardInfo(card_id=card_id, **(standard | values))


def complete(of: Model | None = None, **values: Any) -> ImageRequest:
    """A request with everything filled in."""
    of = of or model()
    standard = {
        "model": of.name,
        "model_sha256": of.sha256,
        "prompt": "a red cube",
        "sampler": "Euler",
        "schedule": "automatic",
        "steps": 20,
        "width": 512,
        "height": 512,
        "guidance_scale": 7.0,
        "seed": 1,
    }
    return ImageRequest(**(standard | values))


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Model]:
    return model


@pytest.fixture(scope="session")
def make_card() -> Callable[..., CardInfo]:
    return card


@pytest.fixture(scope="session")
def make_request() -> Callable[..., ImageRequest]:
    return complete
