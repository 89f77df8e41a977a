"""A card's worker: batches, failures, engines that are replaced, cards that are broken."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import fake_engine
import pytest
import pytest_asyncio
from one_card import DREAM, Card, at_work, kinds, request

from foxden_agent.model_files import FileStamp
from foxden_proto.link import LeaseKey
from foxden_proto.v1 import link_pb2 as pb
from foxden_proto.v1 import pool_pb2


@pytest_asyncio.fixture
async def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Card]:
    async with at_work(tmp_path, monkeypatch) as made:
        yield made


async def test_images_of_one_assignment_x_drawn_x_ride_in_one_batch(card: Card) -> None:
    ends = await card.ended(*card.give("a cat", "a dog", "a cow"))
    assert kinds(ends) == ["TaskFinished"] * 3
    assert [end.picture.batch_size for end in ends] == [3, 3, 3]
    assert card.drawn == [["a cat", "a dog", "a cow"]]
    assert len(card.said("started")) == 3
    assert [len(said.leases) for said in card.said("acknowledged")] == [3]


async def test_images_of_two_jobs_x_in_one_assignment_x_ride_together(card: Card) -> None:
    keys = [LeaseKey("mine", 4, 1), LeaseKey("yours", 0, 2)]
    prompts = [("a cat", "blurry"), ("a dog", "")]
    card.assign(
        [
            pb.AssignedTask(
                lease=key.message(), request=request(prompt, negative_prompt=negative, seed=seed)
            )
            for seed, (key, (prompt, negative)) in enumerate(zip(keys, prompts, strict=True))
        ]
    )
    assert kinds(await card.ended(*keys)) == ["TaskFinished"] * 2
    assert card.drawn == [["a cat", "a dog"]]


async def test_assignment_of_unlike_images_x_is_split_and_not_refused(card: Card) -> None:
    keys = card.give("a cat", "a dog", job="small") + card.give("a cow", job="big", width=128)
    lease = LeaseKey("mixed", 0, 1), LeaseKey("mixed", 1, 1), LeaseKey("mixed", 2, 1)
    steps = (5, 9, 5)
    card.assign(
        [
            pb.AssignedTask(lease=key.message(), request=request(f"of {n} steps", steps=n))
            for key, n in zip(lease, steps, strict=True)
        ]
    )
    assert kinds(await card.ended(*keys, *lease)) == ["TaskFinished"] * 6
    assert card.drawn[2:] == [["of 5 steps", "of 5 steps"], ["of 9 steps"]]


async def test_assignment_beyond_what_the_card_may_draw_x_is_cut(card: Card) -> None:
    keys = card.give("a", "b", "c", width=256, height=256)
    await card.ended(*keys)
    assert card.drawn == [["a"], ["b"], ["c"]]


async def test_one_of_a_running_batch_x_stopped_x_others_go_on(card: Card) -> None:
    stopped, other, dropped = card.give("slow", "a dog", "slow")
    await card.until(lambda: len(card.said("progress")) >= 3)
    card.worker.stop(stopped)
    card.worker.drop(dropped)
    assert kinds(await card.ended(stopped, other)) == ["TaskStopped", "TaskFinished"]
    assert len(card.drawn) == 1
    assert dropped not in card.ends


async def test_image_of_a_waiting_batch_x_stopped_x_ends_at_once_and_is_not_drawn(
    card: Card,
) -> None:
    (running,) = card.give("slow", job="first")
    waits, other = card.give("a cat", "a dog")
    await card.until(lambda: bool(card.said("progress")))
    card.worker.stop(waits)
    assert kinds(await card.ended(waits)) == ["TaskStopped"]
    card.worker.stop(running)
    assert kinds(await card.ended(running, other)) == ["TaskStopped", "TaskFinished"]
    assert card.drawn == [["slow"], ["a dog"]]


async def test_batch_behind_a_stopped_one_x_is_not_refused_by_an_engine_that_drains(
    card: Card,
) -> None:
    (first,) = card.give("slow", job="first")
    (second,) = card.give("quick", job="second")
    await card.until(lambda: bool(card.said("progress")))
    card.worker.stop(first)
    assert kinds(await card.ended(first, second)) == ["TaskStopped", "TaskFinished"]


@pytest.mark.parametrize(("bad", "reason"), [("poison", "error of the fake"), ("deadly", "died")])
async def test_one_bad_prompt_of_a_batch_x_fails_alone(card: Card, bad: str, reason: str) -> None:
    keys = card.give("a cat", bad, "a dog")
    ends = await card.ended(*keys)
    assert kinds(ends) == ["TaskFinished", "TaskFailed", "TaskFinished"]
    assert reason in ends[1].reason
    assert ends[1].retryable
    assert card.drawn == [["a cat", bad, "a dog"], ["a cat"], [bad], ["a dog"]]
    assert not card.worker.broken


async def test_image_stopped_x_while_its_failed_batch_is_drawn_apart_x_is_not_drawn(
    card: Card,
) -> None:
    poison, slow, stopped = card.give("poison", "slow", "a dog")
    await card.until(lambda: bool(card.said("progress")))  # "slow" alone, its second try
    card.worker.stop(stopped)
    assert kinds(await card.ended(poison, stopped)) == ["TaskFailed", "TaskStopped"]
    card.worker.stop(slow)
    await card.ended(slow)
    assert card.drawn[1:] == [["poison"], ["slow"]]


async def test_model_that_cannot_be_loaded_x_fails_its_batch_at_once(card: Card) -> None:
    ends = await card.ended(*card.give("broken", "a cat"))
    assert kinds(ends) == ["TaskFailed"] * 2
    assert not ends[0].retryable
    assert len(card.drawn) == 1


async def test_batch_too_big_for_the_memory_x_is_drawn_apart_and_less_is_dared(card: Card) -> None:
    ends = await card.ended(*card.give("big", "big", "big", "big", width=128, height=128))
    assert kinds(ends) == ["TaskFinished"] * 4
    assert [len(prompts) for prompts in card.drawn] == [4, 1, 1, 1, 1]
    assert [info.most_together for said in card.said("cards_changed") for info in said.cards] == [0]
    await card.ended(*card.give("a", "b", job="next"))
    assert [len(prompts) for prompts in card.drawn[5:]] == [1, 1]


async def test_out_of_memory_again_and_again_x_replaces_the_engine_but_condemns_no_card(
    card: Card,
) -> None:
    for job in range(8):
        (end,) = await card.ended(*card.give("huge", job=f"job{job}"))
        assert isinstance(end, pb.TaskFailed)
    assert len({pid for pid, _ in fake_engine.calls(card.folder)}) == 4
    assert card.modes == []


async def test_bad_prompts_again_and_again_x_condemn_no_card(card: Card) -> None:
    for job in range(8):
        await card.ended(*card.give("poison", job=f"job{job}"))
    assert card.modes == []
    assert ["a red cube"] in card.drawn  # the test picture told the prompts from the card
    assert kinds(await card.ended(*card.give("a cat", job="last"))) == ["TaskFinished"]


async def test_card_that_draws_nothing_any_more_x_is_broken_gives_back_and_mends(
    card: Card,
) -> None:
    card.health("ill")
    keys = [key for job in range(9) for key in card.give("a cat", job=f"job{job}")]
    await card.until(lambda: bool(card.worker.broken))
    ends = await card.ended(*keys)
    assert kinds(ends[:6]) == ["TaskFailed"] * 6  # two each with three engines
    assert kinds(ends[6:]) == ["TaskReleased"] * 3
    assert "test picture" in card.worker.broken
    assert card.modes[0] == pool_pb2.MODE_BROKEN
    assert card.said("mode_changed")[0].mode.reasons == [f"broken: {card.worker.broken}"]
    first_word = next(
        f for f in card.frames if f.WhichOneof("frame") in ("mode_changed", "released")
    )
    assert first_word.WhichOneof("frame") == "mode_changed", "it would be given them again"
    (in_heartbeat,) = card.owner.modes()
    assert in_heartbeat.mode == pool_pb2.MODE_BROKEN
    before = len(card.drawn)
    (late,) = await card.ended(*card.give("a cat", job="late"))
    assert isinstance(late, pb.TaskReleased)
    await asyncio.sleep(2)
    assert len(card.drawn) - before <= 8  # growing pauses, no hot loop
    async with asyncio.timeout(20):
        while len(card.drawn) == before:  # noqa: ASYNC110 -- another process writes it
            await asyncio.sleep(0.05)
    assert all(prompts == ["a red cube"] for prompts in card.drawn[before:])
    card.health("well")
    await card.until(lambda: not card.worker.broken)
    assert card.modes[-1] == pool_pb2.MODE_READY
    assert kinds(await card.ended(*card.give("a dog", job="then"))) == ["TaskFinished"]


async def test_engine_that_cannot_start_x_is_no_failure_of_the_images(card: Card) -> None:
    card.health("dead")
    keys = card.give("a cat", "a dog")
    ends = await card.ended(*keys)
    assert kinds(ends) == ["TaskReleased"] * 2
    assert "exit code 7" in ends[0].reason
    assert not card.said("started")
    card.health("well")
    await card.until(lambda: not card.worker.broken)
    assert kinds(await card.ended(*card.give("a cat", job="next"))) == ["TaskFinished"]


async def test_no_process_can_be_made_x_is_said_with_what_to_do_and_no_failure_of_the_images(
    card: Card, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    works = sys.executable
    monkeypatch.setattr("sys.executable", str(tmp_path / "gone"))
    (end,) = await card.ended(*card.give("a cat"))
    assert isinstance(end, pb.TaskReleased)
    assert "needs attention" in end.reason
    assert f"cannot be started (No such file or directory at {tmp_path / 'gone'})" in end.reason
    monkeypatch.setattr("sys.executable", works)
    await card.until(lambda: not card.worker.broken)


async def test_model_file_is_cut_x_model_is_set_aside_before_its_images_go_back(
    card: Card, tmp_path: Path
) -> None:
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"12345")
    card.worker._models[DREAM].files = (FileStamp.of(file),)
    file.write_bytes(b"1")
    drawn, waiting = card.give("a cat"), card.give("a dog", job="waiting")
    ends = await card.ended(*drawn, *waiting)
    assert kinds(ends) == ["TaskReleased"] * 2
    assert "model 'dream' can't be used here" in ends[0].reason
    assert "weights.safetensors has 1 bytes and not 5" in ends[0].reason
    names = [frame.WhichOneof("frame") for frame in card.frames]
    assert names.index("cards_changed") < names.index("released"), "it would come back at once"
    card.give("a cow", job="crossed")
    assert "no model" in card.said("refused")[0].reason
    assert card.drawn == []


async def test_progress_of_a_batch_x_is_no_more_frames_than_of_one_image(card: Card) -> None:
    keys = card.give(*["slow"] * 8)
    await card.until(lambda: bool(card.said("progress")))
    began, before = time.monotonic(), len(card.said("progress"))
    await asyncio.sleep(2)
    frames = len(card.said("progress")) - before
    assert 8 <= frames <= 10 * (time.monotonic() - began) + 8
    for key in keys:
        card.worker.stop(key)
    await card.ended(*keys)
