"""A model that was fetched from a hub by the real library: the real engine draws with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hub_server import UNET_16, Hub, Repo, demo_files, serving

from foxden_agent.engine_client import EngineProcess
from foxden_agent.model_hub import child
from foxden_agent.model_hub.child import ModelPlan
from foxden_agent.models import scan
from foxden_proto.timers import Timers
from foxden_proto.v1.engine_pb2 import ModelSource

pytestmark = pytest.mark.engine


async def test_fetched_demo_model_x_is_drawn_with(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make_batch: Any,
    drawn: Any,
    red_on_blue: Any,
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)  # as the agent has it; the engine sets it
    models = tmp_path / "models"
    with serving(Hub({"foxes/tiny": Repo(demo_files())})) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        plan = (await child.plans(tmp_path, ["foxes/tiny"]))["foxes/tiny"]
        assert isinstance(plan, ModelPlan)
        assert UNET_16 in {file.path for file in plan.files}
        await child.fetch(tmp_path, plan, models, {}, lambda told: None)
    (one,) = [one for one in scan(models, tmp_path / "hashes") if one.model.name == "tiny"]
    source = ModelSource(
        name="tiny", sha256=one.model.sha256, path=str(one.path), family=one.model.family
    )
    async with await EngineProcess.start("cpu", timers=Timers()) as engine:
        events = [event async for event in engine.generate(make_batch(model=source))]
    assert red_on_blue(drawn(events).image())
