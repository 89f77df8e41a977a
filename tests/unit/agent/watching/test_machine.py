"""The machine, its user and the CPU card."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass

import psutil
import pytest

from foxden_agent.watching.cpu import CpuCard, hottest
from foxden_agent.watching.machine import (
    AtTheScreen,
    Machine,
    battery,
    desktop_of_this_system,
    on_the_list,
)
from foxden_agent.watching.names import ProgramNames, program_name


@dataclass
class Sensor:
    current: float | None
    high: float | None = None
    critical: float | None = None


@dataclass
class Battery:
    percent: float
    power_plugged: bool | None


class Desktop:
    def look(self, at: float) -> AtTheScreen:
        return AtTheScreen("doom", 12.5)


class Looker:
    """Names of processes, and which of them were looked up."""

    def __init__(self, **names: str) -> None:
        self.names = {int(pid.removeprefix("p")): name for pid, name in names.items()}
        self.looked: list[int] = []

    def __call__(self, pid: int) -> str:
        self.looked.append(pid)
        return self.names.get(pid, "")


def test_known_processes_are_not_looked_up_again() -> None:
    look = Looker(p1="init", p2="game")
    names = ProgramNames(look)
    for _ in range(5):
        assert names.of([1, 2]) == {1: "init", 2: "game"}
    before = list(look.looked)
    assert names.of([1, 2, 3]) == {1: "init", 2: "game", 3: ""}
    assert look.looked == [*before, 3]


def test_launcher_that_becomes_the_game_is_seen_as_the_game() -> None:
    look = Looker(p7="launcher")
    names = ProgramNames(look)
    names.of([7])
    look.names[7] = "game"
    assert names.of([7]) == {7: "game"}


def test_process_number_that_is_used_again_is_looked_up_again() -> None:
    look = Looker(p7="old")
    names = ProgramNames(look)
    for _ in range(4):
        names.of([7])
    names.of([])
    look.names[7] = "new"
    assert names.of([7]) == {7: "new"}


def test_name_of_a_process_that_is_gone_is_empty() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert program_name(gone.pid) == ""
    assert program_name(os.getpid()).startswith("python")


def test_programs_are_found_in_any_case_and_told_as_the_owner_wrote_them() -> None:
    running = ["Witcher3.exe", "blender", "bash"]
    assert on_the_list(running, frozenset({"WITCHER3", "blender.exe", "doom"})) == {
        "WITCHER3",
        "blender.exe",
    }
    assert on_the_list(running, frozenset()) == frozenset()


def test_program_that_starts_is_seen_and_its_end_too() -> None:
    listed = program_name(os.getpid())
    other = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    machine = Machine(Desktop(), lambda: frozenset({listed, "no such program"}))
    try:
        read = machine.read(5, 1_700_000_000)
        assert read.programs == {listed}
        assert (read.full_screen, read.idle_seconds, read.at) == ("doom", 12.5, 5)
        assert read.memory_free is not None
        assert 0 < read.memory_free <= psutil.virtual_memory().total
    finally:
        other.communicate(b"\n")


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (None, (None, None)),
        (Battery(50, False), (True, 0.5)),
        (Battery(100.4, True), (False, 1.0)),
        (Battery(80, None), (None, 0.8)),
    ],
)
def test_battery_is_told_as_far_as_it_is_known(
    told: Battery | None, expected: tuple[bool | None, float | None]
) -> None:
    assert battery(told) == expected


def test_hottest_core_of_the_best_known_sensor_counts() -> None:
    sensors = {
        "nvme": [Sensor(70)],
        "acpitz": [Sensor(20)],
        "coretemp": [Sensor(50, 100, 105), Sensor(63, 101, 106), Sensor(None)],
    }
    assert hottest(sensors) == (63, 101, 106)


@pytest.mark.parametrize("sensors", [{}, {"nvme": [Sensor(70)]}, {"coretemp": [Sensor(0)]}])
def test_no_sensor_of_the_processor_tells_nothing(sensors: dict[str, list[Sensor]]) -> None:
    assert hottest(sensors) == (None, None, None)


def test_thresholds_that_cannot_be_are_left_out() -> None:
    assert hottest({"k10temp": [Sensor(60, 0, 65261.85)]}) == (60, None, None)


def test_cpu_card_has_the_machines_memory() -> None:
    card = CpuCard()
    begun = time.process_time()
    while time.process_time() - begun < 0.05:
        pass
    read = card.read(3)
    assert (read.device, read.at, read.present) == ("cpu", 3, True)
    assert read.memory_total == psutil.virtual_memory().total
    assert read.memory_used is not None
    assert read.memory_free is not None
    assert read.memory_used + read.memory_free == read.memory_total
    assert read.utilisation is not None
    assert 0 < read.utilisation <= 1
    assert read.processes is None


def test_desktop_of_this_system_answers_or_says_that_it_cannot() -> None:
    seen = desktop_of_this_system().look(0)
    assert seen.idle_seconds is None or seen.idle_seconds >= 0
