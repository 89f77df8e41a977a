"""Limits of members: which is hit, what is said, when it frees. And the tally behind them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from foxden_broker.quotas import Defaults, Tally, Used, day_of, refusal, room
from foxden_broker.store.base import Quota, Usage
from foxden_proto.problems import Problem, Reason

NOW = datetime(2026, 11, 22, 18, 0, tzinfo=UTC)
DAY_MS = 86_400_000


def asked(
    images: int = 1, *, quota: Quota | None = None, most: int = 10, account: int = 20, **used: float
) -> Problem | None:
    values = {"queued": 0, "queued_in_account": 0, "gpu_seconds_today": 0.0} | used
    return refusal("ann", images, quota, Defaults(most, account), Used(**values), NOW)  # type: ignore[arg-type]


def retry_after(problem: Problem | None) -> float | None:
    assert problem is not None
    assert problem.reason is Reason.QUOTA_EXCEEDED
    found = problem.facts.get("retry_after")
    return None if found is None else float(found)


@pytest.mark.parametrize(("queued", "images"), [(0, 10), (9, 1), (5, 5)])
def test_images_up_to_the_limit_fit(queued: int, images: int) -> None:
    assert asked(images, queued=queued) is None


def test_one_image_more_is_refused_naming_limit_use_and_pause() -> None:
    problem = asked(3, queued=9, pace=0.5)
    assert retry_after(problem) == 4.0  # 2 too many at one in 2 s
    for part in ("ann may have 10 images waiting", "has 9", "4 s"):
        assert part in str(problem)


def test_member_whose_images_do_not_move_is_told_a_minute() -> None:
    assert retry_after(asked(1, queued=10, pace=0.0)) == 60.0


def test_pause_is_an_hour_at_most_and_a_second_at_least() -> None:
    assert retry_after(asked(1, queued=10, pace=1e-6)) == 3600.0
    assert retry_after(asked(1, queued=10, pace=1e6)) == 1.0


def test_more_at_once_than_ever_fits_is_refused_without_a_pause() -> None:
    problem = asked(11)
    assert retry_after(problem) is None
    assert "count of 10" in str(problem)


def test_the_accounts_limit_holds_where_the_members_does_not() -> None:
    problem = asked(2, queued=1, queued_in_account=19, pace_of_account=1.0)
    assert "this account may have 20" in str(problem)
    assert retry_after(problem) == 1.0


def test_own_limit_goes_before_the_default_both_ways() -> None:
    assert asked(1, quota=Quota("ann", 3, 0, 0.0), queued=3) is not None
    assert asked(1, quota=Quota("ann", 15, 0, 0.0), queued=12, most=10) is None
    assert asked(1, quota=Quota("ann", 0, 0, 0.0), queued=10) is not None


def test_zero_is_no_limit() -> None:
    assert asked(1000, most=0, account=0, queued=10**6, queued_in_account=10**6) is None


def test_card_time_of_today_is_free_again_at_midnight_utc() -> None:
    quota = Quota("ann", 0, 0, 100.0)
    assert asked(1, quota=quota, gpu_seconds_today=99.9) is None
    problem = asked(1, quota=quota, gpu_seconds_today=100.0)
    assert retry_after(problem) == 6 * 3600
    assert "midnight UTC" in str(problem)


# The tally


def test_images_are_counted_through_queue_and_cards() -> None:
    tally = Tally()
    tally.waits("ann", 5, 2)
    tally.waits("ann", -2, 2)
    tally.runs("ann", 2)
    tally.waits("bob", 1, 3)
    assert (tally.queued("ann"), tally.running("ann"), tally.queued_in_account) == (3, 2, 4)
    assert tally.depth == {2: 3, 3: 1}
    assert tally.members() == {"ann", "bob"}


def test_images_on_their_way_into_the_store_take_their_place_meanwhile() -> None:
    tally = Tally()
    with tally.expected("ann", 4):
        assert tally.queued("ann") == 4
    assert (tally.queued("ann"), tally.depth, tally.members()) == (0, {}, set())


def test_card_time_is_forgotten_with_the_day() -> None:
    tally = Tally()
    tally.used("ann", 2500, DAY_MS - 1)
    tally.used("ann", 500, DAY_MS - 1)
    assert tally.gpu_seconds_today("ann", DAY_MS - 1) == 3.0
    assert tally.gpu_seconds_today("ann", DAY_MS) == 0.0


def test_what_the_store_counted_replaces_what_was_counted_here() -> None:
    tally = Tally()
    tally.used("ann", 9000, 0)
    day = day_of(0)
    tally.recount(day, [Usage("ann", day, 1, 4000), Usage("ann", "1969-12-31", 1, 70_000)])
    assert tally.gpu_seconds_today("ann", 1) == 4.0


def test_pace_follows_what_left_and_fades() -> None:
    tally = Tally()
    for second in range(600):
        tally.left("ann", float(second))
    pace = tally.now("ann", 599.0, 0).pace
    assert 0.9 < pace < 1.1
    assert tally.now("ann", 659.0, 0).pace == pytest.approx(pace / 2)
    assert tally.now("bob", 599.0, 0).pace == 0.0
    assert tally.now("bob", 599.0, 0).pace_of_account == pytest.approx(pace)


def test_room_is_what_is_left_of_each_cap() -> None:
    tally = Tally()
    tally.runs("ann", 3)
    tally.runs("cat", 9)
    quotas = [Quota("ann", 0, 5, 0), Quota("bob", 7, 0, 0), Quota("cat", 0, 4, 0)]
    assert room(quotas, tally) == {"ann": 2, "cat": 0}
