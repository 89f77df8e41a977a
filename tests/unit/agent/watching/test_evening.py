"""The recorded evening that is shipped: what its generator makes, and the story that it tells."""

from __future__ import annotations

from datetime import timedelta

import pytest
from tools.make_evening import TARGET, evening

from foxden_agent.readings import CardReadings
from foxden_agent.watching.recording import Moment, Recording

GIB = 1024**3


@pytest.fixture(scope="module")
def recording() -> Recording:
    return Recording(TARGET)


def at(recording: Recording, clock: str) -> Moment:
    """The moment at a local time like "21:20"."""
    hours, minutes = map(int, clock.split(":"))
    day = recording.begun.replace(hour=0, minute=0)
    t = (day + timedelta(hours=hours, minutes=minutes) - recording.begun).total_seconds()
    return next(moment for moment in recording.moments() if moment.t >= t)


def test_file_is_what_its_generator_makes() -> None:
    assert TARGET.read_text() == evening(), "run tests/tools/make_evening.py"


def test_evening_is_an_hour_for_any_card_and_small(recording: Recording) -> None:
    assert recording.devices == ("card",)
    assert recording.length == 3600
    assert TARGET.stat().st_size < 60_000


def test_evening_goes_from_idle_to_game_to_hot_to_quiet_hours(recording: Recording) -> None:
    def card(clock: str) -> CardReadings:
        return at(recording, clock).readings.cards[0]

    assert card("21:05").foreign_memory is not None
    assert (card("21:05").foreign_memory or 0) < GIB
    playing = at(recording, "21:20").readings
    assert playing.machine.full_screen == "game.exe"
    assert (playing.cards[0].foreign_memory or 0) > 7 * GIB
    assert (playing.cards[0].utilisation or 0) > 0.9
    assert at(recording, "21:30").readings.machine.full_screen == ""
    assert (card("21:30").foreign_memory or 0) < GIB
    assert (card("21:33").temperature or 0) < 75
    hot = card("21:42")
    assert hot.temperature is not None
    assert hot.temperature_slowdown is not None
    assert hot.temperature_shutdown is not None
    assert hot.temperature_slowdown <= hot.temperature < hot.temperature_shutdown
    assert hot.throttled == {"heat"}
    assert (card("21:55").temperature or 0) < 60
    last = at(recording, "22:03")
    assert recording.begun + timedelta(seconds=last.t) > recording.begun.replace(hour=22, minute=0)
    assert (last.readings.machine.idle_seconds or 0) > 600
