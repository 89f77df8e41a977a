"""The machine and its user: what every system tells alike, and what each tells its own way."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import psutil

from foxden_agent.readings import MachineReadings
from foxden_agent.watching.names import ProgramNames

_BATTERY_EVERY = 5.0  # seconds: some firmware takes milliseconds to answer


@dataclass(frozen=True, slots=True)
class AtTheScreen:
    """What the user's session tells; None is what it does not tell."""

    full_screen: str | None = None  # program that fills a screen; "": none
    idle_seconds: float | None = None  # since the last key, click or movement


class Desktop(Protocol):
    """One system's way to look at the user's session."""

    def look(self, at: float) -> AtTheScreen:
        """`at`: seconds of the monotonic clock. May block for a moment; raises nothing."""
        ...


class Battery(Protocol):
    """psutil's battery."""

    @property
    def percent(self) -> float: ...
    @property
    def power_plugged(self) -> bool | None: ...


class Machine:
    """`listed` gives the names on the owner's list of exclusive programs, as they are written."""

    def __init__(
        self,
        desktop: Desktop,
        listed: Callable[[], frozenset[str]] = frozenset,
        names: ProgramNames | None = None,
    ) -> None:
        self._desktop = desktop
        self._listed = listed
        self._names = names or ProgramNames()
        self._battery: tuple[bool | None, float | None] = (None, None)
        self._asked = float("-inf")

    def read(self, at: float, wall: float) -> MachineReadings:
        """`at` and `wall`: now, by the monotonic clock and in Unix seconds."""
        if at - self._asked >= _BATTERY_EVERY:
            self._asked = at
            self._battery = battery(_ask_battery())
        listed = self._listed()
        running = self._names.of(psutil.pids()) if listed else {}
        screen = self._desktop.look(at)
        return MachineReadings(
            at,
            wall,
            full_screen=screen.full_screen,
            programs=on_the_list(running.values(), listed),
            on_battery=self._battery[0],
            battery=self._battery[1],
            idle_seconds=screen.idle_seconds,
            memory_free=psutil.virtual_memory().available,
        )


def desktop_of_this_system() -> Desktop:
    """The file of the system that this runs on."""
    if sys.platform == "win32":
        from foxden_agent.watching.windows import WindowsDesktop

        return WindowsDesktop()
    if sys.platform == "darwin":
        from foxden_agent.watching.macos import MacDesktop

        return MacDesktop()
    from foxden_agent.watching.linux import LinuxDesktop

    return LinuxDesktop()


def on_the_list(running: Iterable[str], listed: frozenset[str]) -> frozenset[str]:
    """The entries of the list that run: in any case, and with or without ".exe"."""
    if not listed:
        return frozenset()
    names = {_plain(name) for name in running}
    return frozenset(entry for entry in listed if _plain(entry) in names)


def battery(told: Battery | None) -> tuple[bool | None, float | None]:
    """Whether the machine runs on its battery, and how full that is (0 to 1)."""
    if told is None:
        return None, None
    plugged = told.power_plugged
    return None if plugged is None else not plugged, min(max(told.percent / 100, 0.0), 1.0)


def _plain(name: str) -> str:
    return name.strip().casefold().removesuffix(".exe")


def _ask_battery() -> Battery | None:
    ask = getattr(psutil, "sensors_battery", None)  # absent on systems without the notion
    if ask is None:
        return None
    try:
        told: Battery | None = ask()
    except (OSError, ValueError):  # a battery that was taken out meanwhile
        return None
    return told
