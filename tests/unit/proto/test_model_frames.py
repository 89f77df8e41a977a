"""What the link lets through of models: loads that were measured, hints, tiers in a heartbeat."""

from __future__ import annotations

import math
from typing import Any

import pytest

from foxden_proto import limits
from foxden_proto.link_checks import LinkError, check_payload
from foxden_proto.v1 import link_pb2 as pb
from foxden_proto.v1 import pool_pb2

SHA = "a" * 64


def told(**values: Any) -> pb.ModelLoaded:
    good = {"card_id": "c", "model_sha256": SHA, "seconds": 2.5, "tier": pool_pb2.TIER_DISK}
    return pb.ModelLoaded(**{**good, **values})


def test_load_that_was_measured_arrives(up: Any) -> None:
    up.agent.model_loaded("card-1", SHA, 2.5, pool_pb2.TIER_RAM)
    _, (event,) = up.deliver()
    assert event == told(card_id="card-1", tier=pool_pb2.TIER_RAM)


def test_hint_arrives(up: Any) -> None:
    up.broker.prefetch("card-1", SHA)
    (event,), _ = up.deliver()
    assert event == pb.Prefetch(card_id="card-1", model_sha256=SHA)


@pytest.mark.parametrize(
    "values",
    [
        *({"seconds": seconds} for seconds in (-0.1, math.nan, math.inf, -math.inf, 1e9)),
        *({"tier": tier} for tier in (0, -1, 99)),
        *({"model_sha256": sha256} for sha256 in ("", "a" * 63, "A" * 64, "../" + "a" * 61)),
        *({"card_id": card_id} for card_id in ("", "x" * 65)),
    ],
)
def test_load_that_cannot_be_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(LinkError, match="a model was loaded"):
        check_payload(told(**values))


def test_more_models_in_memory_than_an_agent_may_have_are_refused() -> None:
    card = pool_pb2.CardReadings(models_in_ram=[SHA] * (limits.MODELS_PER_AGENT + 1))
    with pytest.raises(LinkError, match="models in one card's memory"):
        check_payload(pb.Heartbeat(cards=[card]))
