"""The owner-first policy, state by state: what is read -> what the card may do."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from evening import GIB, NOON, Evening, codes, modes

from foxden_agent.policy.sentences import sentences
from foxden_agent.policy.settings import Budget, Policy
from foxden_agent.policy.thresholds import Threshold
from foxden_agent.policy.timetable import Window
from foxden_agent.policy.values import Code
from foxden_agent.policy.wishes import Kind, Wish
from foxden_agent.readings import CardProcess
from foxden_proto.v1.pool_pb2 import (
    MODE_BROKEN,
    MODE_DRAINING,
    MODE_DUTY_CYCLED,
    MODE_GAMING,
    MODE_HOT,
    MODE_PAUSED,
    MODE_QUIET_HOURS,
    MODE_READY,
    Mode,
)

GAME = "witcher3.exe"
ONE_CAUSE = Policy(memory_taken=0)  # memory that others hold is also memory that they took


def others(memory: int) -> tuple[CardProcess, ...]:
    return (CardProcess(7, "some.exe", memory),)


# Ready, and one thing happens: (what is set, mode, code, sentence, given back at once).
EVENTS = {
    "listed program runs": (
        {"programs": frozenset({"OBS64.exe"})}, MODE_GAMING, Code.PROGRAM,
        "paused: OBS64.exe is running", True,
    ),
    "listed program uses the card": (
        {"processes": (CardProcess(7, "resolve", None),)}, MODE_GAMING, Code.PROGRAM,
        "paused: resolve is running", True,
    ),
    "program goes full screen": (
        {"full_screen": GAME}, MODE_GAMING, Code.FULL_SCREEN,
        "paused: witcher3.exe is full screen", True,
    ),
    "others hold the memory": (
        {"processes": others(6 * GIB + 1)}, MODE_PAUSED, Code.MEMORY_NEEDED,
        "paused: other programs need the card's memory, goes on when they leave 2.8 GB", True,
    ),
    "card is at 87 degrees": (
        {"temperature": 87.0}, MODE_HOT, Code.HOT, "hot: 87 °C, goes on below 75 °C", True,
    ),
    "plug is pulled": (
        {"on_battery": True}, MODE_PAUSED, Code.BATTERY,
        "paused: the PC runs on its battery", True,
    ),
    "card does not answer": (
        {"present": False}, MODE_BROKEN, Code.CARD_GONE,
        "broken: the card or its driver does not answer, goes on by itself when it does", True,
    ),
    "engine is broken": (
        {"engine_broken": "three engines died in a row"}, MODE_BROKEN, Code.ENGINE_BROKEN,
        "broken: three engines died in a row", True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("event", EVENTS)
def test_ready_x_event_stops_at_once_and_says_why(event: str) -> None:
    readings, mode, code, said, gives_back = EVENTS[event]
    evening = Evening(ONE_CAUSE)
    assert evening.look().mode == MODE_READY
    decision = evening.set(**readings).wait(1)
    assert (decision.mode, decision.take_work) == (mode, False)
    assert (decision.give_back, decision.share) == (gives_back, 0.0)
    assert codes(decision) == {code}
    assert sentences(decision) == [said]


# Stopped by this, then good again: (bad, good, seconds that it must be good).
ENDS = {
    "program ended": ({"programs": frozenset({"obs"})}, {"programs": frozenset()}, 30),
    "screen free": ({"full_screen": GAME}, {"full_screen": ""}, 30),
    "plugged in": ({"on_battery": True}, {"on_battery": False}, 30),
    "memory left": ({"processes": others(7 * GIB)}, {"processes": others(5 * GIB)}, 60),
    "cooled down": ({"temperature": 90.0}, {"temperature": 75.0}, 120),
    "card answers": ({"present": False}, {"present": True}, 5),
    "engine mended": ({"engine_broken": "x"}, {"engine_broken": ""}, 0),
}


@pytest.mark.parametrize("event", ENDS)
def test_stopped_x_good_again_goes_on_by_itself_after_the_hold(event: str) -> None:
    bad, good, hold = ENDS[event]
    evening = Evening(ONE_CAUSE)
    evening.set(**bad).wait(30)
    stopped = evening.decision.mode
    evening.set(**good).wait(1)
    if hold:
        assert evening.decision.mode == stopped
        assert sentences(evening.decision)[0].count(" goes on in ") == 1
        assert evening.wait(hold - 1).mode == stopped
        assert evening.wait(1).mode == MODE_READY
    assert evening.decision.mode == MODE_READY
    assert not evening.decision.reasons


@pytest.mark.parametrize("event", [event for event in ENDS if ENDS[event][2]])
def test_waiting_for_the_hold_x_bad_again_begins_the_hold_anew(event: str) -> None:
    bad, good, hold = ENDS[event]
    evening = Evening(ONE_CAUSE)
    evening.set(**bad).wait(1)
    before = sentences(evening.decision)
    evening.set(**good).wait(hold - 1)
    evening.set(**bad).wait(1)
    assert sentences(evening.decision) == before
    evening.set(**good).wait(hold)
    assert evening.decision.mode != MODE_READY
    assert evening.wait(1).mode == MODE_READY


def test_screen_ignored_by_the_policy_x_full_screen_stays_ready() -> None:
    evening = Evening().set(full_screen="NVIDIA Overlay.exe")
    assert evening.wait(5).mode == MODE_READY


def test_full_screen_switched_off_x_game_stays_ready() -> None:
    assert Evening(Policy(full_screen=False)).set(full_screen=GAME).wait(5).mode == MODE_READY


# Temperature


def test_ready_x_card_gets_warm_works_a_smaller_share_step_by_step() -> None:
    evening = Evening().set(temperature=85.4)
    shares = [evening.wait(1).share for _ in range(20)]
    assert evening.decision.mode == MODE_DUTY_CYCLED
    assert evening.decision.take_work
    assert not evening.decision.give_back
    assert shares[-1] == 0.55  # 1 - 0.75 x 2.4/4
    assert all(0 <= a - b <= 0.051 for a, b in pairwise(shares))
    assert sentences(evening.decision) == ["warm: 85 °C, works 55% of the time"]


def test_warm_x_just_below_hot_leaves_the_least_share() -> None:
    evening = Evening().set(temperature=86.99)
    assert evening.wait(60).share == 0.25


def test_warm_x_cooler_works_the_whole_time_again() -> None:
    evening = Evening().set(temperature=84.0)
    evening.wait(20)
    evening.set(temperature=79.0)
    assert evening.until(MODE_READY, 60) == 11
    assert evening.wait(10).share == 1.0


def test_hot_x_warm_again_stays_stopped_until_it_is_cool() -> None:
    evening = Evening().set(temperature=87.0)
    evening.wait(1)
    assert evening.set(temperature=76.0).wait(600).mode == MODE_HOT
    assert evening.set(temperature=75.0).until(MODE_READY) == 121


@pytest.mark.parametrize(
    ("slowdown", "stops_at"),
    [(None, 87.0), (98.0, 87.0), (89.0, 87.0), (83.0, 81.0), (0.0, 87.0)],
)
def test_card_tells_where_it_slows_itself_x_stops_below_that(
    slowdown: float | None, stops_at: float
) -> None:
    evening = Evening().set(temperature_slowdown=slowdown, temperature=stops_at - 1)
    assert evening.wait(1).mode == MODE_DUTY_CYCLED
    assert evening.set(temperature=stops_at).wait(1).mode == MODE_HOT
    said = f"goes on below {stops_at - 12:.0f} °C"
    assert said in sentences(evening.decision)[0]


def test_hot_x_driver_tells_no_temperature_any_more_goes_on_in_the_end() -> None:
    evening = Evening().set(temperature=90.0)
    evening.wait(5)
    evening.set(temperature=None)
    assert evening.wait(60).mode == MODE_HOT
    assert 120 <= evening.until(MODE_READY) <= 125


# Games that are on no list


def test_idle_engine_x_card_draws_for_three_seconds_is_a_game() -> None:
    evening = Evening().set(utilisation=0.5)
    assert evening.wait(3).mode == MODE_READY
    decision = evening.wait(1)
    assert (decision.mode, codes(decision)) == (MODE_GAMING, {Code.FOREIGN_USE})
    assert sentences(decision) == [
        "paused: another program draws with 50% of the card, goes on below 10%"
    ]
    evening.set(utilisation=0.05)
    assert evening.until(MODE_READY) == 31


def test_idle_engine_x_card_draws_for_a_moment_stays_ready() -> None:
    evening = Evening()
    for _ in range(5):
        evening.set(utilisation=0.9).wait(2)
        assert evening.set(utilisation=0.0).wait(1).mode == MODE_READY


def test_busy_engine_x_card_is_busy_is_no_game() -> None:
    evening = Evening().set(utilisation=1.0, engine_busy=True)
    assert evening.wait(60).mode == MODE_READY


def test_busy_engine_x_others_use_is_told_apart_is_a_game() -> None:
    evening = Evening().set(utilisation=1.0, engine_busy=True)
    evening.foreign_use = 0.4
    assert evening.wait(4).mode == MODE_GAMING


def test_engine_has_just_ended_x_its_use_is_still_read_is_no_game() -> None:
    evening = Evening().set(utilisation=1.0, engine_busy=True)
    evening.wait(10)
    assert evening.set(engine_busy=False).wait(4).mode == MODE_READY
    assert evening.set(utilisation=0.0).wait(10).mode == MODE_READY


def test_ready_x_others_take_much_memory_at_once_is_perhaps_a_game() -> None:
    evening = Evening().set(engine_busy=True, processes=others(GIB))
    evening.wait(20)
    decision = evening.set(processes=others(3 * GIB)).wait(1)
    assert (decision.mode, codes(decision)) == (MODE_GAMING, {Code.MEMORY_TAKEN})
    assert decision.give_back
    # It keeps the memory and draws nothing: no game, and the pause ends by itself.
    assert 60 <= evening.set(engine_busy=False).until(MODE_READY) <= 75


def test_others_take_memory_slowly_x_stays_ready() -> None:
    evening = Evening()
    for step in range(40):
        evening.set(processes=others(GIB + step * GIB // 20)).wait(1)
    assert evening.wait(1).mode == MODE_READY


def test_wddm_engine_loads_a_model_x_its_own_memory_is_not_taken_for_a_game() -> None:
    evening = Evening().set(processes=(CardProcess(1, "dwm.exe", None),))
    evening.wait(20)
    evening.set(engine_busy=True, memory_used=6 * GIB, memory_free=2 * GIB).wait(30)
    assert evening.decision.mode == MODE_READY
    # Idle, and it says what it holds: the rest is others'.
    evening.set(engine_busy=False, engine_memory=5 * GIB).wait(30)
    assert evening.decision.mode == MODE_READY
    assert evening.set(memory_used=8 * GIB, memory_free=0).wait(1).mode == MODE_GAMING


def test_wddm_engine_was_killed_x_memory_comes_back_late_is_not_taken_for_others() -> None:
    evening = Evening().set(
        processes=None, engine_memory=5 * GIB, memory_used=7 * GIB, memory_free=GIB
    )
    evening.wait(30)
    evening.set(engine_memory=0).wait(5)
    assert evening.decision.mode == MODE_READY
    assert evening.set(memory_used=GIB, memory_free=7 * GIB).wait(30).mode == MODE_READY


def test_driver_begins_to_tell_each_program_x_another_sum_is_not_taken_for_a_game() -> None:
    evening = Evening().set(processes=(CardProcess(1, "x", None),), memory_free=7 * GIB)
    evening.wait(20)
    assert evening.set(processes=others(3 * GIB)).wait(5).mode == MODE_READY


# Memory


def test_budget_follows_whether_somebody_is_at_the_pc() -> None:
    evening = Evening(Policy(memory_in_use=Budget.parse("4 GB"), memory_away=Budget.parse("100%")))
    assert evening.look().memory_limit == 4 * GIB
    assert evening.set(idle_seconds=180.0).wait(1).memory_limit == 8 * GIB
    assert evening.set(processes=others(GIB)).wait(1).memory_limit == 7 * GIB


def test_away_x_user_comes_back_and_the_engine_holds_too_much_gives_back() -> None:
    evening = Evening(Policy(memory_in_use=Budget(share=0.5)))
    evening.set(idle_seconds=500.0, engine_busy=True, engine_memory=6 * GIB).wait(30)
    assert evening.decision.mode == MODE_READY
    evening.set(idle_seconds=0.0).wait(4)
    assert codes(evening.decision) == {Code.OVER_BUDGET}
    assert evening.decision.give_back
    assert "holds 6.0 GB" in sentences(evening.decision)[0]
    assert evening.set(engine_busy=False, engine_memory=0).until(MODE_READY) == 6


def test_cpu_card_x_programs_run_and_take_memory_stays_ready() -> None:
    evening = Evening().set(
        device="cpu", utilisation=1.0, memory_free=GIB, processes=None, temperature=None
    )
    assert evening.wait(30).mode == MODE_READY
    assert evening.decision.memory_limit is None
    assert evening.set(memory_free=GIB // 4).wait(1).mode == MODE_PAUSED


# The owner's word


def wish(kind: Kind, **fields) -> Wish:
    return Wish("one", kind, made=NOON, **fields)


def test_ready_x_pause_for_an_hour_ends_after_an_hour() -> None:
    evening = Evening()
    evening.wait(1)
    evening.wish = wish(Kind.FOR, seconds=3600)
    decision = evening.wait(1)
    assert (decision.mode, decision.give_back) == (MODE_PAUSED, True)
    assert sentences(decision) == ["paused: by you, goes on at 13:00"]
    assert evening.until(MODE_READY) == 3598


def test_paused_x_resume_works_at_once() -> None:
    evening = Evening(wish=wish(Kind.FOREVER))
    assert evening.wait(1000).mode == MODE_PAUSED
    evening.wish = None
    assert evening.wait(1).mode == MODE_READY


def test_pause_is_over_x_the_same_words_again_pause_again() -> None:
    evening = Evening(wish=wish(Kind.FOR, seconds=10))
    evening.wait(20)
    assert evening.decision.mode == MODE_READY
    evening.wish = Wish("two", Kind.FOR, made=evening.wall, seconds=10)
    assert evening.wait(1).mode == MODE_PAUSED


@pytest.mark.parametrize("jump", [3600.0, -3600.0, 86_400.0, -86_400.0])
def test_paused_for_an_hour_x_wall_clock_is_put_right_lasts_an_hour(jump: float) -> None:
    evening = Evening(wish=wish(Kind.FOR, seconds=3600))
    evening.wait(600)
    evening.wall += jump
    assert evening.until(MODE_READY) == 3600 - 600


def test_paused_for_an_hour_x_pc_sleeps_longer_goes_on() -> None:
    evening = Evening(wish=wish(Kind.FOR, seconds=3600))
    evening.wait(10)
    evening.now += 8000
    evening.wall += 8000
    assert evening.wait(1).mode == MODE_READY


def test_agent_starts_late_in_a_pause_x_keeps_what_is_left() -> None:
    evening = Evening(wish=Wish("one", Kind.FOR, made=NOON - 3000, seconds=3600))
    assert evening.wait(1).mode == MODE_PAUSED
    assert evening.until(MODE_READY) == 599


def test_agent_starts_with_a_wall_clock_before_the_pause_x_lasts_no_longer_than_said() -> None:
    evening = Evening(wish=Wish("one", Kind.FOR, made=NOON + 90_000, seconds=3600))
    assert evening.wait(1).mode == MODE_PAUSED
    assert evening.until(MODE_READY) == 3600


def test_until_tomorrow_x_six_in_the_morning_works_also_after_a_sleep() -> None:
    evening = Evening(wish=wish(Kind.TOMORROW))
    assert sentences(evening.wait(1)) == ["paused: by you, goes on at Thu 06:00"]
    evening.wall += 18 * 3600 - 10  # asleep, and the monotonic clock slept too
    assert evening.wait(2).mode == MODE_PAUSED
    assert evening.until(MODE_READY) <= 10
    evening.wall -= 3600  # it is over once and for all
    assert evening.wait(1).mode == MODE_READY


def test_ready_x_finish_current_takes_nothing_new_and_keeps_what_runs() -> None:
    evening = Evening(wish=wish(Kind.FINISH))
    decision = evening.wait(1)
    assert (decision.mode, decision.take_work) == (MODE_DRAINING, False)
    assert (decision.give_back, decision.share) == (False, 1.0)
    assert "finishes what runs" in sentences(decision)[0]


def test_draining_x_warm_finishes_at_the_smaller_share() -> None:
    evening = Evening(wish=wish(Kind.FINISH)).set(temperature=86.9)
    decision = evening.wait(60)
    assert (decision.mode, decision.share, decision.take_work) == (MODE_DRAINING, 0.25, False)
    assert codes(decision) == {Code.FINISHING, Code.WARM}


def test_draining_x_game_gives_back_all_the_same() -> None:
    decision = Evening(wish=wish(Kind.FINISH)).set(full_screen=GAME).wait(1)
    assert (decision.mode, decision.give_back) == (MODE_GAMING, True)
    assert codes(decision) == {Code.FINISHING, Code.FULL_SCREEN}


# Only when away


def test_only_when_away_x_touch_pauses_and_leaving_goes_on() -> None:
    evening = Evening(Policy(only_when_away=True)).set(idle_seconds=1000.0)
    assert evening.wait(1).mode == MODE_READY
    decision = evening.set(idle_seconds=0.0).wait(1)
    assert (decision.mode, decision.give_back) == (MODE_PAUSED, True)
    assert sentences(decision) == [
        "paused: somebody is at the PC, goes on 3 min after the last touch"
    ]
    assert evening.set(idle_seconds=179.0).wait(60).mode == MODE_PAUSED
    assert evening.set(idle_seconds=180.0).until(MODE_READY) == 31


def test_only_when_away_x_system_does_not_tell_pauses_and_says_what_to_do() -> None:
    evening = Evening(Policy(only_when_away=True)).set(idle_seconds=0.0)
    evening.wait(1)
    decision = evening.set(idle_seconds=None).wait(1)
    assert (decision.mode, Code.USER_UNSEEN in codes(decision)) == (MODE_PAUSED, True)
    assert codes(evening.wait(100)) == {Code.USER_UNSEEN}
    assert "foxden policy set only_when_away false" in sentences(evening.decision)[0]
    evening.policy = replace(evening.policy, only_when_away=False)
    assert evening.until(MODE_READY) == 31


# The timetable


def test_quiet_hours_begin_and_end_by_local_time() -> None:
    evening = Evening(Policy(quiet_hours=(Window.parse("wed 12:01-12:10"),)))
    assert evening.wait(59).mode == MODE_READY
    decision = evening.wait(1)
    assert (decision.mode, decision.give_back) == (MODE_QUIET_HOURS, True)
    assert sentences(decision) == ["quiet hours: until 12:10"]
    assert evening.until(MODE_READY) == 9 * 60 + 30


def test_quiet_hours_x_clock_jumps_out_and_in_again_does_not_flap() -> None:
    evening = Evening(Policy(quiet_hours=(Window.parse("daily 11:30-12:30"),)))
    evening.wait(1)
    for jump in (3600, -3600, 3600, -3600):
        evening.wall += jump
        assert evening.wait(20).mode == MODE_QUIET_HOURS
    evening.wall += 3600
    assert evening.wait(32).mode == MODE_READY


def test_start_delay_x_minutes_pass_works() -> None:
    evening = Evening(Policy(start_delay=3))
    decision = evening.look()
    assert (decision.mode, decision.take_work) == (MODE_QUIET_HOURS, False)
    assert sentences(decision) == ["quiet hours: not before 3 min after the start"]
    assert evening.until(MODE_READY) == 180


# Clocks, and several causes


def test_waiting_for_the_hold_x_pc_sleeps_an_hour_still_waits() -> None:
    evening = Evening().set(temperature=90.0)
    evening.wait(5)
    evening.set(temperature=60.0).wait(5)
    evening.now += 3600  # where the monotonic clock goes on in sleep
    evening.wall += 3600
    assert evening.wait(1).mode == MODE_HOT  # an hour asleep is no hour of good readings
    assert 100 <= evening.until(MODE_READY) <= 120


def test_stopped_x_monotonic_clock_jumps_back_still_goes_on() -> None:
    evening = Evening().set(full_screen=GAME)
    evening.wait(5)
    evening.now -= 900
    evening.set(full_screen="")
    assert evening.until(MODE_READY, 60) <= 32


def test_several_causes_x_the_strongest_is_the_mode_and_all_are_told() -> None:
    evening = Evening(
        Policy(quiet_hours=(Window.parse("daily 11:00-14:00"),)),
        wish=wish(Kind.FOR, seconds=60),
    )
    evening.set(full_screen=GAME, temperature=91.0, present=True).wait(1)
    assert evening.decision.mode == MODE_PAUSED
    assert sentences(evening.decision) == [
        "paused: by you, goes on at 12:01",
        "paused: witcher3.exe is full screen",
        "hot: 91 °C, goes on below 75 °C",
        "quiet hours: until 14:00",
    ]


STRONGEST_FIRST = [
    MODE_BROKEN, MODE_PAUSED, MODE_GAMING, MODE_HOT, MODE_QUIET_HOURS, MODE_DRAINING,
    MODE_DUTY_CYCLED, MODE_READY,
]  # fmt: skip


def test_causes_end_one_by_one_x_the_mode_gets_weaker_in_the_order_of_severity() -> None:
    evening = Evening(
        Policy(quiet_hours=(Window.parse("daily 11:00-14:00"),), hold=0),
        wish=wish(Kind.FINISH),
    )
    evening.policy = replace(evening.policy, temperature=Threshold(87, 75, 0))
    evening.set(present=False, on_battery=True, full_screen=GAME, temperature=95.0).wait(1)
    seen = [evening.decision.mode]
    evening.set(present=True).wait(10)
    seen.append(evening.decision.mode)
    for readings in ({"on_battery": False}, {"full_screen": ""}, {"temperature": 74.0}):
        seen.append(evening.set(**readings).wait(2).mode)
    evening.policy = replace(evening.policy, quiet_hours=())
    evening.set(temperature=84.0)
    seen.append(evening.wait(2).mode)
    evening.wish = None
    seen.append(evening.wait(1).mode)
    evening.set(temperature=60.0)
    seen.append(evening.wait(15).mode)
    assert [Mode.Name(mode) for mode in seen] == [Mode.Name(mode) for mode in STRONGEST_FIRST]


def test_an_evening_tells_its_story() -> None:
    evening = Evening(Policy(quiet_hours=(Window.parse("daily 12:30-13:00"),)))
    seen = [evening.look()]

    def passes(minutes: float, **readings: object) -> None:
        evening.set(**readings)
        seen.extend(evening.wait(1) for _ in range(round(minutes * 60)))

    passes(3, engine_busy=True, utilisation=1.0, temperature=72.0)
    passes(9, full_screen=GAME, engine_busy=False, temperature=79.0, processes=others(5 * GIB))
    passes(3, full_screen="", processes=(), utilisation=0.0, temperature=65.0)
    passes(3, engine_busy=True, utilisation=1.0, temperature=84.0)
    passes(1, temperature=88.0)
    passes(3, engine_busy=False, utilisation=0.0, temperature=70.0)
    passes(40, temperature=55.0)
    assert modes(seen) == [
        "MODE_READY", "MODE_GAMING", "MODE_READY", "MODE_DUTY_CYCLED", "MODE_HOT", "MODE_READY",
        "MODE_QUIET_HOURS", "MODE_READY",
    ]  # fmt: skip


def test_next_look_is_when_something_changes_without_new_readings() -> None:
    evening = Evening().set(full_screen=GAME)
    assert evening.wait(1).next_look == evening.now + 60
    evening.set(full_screen="").wait(1)
    assert evening.decision.next_look == evening.now + 30
    evening.wait(10)
    assert evening.decision.next_look == evening.now + 20
    evening.wish = Wish("w", Kind.FOR, made=evening.wall, seconds=7)
    assert evening.look().next_look == evening.now + 7
