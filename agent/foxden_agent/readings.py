"""What the agent knows of a card and its machine at one moment. Values alone: nothing here reads.

`watching/` fills them in, `policy/` decides by them, `placement/` takes memory from them. None
stands for what a device or a system does not tell; a driver may tell a figure at one moment and
not at the next.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CardProcess:
    """A program that uses a card and is not ours."""

    pid: int
    name: str  # of the program's file, e.g. "witcher3.exe"; empty where it may not be asked
    memory: int | None = None  # bytes of the card; None: Windows keeps it to itself


@dataclass(frozen=True, slots=True)
class CardReadings:
    """One card. For the CPU card memory is the machine's RAM, and most else is None."""

    device: str  # "cuda:0", "cpu"
    at: float  # seconds of clock.now(), which counts sleep
    present: bool = True  # False: the card, or its driver, cannot be asked now
    memory_total: int | None = None  # bytes
    memory_used: int | None = None  # bytes, by everybody
    memory_free: int | None = None  # bytes
    temperature: float | None = None  # degrees Celsius
    temperature_slowdown: float | None = None  # degrees at which the card slows itself down
    temperature_shutdown: float | None = None
    utilisation: float | None = None  # 0 to 1, of everybody, over the driver's last period
    power: float | None = None  # watts
    power_limit: float | None = None  # watts, as enforced
    energy: float | None = None  # joules since the driver was loaded
    clock: float | None = None  # MHz, graphics
    fan: float | None = None  # 0 to 1
    throttled: frozenset[str] = frozenset()  # of "power", "heat", "hardware", "brake"
    processes: tuple[CardProcess, ...] | None = None  # others' programs; None: not told
    problem: str = ""  # for the owner: why it is not present, and what to do

    @property
    def foreign_memory(self) -> int | None:
        """Bytes that others' programs hold, where the driver tells of each; else None."""
        if self.processes is None or any(p.memory is None for p in self.processes):
            return None
        return sum(p.memory or 0 for p in self.processes)


@dataclass(frozen=True, slots=True)
class MachineReadings:
    """The machine and its user."""

    at: float  # seconds of clock.now(), which counts sleep
    wall: float  # Unix seconds; the timetable reads local time from it
    full_screen: str | None = None  # program that fills the screen; "": none; None: not told
    programs: frozenset[str] = frozenset()  # names of running programs that are on a list
    on_battery: bool | None = None  # None: no battery, or not told
    battery: float | None = None  # 0 to 1
    idle_seconds: float | None = None  # since the user last touched anything
    memory_free: int | None = None  # bytes of RAM that programs can have


@dataclass(frozen=True, slots=True)
class Readings:
    """What was read at one moment: the machine, and each card that was asked for, in that order.

    `machine.at` is the moment. A card's own `at` may lie a few seconds earlier, where its driver
    is slow to answer.
    """

    machine: MachineReadings
    cards: tuple[CardReadings, ...]

    def card(self, device: str) -> CardReadings:
        """The card of that name, e.g. "cuda:0". Raises KeyError where it was not asked for."""
        for card in self.cards:
            if card.device == device:
                return card
        raise KeyError(device)
