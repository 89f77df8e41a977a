"""A card that is given back to its owner, or for more urgent work, and images that go on there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import fake_engine
import psutil
import pytest
import pytest_asyncio
from one_card import QUICK, Card, at_work, kinds, path_of, request

from foxden_proto.link import LeaseKey
from foxden_proto.v1 import link_pb2 as pb

GAME = ["gaming: witcher3.exe"]


@pytest_asyncio.fixture
async def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Card]:
    async with at_work(tmp_path, monkeypatch, timers=QUICK) as made:
        yield made


def engine_of(card: Card) -> psutil.Process:
    pid, _ = fake_engine.calls(card.folder)[-1]
    return psutil.Process(pid)


async def drawing(card: Card, frames: int = 1) -> None:
    await card.until(lambda: len(card.said("progress")) >= frames)


async def test_running_image_x_stored_every_few_seconds_and_told(card: Card) -> None:
    (key,) = card.give("slow")
    await card.until(lambda: len(card.said("checkpoint")) >= 3)
    told = [said.checkpoint for said in card.said("checkpoint")]
    assert [one.step for one in told] == sorted({one.step for one in told})
    puts = card.door.puts(path_of(key))
    assert puts[:3] == [fake_engine.checkpoint("slow", one.step) for one in told[:3]]
    assert [one.size for one in told[:3]] == [len(data) for data in puts[:3]]
    assert all(said.receipt == "signed" for said in card.said("checkpoint"))
    card.worker.stop(key)
    await card.ended(key)


async def test_batch_x_its_images_are_stored_at_the_same_steps(card: Card) -> None:
    keys = card.give("slow", "slow", "slow")

    def stored(index: int) -> set[int]:
        return {s.checkpoint.step for s in card.said("checkpoint") if s.lease.index == index}

    # Not the first two of each: on a busy machine a PUT may come too late, which skips one.
    await card.until(lambda: len(stored(0) & stored(1) & stored(2)) >= 2)
    for key in keys:
        card.worker.stop(key)
    await card.ended(*keys)


async def test_short_image_x_is_never_stored(card: Card) -> None:
    await card.ended(*card.give("a cat"))
    assert card.said("checkpoint") == []


async def test_given_back_while_drawing_x_releasing_then_the_engine_dies_then_the_checkpoint(
    card: Card,
) -> None:
    running, other = card.give("slow", "slow")
    (staged,) = card.give("a cat", job="staged")
    await drawing(card, 4)
    engine = engine_of(card)
    began = time.monotonic()

    gone = card.worker.give_back(GAME)

    words = card.said("released")  # said before anything was awaited
    assert [(w.lease.job_id, w.releasing) for w in words] == [
        ("staged", False),
        ("job", True),
        ("job", True),
    ]
    await gone
    assert not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE
    assert time.monotonic() - began < 3.0
    ends = await card.ended(running, other, staged)
    assert kinds(ends) == ["TaskReleased"] * 3
    assert {end.reason for end in ends} == {GAME[0]}
    steps = {end.checkpoint.step for end in ends[:2]}
    assert len(steps) == 1, "they can go on together"
    assert not ends[2].HasField("checkpoint")
    for key, end in zip((running, other), ends, strict=False):
        step = end.checkpoint.step
        assert card.door.puts(path_of(key))[-1] == fake_engine.checkpoint("slow", step)
        last = max(s.step for s in card.said("progress") if s.lease.index == key.index)
        assert last - 1 <= step, "more than one step is to be repeated"
    assert card.drawn == [["slow", "slow"]]


async def test_engine_stuck_in_a_step_x_is_gone_at_once_with_the_step_before(card: Card) -> None:
    (key,) = card.give("stuck")
    await drawing(card)
    await asyncio.sleep(0.3)  # the fourth step, which never ends, has begun: nothing says so
    engine = engine_of(card)
    began = time.monotonic()
    await card.worker.give_back(GAME)
    assert time.monotonic() - began < 3.0
    assert not engine.is_running()
    (end,) = await card.ended(key)
    assert end.checkpoint.step == 3


async def test_given_back_x_work_that_crosses_it_is_refused_as_not_ready(card: Card) -> None:
    await card.worker.give_back(GAME)
    card.give("a cat")
    (refused,) = card.said("refused")
    assert refused.not_ready
    assert refused.reason == "not ready: gaming: witcher3.exe"
    assert card.drawn == []
    card.worker.allow()
    assert kinds(await card.ended(*card.give("a dog", job="then"))) == ["TaskFinished"]


async def test_given_back_while_the_engine_starts_x_leaves_none_behind(card: Card) -> None:
    keys = card.give("a cat")
    before = set(psutil.Process().children())
    for _ in range(20):  # into the middle of the start
        await asyncio.sleep(0)
    await card.worker.give_back(GAME)
    assert kinds(await card.ended(*keys)) == ["TaskReleased"]
    left = [p for p in set(psutil.Process().children()) - before if p.is_running()]
    assert [p for p in left if p.status() != psutil.STATUS_ZOMBIE] == []
    card.worker.allow()
    assert kinds(await card.ended(*card.give("a dog", job="then"))) == ["TaskFinished"]


async def test_given_back_while_idle_x_the_engine_goes_too(card: Card) -> None:
    await card.ended(*card.give("a cat"))
    engine = engine_of(card)
    await card.worker.give_back(GAME)
    assert not engine.is_running()
    assert not card.worker.cache.in_vram


async def test_finish_current_x_what_runs_ends_and_what_waits_goes_back(card: Card) -> None:
    (running,) = card.give("slow", job="running")
    (staged,) = card.give("a cat", job="staged")
    await drawing(card)
    card.worker.finish_current(["paused by its owner"])
    assert kinds(await card.ended(staged)) == ["TaskReleased"]
    assert running not in card.ends
    before = len(card.said("progress"))
    await drawing(card, before + 2)
    card.give("a dog", job="crossing")
    assert card.said("refused")[0].not_ready
    card.worker.stop(running)
    await card.ended(running)


async def test_checkpoint_that_does_not_arrive_x_release_comes_in_time_without_it(
    card: Card,
) -> None:
    (key,) = card.give("slow")
    await drawing(card)
    card.door.mood = "hangs"
    began = time.monotonic()
    card.worker.give_back(GAME)
    (end,) = await card.ended(key)
    assert time.monotonic() - began < QUICK.release
    assert not end.HasField("checkpoint")


async def test_last_put_fails_x_released_with_what_was_stored_before(card: Card) -> None:
    (key,) = card.give("slow")
    await card.until(lambda: bool(card.said("checkpoint")))
    stored = card.said("checkpoint")[-1].checkpoint
    card.door.mood = "away"
    card.worker.give_back(GAME)
    (end,) = await card.ended(key)
    assert end.checkpoint == stored


async def test_broker_that_knows_no_checkpoints_x_is_asked_once(card: Card) -> None:
    card.door.mood = "old"
    (key,) = card.give("slow")
    await drawing(card, 10)
    card.worker.give_back(GAME)
    (end,) = await card.ended(key)
    assert not end.HasField("checkpoint")
    assert card.door.put_there == []


async def test_link_is_down_x_release_is_said_when_it_is_back(card: Card) -> None:
    (key,) = card.give("slow")
    await drawing(card, 3)
    card._agent.lost(time.monotonic())
    await card.worker.give_back(GAME)
    await card.worker.held.last_things(5)
    outcome = card._agent.held[key].outcome
    assert outcome is not None
    assert not outcome.released.releasing
    assert outcome.released.checkpoint.step >= 1


async def test_preempted_x_stops_at_its_next_step_and_the_engine_lives(card: Card) -> None:
    keys = card.give("slow", "slow")
    await drawing(card, 2)
    pid = engine_of(card).pid
    for key in keys:
        card.worker.preempt(key, "more urgent work needs the card")
    ends = await card.ended(*keys)
    assert kinds(ends) == ["TaskReleased"] * 2
    assert {end.checkpoint.step for end in ends} == {ends[0].checkpoint.step}
    assert [w.releasing for w in card.said("released") if w.lease.index == 0] == [True, False]
    await card.ended(*card.give("urgent", job="urgent"))
    assert {one for one, _ in fake_engine.calls(card.folder)} == {pid}


async def test_preempted_and_its_checkpoint_comes_late_x_is_released_with_it_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with at_work(tmp_path, monkeypatch, timers=replace(QUICK, release=20.0)) as card:
        (key,) = card.give("slow")
        await drawing(card, 2)
        card.door.mood = "away"
        card.worker.preempt(key, "more urgent work needs the card")
        # The batch is over before the checkpoint is there: the engine draws the next one by then.
        (urgent,) = card.give("slow", job="urgent")
        await card.until(lambda: any(s.lease.job_id == "urgent" for s in card.said("progress")))
        card.worker.preempt(key, "said again")
        assert key not in card.ends
        card.door.mood = "well"
        (end,) = await card.ended(key)
        assert isinstance(end, pb.TaskReleased)
        assert end.checkpoint.step >= 1
        assert end.reason == "more urgent work needs the card"
        card.worker.stop(urgent)
        await card.ended(urgent)


async def test_preempted_before_it_began_x_goes_back_at_once(card: Card) -> None:
    (running,) = card.give("slow", job="running")
    (staged,) = card.give("a cat", job="staged")
    await drawing(card)
    card.worker.preempt(staged, "more urgent work needs the card")
    assert kinds(await card.ended(staged)) == ["TaskReleased"]
    card.worker.stop(running)
    await card.ended(running)
    assert card.drawn == [["slow"]]


async def test_begun_elsewhere_x_goes_on_from_its_step(card: Card) -> None:
    ends = await card.ended(*card.go_on("a cat", "a dog", step=7))
    assert kinds(ends) == ["TaskFinished"] * 2
    assert fake_engine.resumed(card.folder) == [7]


async def test_begun_elsewhere_and_fresh_ones_x_ride_apart(card: Card) -> None:
    fresh = card.give("a cow", job="fresh")
    old = card.go_on("a cat", step=7)
    await card.ended(*fresh, *old)
    assert fake_engine.resumed(card.folder) == [0, 7]


@pytest.mark.parametrize(("prompt", "kept"), [("stale", True), ("a cat", False)])
async def test_checkpoint_of_no_use_x_says_so_and_blames_nobody(
    card: Card, prompt: str, kept: bool
) -> None:
    (end,) = await card.ended(*card.go_on(prompt, step=7, kept=kept))
    assert isinstance(end, pb.TaskFailed)
    assert end.checkpoint_refused
    assert not card.worker.broken
    assert len(card.drawn) == kept


async def test_checkpoint_bigger_than_any_x_is_not_fetched(card: Card) -> None:
    await card.ended(*card.go_on("a cat", step=3, job="honest"))
    resume = pb.Checkpoint(sha256="a" * 64, size=2**40, step=3, path="/huge")
    huge = LeaseKey("huge", 0, 1)
    card.assign([pb.AssignedTask(lease=huge.message(), request=request("a cat"), resume=resume)])
    (end,) = await card.ended(huge)
    assert end.checkpoint_refused


async def test_image_of_a_model_that_is_not_here_x_is_refused_with_its_checkpoint_untouched(
    card: Card,
) -> None:
    key = LeaseKey("job", 0, 2)
    resume = pb.Checkpoint(sha256="a" * 64, size=10, step=3, path="/there")
    task = pb.AssignedTask(
        lease=key.message(), request=request("a cat", model_sha256="e" * 64), resume=resume
    )
    card.assign([task])
    (refused,) = card.said("refused")
    assert "no model" in refused.reason
    assert not refused.not_ready
