"""What the agent tells the service of its owner, and when it makes way."""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from foxden_agent.policy.values import Code, Decision, Reason
from foxden_agent.updating import yielding
from foxden_agent.updating.yielding import (
    ASKED,
    MAY,
    WAITS,
    Asking,
    OwnerCame,
    RestartAsked,
    Stopped,
    ask,
    nobody_minds,
    run,
    why_waits,
)
from foxden_proto.v1 import pool_pb2

READY = Decision()
_FACTS = {
    Code.FULL_SCREEN: (("program", "game.exe"),),
    Code.PROGRAM: (("program", "game.exe"),),
    Code.CARD_GONE: (("problem", "It fell off its bus"),),
}


def because(*codes: Code) -> Decision:
    reasons = tuple(Reason(code, _FACTS.get(code, ())) for code in codes)
    return Decision(mode=pool_pb2.MODE_PAUSED, reasons=reasons)


GAME = because(Code.FULL_SCREEN)


@pytest.mark.parametrize(
    ("busy", "decisions", "may"),
    [
        (False, [READY], True),
        (True, [READY], False),
        (False, [READY, GAME], False),
        # Paused by hand and played on: the mode is "paused", and it is a game all the same.
        (False, [because(Code.OWNER, Code.FULL_SCREEN)], False),
        (False, [because(Code.CARD_GONE, Code.PROGRAM)], False),
        (False, [because(Code.OWNER), because(Code.QUIET_HOURS), because(Code.HOT)], True),
        (False, [], True),
    ],
)
def test_agent_may_end_when_nothing_is_drawn_and_no_game_runs(
    busy: bool, decisions: Sequence[Decision], may: bool
) -> None:
    assert nobody_minds(busy=busy, decisions=decisions) is may


@pytest.mark.parametrize("code", list(Code))
def test_heavy_work_waits_for_whatever_is_the_owners(code: Code) -> None:
    not_his = {Code.CARD_GONE, Code.ENGINE_BROKEN, Code.OVER_BUDGET, Code.HOT, Code.WARM}
    found = why_waits([READY, because(Code.HOT, code)])
    assert (found is None) is (code in not_his)


class Looks:
    """Sleeps of the agent's loop: something happens before each of them."""

    def __init__(self, *then: Callable[[], None]) -> None:
        self._then, self.count = list(then), 0

    async def __call__(self, seconds: float) -> None:
        if self.count >= len(self._then):
            raise EOFError
        self._then[self.count]()
        self.count += 1


def agent(
    folder: Path,
    decisions: Callable[[], Sequence[Decision]],
    sleep: Callable[[float], Awaitable[None]],
) -> Awaitable[None]:
    return run(folder, lambda: False, decisions, sleep)


async def test_agent_ends_once_it_was_asked_and_has_been_quiet_for_a_while(tmp_path: Path) -> None:
    nothing = lambda: None  # noqa: E731
    looks = Looks(nothing, lambda: ask(tmp_path, "a test"), *[nothing] * 20)
    playing = iter([READY, READY, READY, GAME, *[READY] * 100])
    with pytest.raises(RestartAsked):
        await agent(tmp_path, lambda: [next(playing)], looks)
    assert looks.count >= 7
    assert os.listdir(tmp_path) == []


async def test_agent_says_nothing_until_it_is_asked_and_then_why_the_update_waits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    now: list[Decision] = []
    told: list[str | None] = []

    def hear() -> None:
        told.append((tmp_path / MAY).read_text() if (tmp_path / MAY).exists() else None)

    def then(*decisions: Decision) -> Callable[[], None]:
        return lambda: (hear(), now.clear(), now.extend(decisions))[0]

    looks = Looks(
        then(READY),
        lambda: (then()(), (tmp_path / WAITS).touch())[0],  # asked before the first reading
        then(READY),
        then(GAME),
        then(READY, because(Code.OWNER)),
        lambda: (hear(), (tmp_path / WAITS).unlink())[0],
        hear,
    )
    with pytest.raises(EOFError):
        await agent(tmp_path, lambda: now, looks)
    game = "no: paused: game.exe is full screen"
    assert told == [
        None,
        None,
        None,
        "yes",
        game,
        "no: paused: by you, until `foxden resume`",
        None,
    ]
    assert sum("game.exe" in line for line in caplog.messages) == 1  # said on the owner's page


async def test_answer_is_renewed_without_being_written_anew(tmp_path: Path) -> None:
    (tmp_path / WAITS).touch()
    stamps: list[tuple[int, int]] = []

    def hear() -> None:
        if (tmp_path / MAY).exists():
            found = (tmp_path / MAY).stat()
            stamps.append((found.st_ino, found.st_mtime_ns))
            os.utime(tmp_path / MAY, (1, 1))

    with pytest.raises(EOFError):
        await agent(tmp_path, lambda: [READY], Looks(*[hear] * 4))
    assert len({inode for inode, _ in stamps}) == 1
    assert all(stamp > 10**9 for _, stamp in stamps)


async def test_folder_that_cannot_be_written_ends_no_agent(tmp_path: Path) -> None:
    (tmp_path / WAITS).touch()
    (tmp_path / MAY).mkdir()
    with pytest.raises(EOFError):
        await agent(tmp_path, lambda: [READY], Looks(*[lambda: None] * 3))


@pytest.fixture
def asking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asking:
    monkeypatch.setattr(yielding, "_CHECK_SECONDS", 0.0)
    monkeypatch.setattr(yielding, "_ANSWER_SECONDS", 0.0)
    return Asking(tmp_path, threading.Event())


def answer(folder: Path, text: str) -> None:
    (folder / MAY).unlink(missing_ok=True)
    (folder / MAY).write_text(text)


def test_service_waits_for_an_agent_that_says_yes(asking: Asking, tmp_path: Path) -> None:
    with pytest.raises(OwnerCame, match="has not said yet"):
        asking.check()
    assert (tmp_path / WAITS).exists()
    answer(tmp_path, "yes")
    asking.check()
    answer(tmp_path, "no: paused: game.exe is running")
    with pytest.raises(OwnerCame, match=r"^paused: game\.exe is running$"):
        asking.check()
    asking.close()
    assert not (tmp_path / WAITS).exists()


@pytest.mark.parametrize("left", ["", "y", "nonsense"])
def test_answer_that_a_full_disk_cut_is_no_yes(asking: Asking, tmp_path: Path, left: str) -> None:
    with pytest.raises(OwnerCame):
        asking.check()
    answer(tmp_path, left)
    with pytest.raises(OwnerCame, match="has not said yet"):
        asking.check()


def test_yes_of_an_agent_that_is_gone_counts_for_nothing(
    asking: Asking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(tmp_path, "yes")
    with pytest.raises(OwnerCame, match="has not said yet"):
        asking.check()  # whose it is nobody knows
    answer(tmp_path, "yes")
    os.utime(tmp_path / MAY, (10**10, 10**10))  # by another clock
    asking.check()
    monkeypatch.setattr(yielding, "_FRESH_SECONDS", 0.0)
    with pytest.raises(OwnerCame, match="has not said yet"):
        asking.check()


def test_agent_that_says_nothing_for_an_hour_is_updated(
    asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OwnerCame):
        asking.check()
    monkeypatch.setattr(yielding, "_SILENT_SECONDS", 0.0)
    asking.check()


def test_first_answer_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or each look would say first that the agent said nothing."""
    monkeypatch.setattr(yielding, "_CHECK_SECONDS", 0.05)
    threading.Timer(0.3, answer, (tmp_path, "yes")).start()
    Asking(tmp_path, threading.Event()).check()


def test_end_of_the_service_ends_the_waiting(tmp_path: Path) -> None:
    stop = threading.Event()
    waiting = Asking(tmp_path, stop)
    threading.Timer(0.1, stop.set).start()
    with pytest.raises(Stopped):
        waiting.wait()


def test_restart_is_asked_for_once(tmp_path: Path) -> None:
    ask(tmp_path, "first")
    ask(tmp_path, "second")
    assert (tmp_path / ASKED).read_text() == "first"
