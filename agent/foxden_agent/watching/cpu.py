"""The CPU as a card, with the machine's RAM as its memory. Blocks for a millisecond or so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import psutil

from foxden_agent.readings import CardReadings

_TEMPERATURE_EVERY = 5.0  # seconds: psutil looks through every sensor there is, some are slow
# Names that Linux gives to a processor's own sensor, the best first.
_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "acpitz")


class Sensor(Protocol):
    """One of psutil's temperatures; degrees Celsius."""

    @property
    def current(self) -> float | None: ...
    @property
    def high(self) -> float | None: ...
    @property
    def critical(self) -> float | None: ...


class CpuCard:
    """The readings of the device "cpu"."""

    def __init__(self) -> None:
        self._sensors: tuple[float | None, float | None, float | None] = (None, None, None)
        self._asked = float("-inf")
        psutil.cpu_percent(None)  # it tells what was used since it was last asked

    def read(self, at: float) -> CardReadings:
        memory = psutil.virtual_memory()
        if at - self._asked >= _TEMPERATURE_EVERY:
            self._asked = at
            self._sensors = hottest(_all_sensors())
        temperature, slowdown, shutdown = self._sensors
        return CardReadings(
            "cpu",
            at,
            memory_total=memory.total,
            memory_used=memory.total - memory.available,
            memory_free=memory.available,
            temperature=temperature,
            temperature_slowdown=slowdown,
            temperature_shutdown=shutdown,
            utilisation=min(psutil.cpu_percent(None) / 100, 1.0),
        )


def hottest(
    sensors: Mapping[str, Sequence[Sensor]],
) -> tuple[float | None, float | None, float | None]:
    """Temperature, slowdown and shutdown threshold of the processor, where they are told.

    Of its sensors (package, cores) the hottest counts. A threshold below the temperature range
    of silicon, as some drivers give (0, or the current value), is left out.
    """
    for name in _SENSORS:
        told = [s for s in sensors.get(name, ()) if s.current is not None and s.current > 0]
        if told:
            top = max(told, key=lambda sensor: sensor.current or 0)
            return top.current, _credible(top.high), _credible(top.critical)
    return None, None, None


def _credible(threshold: float | None) -> float | None:
    return threshold if threshold is not None and 50 <= threshold <= 130 else None


def _all_sensors() -> Mapping[str, Sequence[Sensor]]:
    ask = getattr(psutil, "sensors_temperatures", None)  # psutil has it on Linux and FreeBSD
    if ask is None:
        return {}
    try:
        sensors: Mapping[str, Sequence[Sensor]] = ask()
    except (OSError, ValueError):  # a sensor that went while it was read
        return {}
    return sensors
