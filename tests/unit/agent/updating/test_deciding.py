"""Which release an agent takes, and what becomes of one on trial."""

from __future__ import annotations

from dataclasses import replace

import pytest

from foxden_agent.updating.deciding import Fetch, Here, Nothing, Start, decide, place
from foxden_agent.updating.manifest import Manifest, ReleaseFile
from foxden_agent.updating.trial import Trial, Verdict
from foxden_agent.updating.yielding import RestartAsked, ask, nobody_minds, run
from foxden_proto.v1.pool_pb2 import (
    MODE_GAMING,
    MODE_HOT,
    MODE_PAUSED,
    MODE_QUIET_HOURS,
    MODE_READY,
)

FILE = ReleaseFile("foxden.tar.xz", "ab" * 32, 1000)
RELEASE = Manifest(7, "0.2.0", "0.1.0", 1.0, {"linux-x86_64": FILE}, 0.0)
HERE = Here("0.1.0", "linux-x86_64", "agent-1", serial=6)


def test_newer_release_is_fetched_then_started() -> None:
    assert decide(RELEASE, HERE) == Fetch("0.2.0", FILE)
    assert decide(RELEASE, replace(HERE, ready="0.2.0")) == Start("0.2.0")
    assert decide(RELEASE, replace(HERE, ready="0.1.5")) == Fetch("0.2.0", FILE)


@pytest.mark.parametrize(
    ("release", "here", "why"),
    [
        (replace(RELEASE, version="0.1.0"), HERE, "newest"),
        (replace(RELEASE, version="0.0.9"), HERE, "newest"),  # never back
        (replace(RELEASE, serial=5), HERE, "old description"),
        (RELEASE, replace(HERE, bad=frozenset({"0.2.0"})), "did not get online"),
        (replace(RELEASE, minimum="0.1.1"), HERE, "install it anew"),
        (RELEASE, replace(HERE, platform="windows-x86_64"), "windows-x86_64"),
        (replace(RELEASE, share=0.0), HERE, "0% of all"),
    ],
)
def test_release_that_is_not_for_here_is_left_with_the_reason(
    release: Manifest, here: Here, why: str
) -> None:
    found = decide(release, here)
    assert isinstance(found, Nothing)
    assert why in found.reason


def test_share_takes_its_part_of_the_agents_and_other_ones_each_time() -> None:
    def taking(version: str) -> set[int]:
        release = replace(RELEASE, share=0.1, version=version)
        agents = {n: replace(HERE, agent_id=f"agent-{n}") for n in range(1000)}
        return {n for n, here in agents.items() if isinstance(decide(release, here), Fetch)}

    first, second = taking("0.2.0"), taking("0.2.1")
    assert 70 <= len(first) <= 130
    assert len(first & second) < 30


def test_larger_share_keeps_those_of_the_smaller() -> None:
    assert all(0.0 <= place(f"agent-{n}", "0.2.0") < 1.0 for n in range(100))
    assert place("agent-1", "0.2.0") == place("agent-1", "0.2.0")


def test_person_who_asks_does_not_wait_for_his_share() -> None:
    release = replace(RELEASE, share=0.0)
    assert decide(release, replace(HERE, asked=True)) == Fetch("0.2.0", FILE)


@pytest.mark.parametrize(
    ("starts", "online", "alive", "seconds", "verdict"),
    [
        (1, False, True, 10.0, Verdict.WAIT),
        (1, True, True, 10.0, Verdict.CONFIRM),
        (1, False, True, 300.0, Verdict.BACK),
        (1, False, False, 10.0, Verdict.WAIT),
        (3, False, False, 10.0, Verdict.BACK),
        (4, False, True, 10.0, Verdict.BACK),  # the PC went down with each of three starts
        (3, True, True, 299.0, Verdict.CONFIRM),
    ],
)
def test_trial_ends_with_a_link_or_with_the_version_before(
    starts: int, online: bool, alive: bool, seconds: float, verdict: Verdict
) -> None:
    trial = Trial("0.2.0", "0.1.0", starts)
    found = trial.judge(online=online, alive=alive, seconds=seconds, patience=300.0)
    assert found is verdict


@pytest.mark.parametrize(
    ("busy", "modes", "may"),
    [
        (False, [MODE_READY], True),
        (True, [MODE_READY], False),
        (False, [MODE_READY, MODE_GAMING], False),
        (False, [MODE_PAUSED, MODE_QUIET_HOURS, MODE_HOT], True),
        (False, [], True),
    ],
)
def test_agent_may_end_when_nothing_is_drawn_and_no_game_runs(
    busy: bool, modes: list[int], may: bool
) -> None:
    assert nobody_minds(busy=busy, modes=modes) is may  # type: ignore[arg-type]


async def test_agent_ends_once_it_was_asked_and_has_been_quiet_for_a_while(tmp_path) -> None:  # type: ignore[no-untyped-def]
    minds = iter([False, False, True, *[False] * 20])
    looks = []

    async def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 2:
            ask(tmp_path, "a test")

    with pytest.raises(RestartAsked):
        await run(tmp_path, lambda: next(minds), sleep)
    # Asked before the 2nd look; the 3rd answer is that somebody minds; then five quiet ones.
    assert len(looks) >= 7
    assert not list(tmp_path.iterdir())
