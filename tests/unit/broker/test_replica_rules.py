"""Who plans for an account, and until when: decided from values alone."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foxden_broker.replica_rules import is_free, pause_before_taking, preference, term
from foxden_broker.store.base import SchedulingLease
from foxden_proto.timers import Timers

TIMERS = Timers()
IDS = st.sets(st.text("abcdef0123456789", min_size=1, max_size=8), min_size=1, max_size=8)


@given(st.text(max_size=12), IDS)
def test_every_replica_ranks_the_living_ones_alike(account: str, ids: set[str]) -> None:
    assert preference(account, sorted(ids)) == preference(account, sorted(ids, reverse=True))
    assert sorted(preference(account, ids)) == sorted(ids)


@given(st.text(max_size=12), IDS, st.data())
def test_a_replica_that_goes_moves_only_its_own_accounts(
    account: str, ids: set[str], data: st.DataObject
) -> None:
    gone = data.draw(st.sampled_from(sorted(ids)))
    before = [r for r in preference(account, ids) if r != gone]
    assert preference(account, ids - {gone}) == before


def test_accounts_spread_evenly_over_the_living_replicas() -> None:
    first = Counter(preference(f"account-{i}", ["r1", "r2", "r3"])[0] for i in range(3000))
    assert all(900 < count < 1100 for count in first.values()), first


@pytest.mark.parametrize(
    ("lease", "free"),
    [
        (None, True),
        (SchedulingLease("den", "", 3, 0), True),  # given up
        (SchedulingLease("den", "r1", 3, 999), True),  # run out
        (SchedulingLease("den", "r1", 3, 1000), True),  # at this very moment
        (SchedulingLease("den", "r1", 3, 1001), False),
    ],
)
def test_free_is_what_nobody_holds(lease: SchedulingLease | None, free: bool) -> None:
    assert is_free(lease, 1000) is free


def test_free_account_is_tried_by_the_preferred_replica_at_once_and_by_others_in_turn() -> None:
    order = preference("den", ["r1", "r2", "r3"])
    pauses = [pause_before_taking("den", me, ["r1", "r2", "r3"], 0.0, TIMERS) for me in order]
    assert pauses == [0.0, TIMERS.scheduling_renewal, 2 * TIMERS.scheduling_renewal]


def test_free_account_whose_preferred_replica_does_not_come_is_taken_by_the_next() -> None:
    second = preference("den", ["r1", "r2"])[1]
    waited = TIMERS.scheduling_renewal
    assert pause_before_taking("den", second, ["r1", "r2"], waited, TIMERS) == 0.0


def test_replica_that_nobody_sees_yet_counts_itself() -> None:
    assert pause_before_taking("den", "new", [], 0.0, TIMERS) == 0.0


def test_term_ends_before_the_lease_does_by_either_clock() -> None:
    held = term(100.0, 5_000_000, TIMERS)
    lease_end, lease_end_ms = 100.0 + TIMERS.scheduling_lease, 5_000_000 + 15_000
    assert held.holds(lease_end - 2, lease_end_ms - 2000)
    assert not held.holds(lease_end - 0.5, lease_end_ms - 2000)  # slept: monotonic went on
    assert not held.holds(lease_end - 2, lease_end_ms - 500)  # suspended: the wall clock went on


def test_timers_leave_room_for_two_failed_renewals_and_for_agents_to_come_back() -> None:
    assert 3 * TIMERS.scheduling_renewal <= TIMERS.scheduling_lease
    assert TIMERS.scheduling_lease + TIMERS.hello < TIMERS.lease_lost
    assert TIMERS.silent < TIMERS.scheduling_lease  # a dead owner is no candidate any more
