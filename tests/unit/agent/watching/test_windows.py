"""What Windows tells, and what is made of it. The calls themselves run on Windows alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from foxden_agent.watching.machine import AtTheScreen
from foxden_agent.watching.windows import (
    Foreground,
    at_the_screen,
    fills_screen,
    seconds_between,
)

MONITOR = (1920, 0, 4480, 1440)
CAPTION, POPUP = 0x00C00000, 0x80000000
BUSY, D3D, PRESENTATION, ACCEPTS = 2, 3, 4, 5
BORDERLESS = Foreground(77, "UnrealWindow", POPUP, MONITOR, MONITOR)
MAXIMISED = Foreground(78, "Chrome_WidgetWin_1", CAPTION, (1912, -8, 4488, 1448), MONITOR)
WINDOW = Foreground(79, "Notepad", CAPTION, (2000, 100, 2600, 700), MONITOR)


@pytest.mark.parametrize(
    ("state", "foreground", "expected"),
    [
        (ACCEPTS, WINDOW, False),
        (D3D, WINDOW, True),
        (PRESENTATION, WINDOW, True),
        (BUSY, WINDOW, False),
        (BUSY, BORDERLESS, True),
        (None, BORDERLESS, True),
        (ACCEPTS, MAXIMISED, False),
        (ACCEPTS, replace(BORDERLESS, window=(1920, 0, 4480, 1439)), False),
        (ACCEPTS, replace(BORDERLESS, window=(0, 0, 4480, 1440)), True),
        (ACCEPTS, replace(BORDERLESS, window_class="WorkerW"), False),
        (D3D, replace(BORDERLESS, window_class="Progman"), False),
        (D3D, None, False),
    ],
)
def test_a_program_fills_the_screen_or_does_not(
    state: int | None, foreground: Foreground | None, expected: bool
) -> None:
    assert fills_screen(state, foreground) is expected


@pytest.mark.parametrize(
    ("state", "foreground", "name", "expected"),
    [
        (D3D, WINDOW, "doom.exe", "doom.exe"),
        (D3D, WINDOW, "", "a program without a name"),
        (ACCEPTS, WINDOW, "notepad.exe", ""),
        (1, BORDERLESS, "doom.exe", ""),  # the screen is locked
        (None, None, "", None),
    ],
)
def test_full_screen_is_named_denied_or_not_told(
    state: int | None, foreground: Foreground | None, name: str, expected: str | None
) -> None:
    assert at_the_screen(state, foreground, 7.5, name) == AtTheScreen(expected, 7.5)


@pytest.mark.parametrize(
    ("now", "last", "seconds"),
    [(5000, 2000, 3), (500, 0xFFFFFFFF - 499, 1), (-1, -2001, 2), (-2147483648, 2147483647, 0.001)],
)
def test_ticks_that_began_again_are_counted_on(now: int, last: int, seconds: float) -> None:
    assert seconds_between(now, last) == seconds
