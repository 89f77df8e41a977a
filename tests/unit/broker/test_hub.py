"""Watchers are woken, told in order, and cost little however slowly they read."""

from __future__ import annotations

import asyncio

from foxden_broker.hub import Hub
from foxden_proto.v1.generation_pb2 import Progress


def step(number: int, index: int = 0) -> Progress:
    return Progress(index=index, step=number, steps=1000, preview=b"p" * 1000)


async def test_change_wakes_the_watchers_of_its_topic_alone() -> None:
    hub = Hub()
    with hub.subscribe("job") as mine, hub.subscribe("job") as too, hub.subscribe("x") as other:
        waiting = asyncio.create_task(mine.wait())
        await asyncio.sleep(0)
        hub.changed("job")
        assert await waiting == []
        assert await too.wait() == []
        await nothing(other)


async def nothing(subscription: object) -> None:
    """Nothing has happened to this one."""
    waiting = asyncio.create_task(subscription.wait())  # type: ignore[attr-defined]
    for _ in range(3):
        await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()


async def test_timeout_is_told_as_a_change() -> None:
    with Hub().subscribe("job") as subscription:
        assert await subscription.wait(timeout=0) == []


async def test_slow_watcher_gets_the_newest_step_of_each_image() -> None:
    hub = Hub()
    with hub.subscribe("job") as subscription:
        for number in range(1000):
            for index in (0, 1):
                hub.progressed("job", step(number, index))
            assert len(subscription._progress) <= 2
        told = await subscription.wait()
        assert [(one.index, one.step) for one in told] == [(0, 999), (1, 999)]
        await nothing(subscription)


async def test_change_is_told_before_the_progress_that_came_after_it() -> None:
    hub = Hub()
    with hub.subscribe("job") as subscription:
        hub.changed("job")
        hub.progressed("job", step(1))
        assert await subscription.wait() == []
        assert [one.step for one in await subscription.wait()] == [1]
        await nothing(subscription)


async def test_progress_that_came_before_a_change_is_dropped() -> None:
    hub = Hub()
    with hub.subscribe("job") as subscription:
        hub.progressed("job", step(1))
        hub.changed("job")
        assert await subscription.wait() == []
        await nothing(subscription)


async def test_many_changes_are_told_once() -> None:
    hub = Hub()
    with hub.subscribe("job") as subscription:
        for _ in range(100):
            hub.changed("job")
        assert await subscription.wait() == []
        await nothing(subscription)


async def test_last_watcher_that_leaves_takes_the_topic_along() -> None:
    hub = Hub()
    with hub.subscribe("job"):
        with hub.subscribe("job"):
            pass
        assert set(hub._topics) == {"job"}
    assert not hub._topics
    hub.changed("job")
    hub.progressed("job", step(1))
    assert not hub._topics
