"""One object holds all timers, and the environment can make them all shorter."""

from __future__ import annotations

from dataclasses import fields

import pytest

from foxden_proto.timers import Timers


def test_scaled_timers_are_all_scaled_alike() -> None:
    standard, short = Timers(), Timers().scaled(0.1)
    for field in fields(Timers):
        assert getattr(short, field.name) == pytest.approx(getattr(standard, field.name) / 10)


def test_order_that_the_protocol_needs_holds() -> None:
    timers = Timers()
    assert timers.heartbeat * 2 < timers.silent  # one lost heartbeat is no silence
    assert timers.silent + timers.heartbeat < timers.lease_lost
    assert timers.acknowledge < timers.silent
    assert timers.reconnect_first < timers.reconnect_most < timers.lease_lost


def test_environment_without_a_scale_gives_the_standard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FOXDEN_TIME_SCALE", raising=False)
    assert Timers.from_environment() == Timers()


def test_environment_with_a_scale_gives_scaled_timers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOXDEN_TIME_SCALE", "0.1")
    assert Timers.from_environment() == Timers().scaled(0.1)


@pytest.mark.parametrize("text", ["", "fast", "nan", "inf", "-1", "0", "0.001", "11"])
def test_environment_with_an_unusable_scale_is_refused_by_name(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOXDEN_TIME_SCALE", text)
    with pytest.raises(ValueError, match="FOXDEN_TIME_SCALE"):
        Timers.from_environment()
