"""What watches in this agent: the cards and the machine themselves, or a recording."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from foxden_agent.readings import CardReadings
from foxden_agent.watching.cpu import CpuCard
from foxden_agent.watching.devices import CudaDevice
from foxden_agent.watching.machine import Machine, desktop_of_this_system
from foxden_agent.watching.nvml import NvmlCards
from foxden_agent.watching.player import Player
from foxden_agent.watching.recording import Recording
from foxden_agent.watching.watcher import (
    CardSource,
    Deliver,
    Watcher,
    Watching,
    WatchSettings,
)


def watching(
    devices: Sequence[CudaDevice],
    deliver: Deliver,
    *,
    replay: Recording | None = None,
    speed: float = 60.0,
    own_pids: Callable[[], frozenset[int]] = frozenset,
    listed_programs: Callable[[], frozenset[str]] = frozenset,
    settings: WatchSettings | None = None,
) -> Watching:
    """What delivers the readings of these devices ("cuda:N", "cpu") and of the machine.

    With `replay` they come from that recording, `speed` times as fast. Otherwise `own_pids` (our
    engines' processes) and `listed_programs` (the owner's exclusive programs) are asked at each
    reading, on the readers' threads. Raises ValueError where the speed is impossible.
    """
    order = [device.device for device in devices]
    if replay is not None:
        return Player(replay, order, deliver, speed=speed)
    settings = settings or WatchSettings()
    nvidia = [device for device in devices if device.device.startswith("cuda")]
    others = [device.device for device in devices if device not in nvidia]
    sources: list[CardSource] = []
    if nvidia:
        cards = NvmlCards(nvidia, environ=engines_environ(), retry=settings.driver_retry)
        sources.append(_Nvidia(cards, nvidia, own_pids))
    if others:
        sources.append(_Others(others))
    machine = Machine(desktop_of_this_system(), listed_programs)
    return Watcher(sources, machine, deliver, settings, order=order)


def engines_environ() -> dict[str, str]:
    """What says how an engine counts the cards: in bus order, whatever this process was told."""
    return {**os.environ, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


class _Nvidia:
    def __init__(
        self,
        cards: NvmlCards,
        devices: Sequence[CudaDevice],
        own_pids: Callable[[], frozenset[int]],
    ) -> None:
        self.devices = [device.device for device in devices]
        self._cards = cards
        self._own_pids = own_pids

    def read(self, at: float) -> Sequence[CardReadings]:
        return self._cards.read(at, self._own_pids())


class _Others:
    """The CPU; of any other kind of device nothing is told."""

    def __init__(self, devices: Sequence[str]) -> None:
        self.devices = devices
        self._cpu = CpuCard()

    def read(self, at: float) -> Sequence[CardReadings]:
        return [
            self._cpu.read(at) if device == "cpu" else CardReadings(device, at)
            for device in self.devices
        ]
