"""What goes when another model needs room, and how long things may take."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foxden_agent.model_cache import (
    History,
    ModelCache,
    idle,
    make_room,
    memory_is_back,
    ram_budget,
)
from foxden_proto.timers import Timers
from foxden_proto.v1.pool_pb2 import TIER_DISK, TIER_NETWORK, TIER_RAM, TIER_VRAM

GIB = 1024**3
names = st.sampled_from("abcdefgh")
sizes = st.dictionaries(names, st.integers(0, 20 * GIB), max_size=8)
events = st.lists(
    st.tuples(names, st.floats(0, 5000), st.sampled_from(["use", "load"]), st.floats(0.1, 300)),
    max_size=30,
)


def history(of: list[tuple[str, float, str, float]]) -> History:
    made = History()
    for model, at, what, seconds in sorted(of, key=lambda event: event[1]):
        if what == "use":
            made.used(model, at)
        else:
            made.loaded(model, seconds, TIER_DISK)
    return made


@given(sizes, st.integers(0, 60 * GIB), st.integers(0, 30 * GIB), events, st.sets(names))
def test_room_is_made_where_it_can_be_and_nothing_goes_in_vain(
    there: dict[str, int], wanted: int, free: int, past: list[tuple[str, float, str, float]],
    keep: set[str],
) -> None:  # fmt: skip
    out = make_room(wanted, there, free, 5000.0, history(past), keep)
    assert len(set(out)) == len(out)
    assert set(out) <= there.keys() - keep
    freed = sum(there[model] for model in out)
    possible = sum(size for model, size in there.items() if model not in keep)
    assert free + freed >= min(wanted, free + possible)
    for model in out:
        assert free + freed - there[model] < wanted, "it would have fitted with this one, too"


@given(st.lists(st.floats(0, 5000), min_size=1, max_size=20), st.floats(0, 1e6))
def test_expected_use_only_sinks_while_a_model_is_not_used(uses: list[float], later: float) -> None:
    made = History()
    for at in sorted(uses):
        made.used("a", at)
    now = made.expected_uses("a", max(uses))
    assert 0 < made.expected_uses("a", max(uses) + later) <= now <= len(uses) + 1


def test_the_one_that_loads_slowly_stays() -> None:
    past = History()
    for model, seconds in (("slow", 60.0), ("quick", 3.0)):
        past.used(model, 0.0)
        past.loaded(model, seconds, TIER_DISK)
    assert make_room(GIB, {"slow": GIB, "quick": GIB}, 0, 10.0, past) == ("quick",)


def test_the_one_that_is_used_often_stays_though_another_was_used_later() -> None:
    past = History()
    for at in range(10):
        past.used("often", float(at))
    past.used("once", 20.0)
    assert make_room(GIB, {"often": GIB, "once": GIB}, 0, 21.0, past) == ("once",)


def test_hours_later_the_one_used_last_stays() -> None:
    past = History()
    for at in range(10):
        past.used("often", float(at))
    past.used("lately", 7200.0)
    assert make_room(GIB, {"often": GIB, "lately": GIB}, 0, 7201.0, past) == ("often",)


def test_a_clock_that_jumps_back_raises_no_expectation() -> None:
    past = History()
    past.used("a", 5000.0)
    assert past.expected_uses("a", 0.0) == pytest.approx(1.0, rel=1e-3)
    past.used("a", 0.0)
    assert past.expected_uses("a", 5000.0) == pytest.approx(2.0, rel=1e-3)


@pytest.mark.parametrize("seconds", [-1.0, 0.0, math.nan, math.inf, 1e9])
def test_a_senseless_load_time_teaches_nothing(seconds: float) -> None:
    past = History()
    before = past.reload_seconds("a", GIB, TIER_DISK)
    past.loaded("a", seconds, TIER_DISK)
    past.loaded("a", 5.0, TIER_NETWORK)
    assert past.reload_seconds("a", GIB, TIER_DISK) == before


@given(st.integers(1, 512 * GIB), st.floats(0, 1), st.floats(0, 1))
def test_models_that_wait_leave_the_owner_room(total: int, free: float, waits: float) -> None:
    available = int(total * free)
    waiting = int((total - available) * waits)
    budget = ram_budget(total, available, waiting)
    assert 0 <= budget <= total / 4
    if budget > waiting:  # more may come: what is left then is the owner's
        assert available - (budget - waiting) >= min(2 * GIB, available)
        assert available - (budget - waiting) >= 0.15 * total - 1


def test_freed_memory_that_the_driver_does_not_show_yet_is_not_loaded_into() -> None:
    assert not memory_is_back(GIB, GIB, 4 * GIB)
    assert not memory_is_back(GIB, 3 * GIB, 4 * GIB)
    assert memory_is_back(GIB, 4 * GIB, 4 * GIB)


def test_an_engine_is_idle_after_the_setting_and_never_with_0() -> None:
    assert not idle(599.0, 0.0, 600.0)
    assert idle(600.0, 0.0, 600.0)
    assert not idle(1e9, 0.0, 0.0)


def test_a_load_may_take_longer_the_bigger_the_model_up_to_a_limit() -> None:
    timers = Timers()
    assert timers.load_deadline(0) == timers.load_deadline(-5) == 300
    assert timers.load_deadline(70 * GIB) == 300 + 70 * 20
    assert timers.load_deadline(10**18) == 3600
    assert timers.scaled(0.1).load_deadline(GIB) == pytest.approx(32)


def test_a_model_is_in_one_tier_at_a_time() -> None:
    cache = ModelCache()
    cache.brought("a", 5, TIER_RAM)
    cache.brought("a", 7, TIER_VRAM)
    assert (dict(cache.in_vram), dict(cache.in_ram)) == ({"a": 7}, {})
    cache.gone(["a", "unknown"], TIER_RAM)
    assert (dict(cache.in_vram), dict(cache.in_ram)) == ({}, {"a": 7})
    assert cache.tier("a") == TIER_RAM
    cache.engine_gone()
    assert cache.tier("a") == TIER_DISK
