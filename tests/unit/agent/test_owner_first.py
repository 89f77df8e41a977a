"""Readings of the owner's PC, and what becomes of the card, its engine and the broker's view."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import fake_engine
import psutil
import pytest
import pytest_asyncio
from one_card import QUICK, Card, at_work, kinds

from foxden_agent.owner_first import available, told
from foxden_agent.readings import CardProcess, CardReadings
from foxden_agent.watching import driver_errors
from foxden_proto.v1 import link_pb2 as pb
from foxden_proto.v1 import pool_pb2

GIB = 1024**3
HOLD = 35  # seconds after which what stopped the card is forgotten


@pytest_asyncio.fixture
async def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Card]:
    async with at_work(tmp_path, monkeypatch, timers=QUICK) as made:
        yield made


async def drawing(card: Card) -> psutil.Process:
    await card.until(lambda: len(card.said("progress")) >= 3)
    return psutil.Process(fake_engine.calls(card.folder)[-1][0])


async def test_game_fills_the_screen_x_told_at_once_given_back_and_lent_again_after_it(
    card: Card,
) -> None:
    (key,) = card.give("slow")
    engine = await drawing(card)
    card.read(full_screen="witcher3.exe")
    said = [frame.WhichOneof("frame") for frame in card.frames]
    assert said.index("mode_changed") < said.index("released"), "the broker would send more work"
    (mode,) = card.said("mode_changed")
    assert mode.mode.mode == pool_pb2.MODE_GAMING
    assert "witcher3.exe" in mode.mode.reasons[0]
    (ended,) = await card.ended(key)
    assert ended.checkpoint.step >= 1
    await card.worker.held.last_things(5)
    assert not engine.is_running()
    card.give("a cat", job="crossed")
    (refused,) = card.said("refused")
    assert refused.not_ready
    assert "witcher3.exe" in refused.reason

    for _ in range(HOLD):
        card.read()
    assert card.modes[-1] == pool_pb2.MODE_READY
    (again,) = card.give("a cat", job="later")
    assert kinds(await card.ended(again)) == ["TaskFinished"]


@pytest.mark.parametrize("code", [driver_errors.GPU_IS_LOST, 9])
async def test_card_is_lost_while_it_draws_x_given_back_said_and_lent_again_when_it_answers(
    card: Card, code: int
) -> None:
    (key,) = card.give("slow")
    engine = await drawing(card)
    problem = driver_errors.sentence(code, "")
    card.read(lost=problem)
    (mode,) = card.said("mode_changed")
    assert mode.mode.mode == pool_pb2.MODE_BROKEN
    assert problem.removesuffix(".") in mode.mode.reasons[0]
    (ended,) = await card.ended(key)
    assert isinstance(ended, pb.TaskReleased)
    assert ended.checkpoint.step >= 1
    await card.worker.held.last_things(5)
    assert not engine.is_running()
    for _ in range(6):
        card.read()
    assert card.modes[-1] == pool_pb2.MODE_READY
    (again,) = card.give("a cat", job="later")
    assert kinds(await card.ended(again)) == ["TaskFinished"]


async def test_same_reason_again_x_is_told_once(card: Card) -> None:
    for _ in range(5):
        card.read(full_screen="witcher3.exe")
    assert card.modes == [pool_pb2.MODE_GAMING]


async def test_broken_engine_x_is_a_mode_of_the_card_and_mends_while_it_is_lent(
    card: Card,
) -> None:
    card.health("ill")
    keys = [key for job in range(7) for key in card.give("a cat", job=f"job{job}")]
    await card.until(lambda: bool(card.modes))
    assert card.modes == [pool_pb2.MODE_BROKEN]
    await card.ended(*keys)
    card.health("well")
    await card.until(lambda: not card.worker.broken)
    assert card.modes[-1] == pool_pb2.MODE_READY


async def test_share_below_one_x_reaches_the_engine_and_those_after_it(card: Card) -> None:
    await card.worker._engine.set_share(0.5)
    (key,) = card.give("a cat")
    await card.ended(key)
    assert fake_engine.shares(card.folder) == [0.5]
    await card.worker._engine.set_share(0.25)
    assert fake_engine.shares(card.folder) == [0.5, 0.25]


async def test_card_that_was_not_read_yet_x_is_not_offered(tmp_path: Path) -> None:
    from foxden_agent.owner_first import OwnerFirst
    from foxden_agent.policy.owner_files import OwnersWill

    made = Card(tmp_path, 1)
    unread = OwnerFirst(made.owner._cards, made._agent, lambda: None, OwnersWill)
    (mode,) = unread.modes()
    assert mode.mode == pool_pb2.MODE_BROKEN
    assert not unread.first.is_set()


async def test_heartbeat_tells_what_was_read_and_nothing_that_was_not(tmp_path: Path) -> None:
    lent = next(iter(Card(tmp_path, 1).owner._cards.values()))
    lent.readings = CardReadings(
        *("cpu", 1.0),
        memory_total=8 * GIB,
        memory_used=3 * GIB,
        temperature=61.0,
        energy=7200.0,
        throttled=frozenset({"power", "heat"}),
        processes=(CardProcess(7, "game", GIB), CardProcess(8, "browser", GIB)),
    )
    lent.energy_at_start = 3600.0
    made = told(lent)
    assert (made.memory_used, made.temperature, made.energy) == (3 * GIB, 61.0, 1.0)
    assert made.foreign_memory == 2 * GIB
    assert list(made.throttled) == ["heat", "power"]
    assert not made.HasField("power")
    assert not made.HasField("fan")
    lent.readings = replace(lent.readings, present=False)
    assert not told(lent).HasField("memory_used")


@pytest.mark.parametrize(
    ("reading", "runs", "bytes_"),
    [
        (None, False, None),
        (CardReadings("cuda:0", 0.0, present=False, memory_free=GIB), False, None),
        (CardReadings("cuda:0", 0.0, memory_free=GIB), False, GIB),
        (CardReadings("cuda:0", 0.0, memory_free=GIB), True, None),
        (
            CardReadings(
                *("cuda:0", 0.0),
                memory_total=8 * GIB,
                memory_free=GIB,
                processes=(CardProcess(7, "game", 3 * GIB),),
            ),
            True,
            5 * GIB,
        ),
        (
            CardReadings(
                *("cuda:0", 0.0),
                memory_total=8 * GIB,
                processes=(CardProcess(7, "game"),),  # Windows keeps its memory to itself
            ),
            True,
            None,
        ),
    ],
)
def test_memory_that_is_ours_to_use(
    reading: CardReadings | None, runs: bool, bytes_: int | None
) -> None:
    assert available(reading, engine_runs=runs) == bytes_
