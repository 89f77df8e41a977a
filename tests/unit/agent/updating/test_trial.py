"""What becomes of a version on trial, and whether it is tried again."""

from __future__ import annotations

import pytest

from foxden_agent.updating.trial import Trial, Tried, Verdict

HOUR = 3600.0
PATIENCE = 300.0
PAUSE = 6 * HOUR


@pytest.mark.parametrize(
    ("starts", "online", "alive", "seconds", "verdict"),
    [
        (1, False, True, 10.0, Verdict.WAIT),
        (1, True, True, 10.0, Verdict.CONFIRM),
        (1, False, True, 300.0, Verdict.BACK),
        (1, False, False, 10.0, Verdict.WAIT),
        (3, False, False, 10.0, Verdict.BACK),
        (3, True, True, 299.0, Verdict.CONFIRM),
    ],
)
def test_trial_ends_with_a_link_or_with_the_version_before(
    starts: int, online: bool, alive: bool, seconds: float, verdict: Verdict
) -> None:
    trial = Trial("0.2.0", "0.1.0", starts)
    found = trial.judge(online=online, alive=alive, seconds=seconds, patience=300.0)
    assert found is verdict


def test_end_of_the_service_is_no_end_of_the_agent() -> None:
    assert Trial("0.2.0", "0.1.0").started().started().stopped().starts == 1


def one_trial(tried: Tried, now: float, *, online: bool, deadly: bool = False) -> Tried:
    """It fails at `now`; the version before is online soon after it, or not in time."""
    ended = tried.ended(now, deadly=deadly)
    assert "will be known" in ended.objection(now, PAUSE)
    assert ended.settled(online=False, seconds=PATIENCE - 1, patience=PATIENCE) == ended
    seconds = 10.0 if online else PATIENCE
    return ended.settled(online=online, seconds=seconds, patience=PATIENCE)


def test_version_fails_where_the_one_before_gets_online_and_is_left_alone_after_three_times() -> (
    None
):
    tried = Tried("0.2.0")
    for day in range(1, 4):
        assert tried.objection(day * 100 * HOUR, PAUSE) == ""
        tried = one_trial(tried, day * 100 * HOUR, online=True)
    for asked in (False, True):
        assert "not tried again" in tried.objection(1e9, PAUSE, asked=asked)


def test_network_that_is_away_bars_no_version_however_often() -> None:
    tried, now = Tried("0.2.0"), 0.0
    for _ in range(20):
        tried = one_trial(tried, now, online=False)
        assert tried.objection(now + 1, PAUSE)
        now += 8 * 24 * HOUR
        assert tried.objection(now, PAUSE) == ""
    assert tried.failures == 0


@pytest.mark.parametrize(("times", "hours"), [(1, 6), (2, 24), (3, 96), (4, 168), (9, 168)])
def test_pauses_between_trials_grow_to_a_week(times: int, hours: int) -> None:
    tried = Tried("0.2.0", times, last=1e6)
    assert f"in {hours} h" in tried.objection(1e6, PAUSE)
    assert "in 1 h" in tried.objection(1e6 + hours * HOUR - 1, PAUSE)
    assert tried.objection(1e6 + hours * HOUR, PAUSE) == ""
    assert tried.objection(1e6, PAUSE, asked=True) == ""


def test_clock_that_was_set_back_makes_no_pause_longer() -> None:
    assert Tried("0.2.0", 1, last=1e9).objection(1e6, PAUSE) == ""


def test_version_that_takes_the_pc_down_is_not_tried_twice() -> None:
    assert "not tried again" in one_trial(Tried("0.2.0"), 0.0, online=True, deadly=True).objection(
        1e9, PAUSE
    )
    away = one_trial(Tried("0.2.0"), 0.0, online=False, deadly=True)
    assert away.objection(1e9, PAUSE) == ""


def test_program_that_does_not_start_here_is_tried_three_times() -> None:
    tried = Tried("0.2.0")
    for now in (0.0, 1e6, 2e6):
        assert tried.objection(now, PAUSE) == ""
        tried = tried.unfit(now)
    assert "not tried again" in tried.objection(1e9, PAUSE)
