"""NVIDIA cards through NVML: no CUDA context, so no VRAM. The only file that imports pynvml.

Every call may block for seconds inside the driver, so this runs on a thread (reader.py). Names of
calls and codes: NVIDIA's NVML API reference. Driver's thresholds and names are asked once per
initialisation, everything else at each reading.
"""

from __future__ import annotations

import _ctypes
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from foxden_agent.readings import CardProcess, CardReadings
from foxden_agent.watching.devices import CudaDevice, DriverCard, match
from foxden_agent.watching.driver_errors import (
    GONE,
    GPU_IS_LOST,
    LOOKS_AGAIN,
    MERELY_UNTOLD,
    OUTDATED,
    sentence,
)
from foxden_agent.watching.names import ProgramNames

log = logging.getLogger(__name__)

T = TypeVar("T")
# nvmlClocksEventReasons
_THROTTLES = {0x4: "power", 0x8: "hardware", 0x20: "heat", 0x40: "heat", 0x80: "brake"}
_RETRY_MOST = 60.0  # initialising takes the driver up to a second where nothing else uses it


class _Gone(Exception):
    """The card, or the whole driver, does not answer any more."""

    def __init__(self, code: int, what: str) -> None:
        super().__init__(what)
        self.code = code


@dataclass(frozen=True, slots=True)
class _Card:
    """What stays the same from one initialisation to the next."""

    handle: Any
    listed: DriverCard
    slowdown: float | None
    shutdown: float | None


class NvmlCards:
    """The readings of these devices. `read` blocks; it is called by one thread at a time."""

    def __init__(
        self,
        devices: Sequence[CudaDevice],
        *,
        environ: Mapping[str, str] = os.environ,
        retry: float = 5.0,
        names: ProgramNames | None = None,
    ) -> None:
        """`environ` is the engines' own; `retry` (seconds) grows to a minute while it fails."""
        self._devices = tuple(devices)
        self._environ = environ
        self._names = names or ProgramNames()
        self._nvml: Any = None
        self._cards: dict[str, _Card] = {}  # by device
        self._retry = self._pause = retry
        self._next_try = float("-inf")
        self._complete = False  # every device was found and answered at the last reading
        self._problem = ""  # of the driver as a whole
        self._ours: frozenset[int] = frozenset()

    def read(self, at: float, own: frozenset[int] = frozenset()) -> tuple[CardReadings, ...]:
        """One reading per device. `own` are our engines' process ids, which are not foreign."""
        if not self._complete and at >= self._next_try:
            self._next_try = at + self._pause
            self._pause = min(2 * self._pause, _RETRY_MOST)
            self._initialise()
        readings = []
        listed: list[dict[int, int | None] | None] = []
        for device in self._devices:
            reading, processes = self._read(device.device, at)
            readings.append(reading)
            listed.append(processes)
        self._complete = all(reading.present for reading in readings)
        if self._complete:
            self._pause = self._retry
        return self._with_processes(readings, listed, own)

    def _initialise(self) -> None:
        """Start NVML, afresh where it runs: only then does it see cards that came or went."""
        self._cards = {}
        try:
            if self._nvml is None:
                import pynvml

                self._nvml = pynvml
            else:
                self._end()
            try:
                self._nvml.nvmlInit()
            except self._nvml.NVMLError as error:
                if error.value not in OUTDATED:
                    raise
                self._unload()
                self._nvml.nvmlInit()
            cards = self._list()
        except ImportError:
            self._say("nvidia-ml-py is not installed: run `pip install 'foxden[agent]'`.")
        except _Gone as gone:
            self._say(str(gone))
        except self._nvml.NVMLError as error:
            self._say(sentence(error.value, str(error)))
        else:
            found = match(self._devices, [card.listed for card in cards], self._environ)
            if len(found) == len(self._devices):
                # From now on by identity alone: of two cards of one kind, the one that is left
                # must not stand in for the one that went.
                self._devices = tuple(
                    replace(device, uuid=found[device.device].uuid) for device in self._devices
                )
            by_index = {card.listed.index: card for card in cards}
            self._cards = {device: by_index[card.index] for device, card in found.items()}
            self._say("")

    def _end(self) -> None:
        try:
            self._nvml.nvmlShutdown()
        except self._nvml.NVMLError as error:
            log.debug("NVML was not running: %s", error)

    def _unload(self) -> None:
        """Let go of the library, so that the next start loads the one that is installed now.

        pynvml keeps it for the life of the process, and the system gives the same one out again
        for as long as anybody holds it.
        """
        library, self._nvml.nvmlLib = self._nvml.nvmlLib, None
        self._nvml._nvmlGetFunctionPointer_cache.clear()
        if library is not None:
            if sys.platform == "win32":
                _ctypes.FreeLibrary(library._handle)
            else:
                _ctypes.dlclose(library._handle)

    def _list(self) -> list[_Card]:
        nvml = self._nvml
        cards = []
        for index in range(nvml.nvmlDeviceGetCount()):
            try:
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                listed = DriverCard(
                    index,
                    uuid=self._told(nvml.nvmlDeviceGetUUID, handle) or "",
                    pci=_text(nvml.nvmlDeviceGetPciInfo(handle).busId),
                    name=self._told(nvml.nvmlDeviceGetName, handle) or "",
                    memory_total=self._memory(handle)[0],
                )
                slowdown, shutdown = (
                    self._told(nvml.nvmlDeviceGetTemperatureThreshold, handle, which)
                    for which in (
                        nvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN,
                        nvml.NVML_TEMPERATURE_THRESHOLD_SHUTDOWN,
                    )
                )
                cards.append(_Card(handle, listed, slowdown, shutdown))
            except (_Gone, nvml.NVMLError) as error:
                log.debug("card %d of the driver cannot be asked: %s", index, error)
        return cards

    def _read(self, device: str, at: float) -> tuple[CardReadings, dict[int, int | None] | None]:
        """A reading without its processes, and beside it what the driver lists of them."""
        card = self._cards.get(device)
        if card is None:
            why = self._problem or f"The NVIDIA driver does not list this card now. {LOOKS_AGAIN}"
            return CardReadings(device, at, present=False, problem=why), None
        nvml, handle = self._nvml, card.handle
        try:
            total, used, free = self._memory(handle)
            utilisation = self._told(nvml.nvmlDeviceGetUtilizationRates, handle)
            reasons = self._told(nvml.nvmlDeviceGetCurrentClocksEventReasons, handle)
            if reasons is None:  # a driver older than the name
                reasons = self._told(nvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle)
            fan = _scaled(self._told(nvml.nvmlDeviceGetFanSpeed, handle), 100)
            return CardReadings(
                device,
                at,
                memory_total=total,
                memory_used=used,
                memory_free=free,
                temperature=self._told(
                    nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU
                ),
                temperature_slowdown=card.slowdown,
                temperature_shutdown=card.shutdown,
                utilisation=None if utilisation is None else utilisation.gpu / 100,
                power=_scaled(self._told(nvml.nvmlDeviceGetPowerUsage, handle), 1000),
                power_limit=_scaled(self._told(nvml.nvmlDeviceGetEnforcedPowerLimit, handle), 1000),
                energy=_scaled(self._told(nvml.nvmlDeviceGetTotalEnergyConsumption, handle), 1000),
                clock=self._told(nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_GRAPHICS),
                fan=None if fan is None else min(fan, 1.0),  # some go beyond what was intended
                throttled=frozenset(
                    name for bit, name in _THROTTLES.items() if (reasons or 0) & bit
                ),
            ), self._processes(handle)
        except _Gone as gone:
            log.warning("%s: %s", device, gone)
            # Not asked again before the next start: a driver may take seconds over each answer.
            del self._cards[device]
            if gone.code != GPU_IS_LOST:
                self._problem = str(gone)
            return CardReadings(device, at, present=False, problem=str(gone)), None

    def _memory(self, handle: Any) -> tuple[int | None, int | None, int | None]:
        """Total, used and free. Version 2 does not count the driver's own reserve as used."""
        nvml = self._nvml
        memory = self._told(nvml.nvmlDeviceGetMemoryInfo, handle, nvml.nvmlMemory_v2)
        if memory is None:
            memory = self._told(nvml.nvmlDeviceGetMemoryInfo, handle, vital=True)
        return (None, None, None) if memory is None else (memory.total, memory.used, memory.free)

    def _processes(self, handle: Any) -> dict[int, int | None] | None:
        """Bytes by process id; None for all where the driver tells of none, for one on Windows."""
        nvml = self._nvml
        found: dict[int, int | None] = {}
        told = False
        for ask, older in (
            (nvml.nvmlDeviceGetComputeRunningProcesses, "nvmlDeviceGetComputeRunningProcesses_v2"),
            (
                nvml.nvmlDeviceGetGraphicsRunningProcesses,
                "nvmlDeviceGetGraphicsRunningProcesses_v2",
            ),
        ):
            try:
                listed = self._told(ask, handle)
            except nvml.NVMLLibraryMismatchError:
                listed = self._told(getattr(nvml, older), handle)
            if listed is None:
                continue
            told = True
            for process in listed:  # one that computes and draws is in both, with one figure
                known = found.get(process.pid)
                memory = process.usedGpuMemory
                found[process.pid] = known if memory is None else max(memory, known or 0)
        return found if told else None

    def _told(self, ask: Callable[..., T], *arguments: Any, vital: bool = False) -> T | None:
        """None where this one figure is not told. Raises _Gone where nothing will be.

        `vital`: every card has it, so that any other error means that the card does not answer.
        """
        try:
            return ask(*arguments)
        except self._nvml.NVMLError as error:
            code = error.value
            if code in GONE or (vital and code not in MERELY_UNTOLD):
                raise _Gone(code, sentence(code, str(error))) from None
            return None

    def _with_processes(
        self,
        readings: Sequence[CardReadings],
        listed: Sequence[Mapping[int, int | None] | None],
        own: frozenset[int],
    ) -> tuple[CardReadings, ...]:
        seen = frozenset(pid for processes in listed for pid in processes or ())
        # An engine that was killed stays listed for a moment; it must not pass for a stranger.
        self._ours = own | (self._ours & seen)
        names = self._names.of(seen - self._ours)
        return tuple(
            reading
            if processes is None
            else replace(
                reading,
                processes=tuple(
                    CardProcess(pid, names[pid], memory)
                    for pid, memory in sorted(processes.items())
                    if pid in names
                ),
            )
            for reading, processes in zip(readings, listed, strict=True)
        )

    def _say(self, problem: str) -> None:
        if problem and problem != self._problem:
            log.warning("%s", problem)
        elif self._problem and not problem:
            log.info("the NVIDIA driver answers again")
        self._problem = problem


@dataclass(frozen=True, slots=True)
class Driver:
    """The driver and its cards at one moment."""

    absent: bool = False  # there is no driver on this machine
    problem: str = ""  # why it does not answer
    version: str = ""
    cards: tuple[tuple[str, str, int], ...] = ()  # name, compute capability ("8.9"), bytes


def ask_driver() -> Driver:
    """The driver and every card it lists, asked once; what it does not tell is empty or 0."""
    try:
        import pynvml
    except ImportError:
        return Driver(problem="nvidia-ml-py is not installed: run `pip install 'foxden[agent]'`")

    def told(ask: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return ask(*arguments)
        except pynvml.NVMLError:
            return None

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        absent = error.value == pynvml.NVML_ERROR_LIBRARY_NOT_FOUND
        return Driver(absent=absent, problem="" if absent else str(error))
    try:
        cards = []
        for index in range(told(pynvml.nvmlDeviceGetCount) or 0):
            handle = told(pynvml.nvmlDeviceGetHandleByIndex, index)
            if handle is None:
                continue
            pair = told(pynvml.nvmlDeviceGetCudaComputeCapability, handle)
            memory = told(pynvml.nvmlDeviceGetMemoryInfo, handle)
            name = _text(told(pynvml.nvmlDeviceGetName, handle) or "an NVIDIA card")
            capability = f"{pair[0]}.{pair[1]}" if pair else ""
            cards.append((name, capability, int(memory.total) if memory else 0))
        version = _text(told(pynvml.nvmlSystemGetDriverVersion) or "")
        return Driver(version=version, cards=tuple(cards))
    finally:
        told(pynvml.nvmlShutdown)


def _scaled(value: int | None, by: int) -> float | None:
    return None if value is None else value / by


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
