"""Each metric is documented, counts what it says, and has few series."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from one_account import World, new_store

from foxden_broker import http_api
from foxden_broker.auth import Doorkeeper
from foxden_broker.metrics import Metrics, metered
from foxden_broker.store.base import StoreError
from foxden_broker.tokens import new_token

Make = Callable[..., Any]
DOCS = Path(__file__).parents[3] / "docs/metrics.md"


@pytest_asyncio.fixture
async def world(tmp_path: Path, make_card: Make) -> AsyncIterator[World]:
    store = await new_store(tmp_path)
    world = World(store, tmp_path)
    world.account.metrics.of_accounts({"main": world.account})
    await world.join(make_card("a"))
    yield world
    await store.close()


def values(metrics: Metrics) -> dict[str, float]:
    """Every sample by its name and labels, as told."""
    lines = metrics.text().decode().splitlines()
    pairs = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
    return {name: float(value) for name, value in pairs}


async def test_every_metric_is_documented_and_none_else(world: World) -> None:
    documented = set(re.findall(r"^\| `(\w+)`", DOCS.read_text(), re.MULTILINE))
    told = re.findall(r"^# TYPE (\w+) ", world.account.metrics.text().decode(), re.MULTILINE)
    assert documented == set(told)


async def test_images_are_counted_from_queue_to_outcome(world: World) -> None:
    metrics = world.account.metrics
    await world.draw()  # what is known to be quick is staged
    await world.submit(3)
    first, second = sorted(await world.dispatch(), key=lambda lease: lease.index)
    told = values(metrics)
    assert told['foxden_queue_images{priority="normal"}'] == 1
    assert told["foxden_images_on_cards"] == 2
    assert told['foxden_cards{mode="ready",online="true"}'] == 1
    assert told["foxden_links"] == 1
    await world.start(first)
    await world.finish(first)
    await world.start(second)
    await world.fail(second)
    told = values(metrics)
    assert told['foxden_images_total{outcome="done"}'] == 2
    assert told['foxden_images_total{outcome="failed"}'] == 1
    assert told['foxden_attempts_total{outcome="finish"}'] == 2
    assert told['foxden_attempts_total{outcome="give_up"}'] == 1
    assert told["foxden_image_wait_seconds_count"] == 3
    assert told["foxden_image_run_seconds_count"] == 2
    assert told['foxden_jobs_submitted_total{priority="normal"}'] == 2
    assert told["foxden_plan_seconds_count"] >= 1


async def test_cancel_of_what_waits_is_no_attempt(world: World) -> None:
    from one_account import ANN

    from foxden_broker import client_calls

    job_id = await world.submit(1)
    await client_calls.cancel(world.account, ANN, job_id)
    told = values(world.account.metrics)
    assert told['foxden_images_total{outcome="cancelled"}'] == 1
    assert not [name for name in told if name.startswith("foxden_attempts_total")]


async def test_calls_of_the_store_are_timed_and_their_errors_counted(world: World) -> None:
    metrics = Metrics()
    store = metered(world.store, metrics)
    assert await store.job("main", "none") is None
    with pytest.raises(StoreError):
        await store.snapshot(world.folder / "foxden.db")
    told = values(metrics)
    assert told['foxden_store_seconds_count{call="job"}'] == 1
    assert told['foxden_store_errors_total{call="snapshot",kind="failed"}'] == 1


@pytest.mark.parametrize(
    ("scopes", "is_open", "status"),
    [
        ({"admin"}, False, 200),
        ({"generate"}, False, 403),
        (None, False, 401),
        (None, True, 200),
    ],
)
async def test_metrics_are_told_to_whom_they_may(
    world: World, scopes: set[str] | None, is_open: bool, status: int
) -> None:
    account, headers = world.account, {}
    if scopes is not None:
        token, text = new_token("main", "ann", frozenset(scopes), 1)
        await world.store.add_token(token)
        headers = {"Authorization": f"Bearer {text}"}
    app = http_api.create(
        {"main": account}, Doorkeeper(world.store), "", account.metrics, metrics_open=is_open
    )
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        answer = await client.get("/metrics", headers=headers)
        assert answer.status_code == status
        assert ("foxden_links" in answer.text) is (status == 200)
        for number in range(20):
            await client.get(f"/made/up/{number}")
    series = [name for name in values(account.metrics) if "http_requests" in name]
    assert len(series) == 2  # the patterns of routes, never what was asked for
