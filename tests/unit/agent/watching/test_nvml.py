"""Cards by the real pynvml, on a stand-in library that misbehaves as drivers do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
from nvml_stand_in import GIB, OtherProcess, StandIn, card

from foxden_agent.readings import CardProcess, CardReadings

NOT_SUPPORTED, GPU_IS_LOST, UNKNOWN, MISMATCH, NOT_LOADED = 3, 15, 999, 18, 9

Reading = Callable[..., Callable[..., tuple[CardReadings, ...]]]


def test_a_card_that_tells_everything_is_read_in_our_units(
    stand_in: StandIn, reading: Reading
) -> None:
    stand_in.cards[0].update(reasons=0x4 | 0x40 | 0x80, fan=104)
    (read,) = reading("cuda:0")(10.5)
    assert read == CardReadings(
        "cuda:0",
        10.5,
        memory_total=12 * GIB,
        memory_used=2 * GIB,
        memory_free=12 * GIB - 2 * GIB - GIB // 2,
        temperature=61,
        temperature_slowdown=88,
        temperature_shutdown=93,
        utilisation=0.4,
        power=120.5,
        power_limit=200,
        energy=5000,
        clock=2475,
        fan=1,
        throttled=frozenset({"power", "heat", "brake"}),
        processes=(),
    )


FIGURES = {
    "temperature": "temperature",
    "slowdown": "temperature_slowdown",
    "shutdown": "temperature_shutdown",
    "utilisation": "utilisation",
    "power": "power",
    "limit": "power_limit",
    "energy": "energy",
    "clock": "clock",
    "fan": "fan",
    "total": "memory_total",
}


@pytest.mark.parametrize("code", [NOT_SUPPORTED, UNKNOWN])
def test_one_figure_fails_that_one_alone_is_none(
    stand_in: StandIn, reading: Reading, code: int
) -> None:
    read = reading("cuda:0")
    for at, (figure, field) in enumerate(FIGURES.items()):
        if (figure, code) == ("total", UNKNOWN):
            continue  # that is a card that is gone: see below
        stand_in.driver["restarted"] = at  # thresholds are asked when NVML is started
        stand_in.cards[0] = card(**{f"error.{figure}": code})
        read(1000 * at)
        (told,) = read(1000 * at + 100)
        assert told.present
        assert {name for name in FIGURES.values() if getattr(told, name) is None} == {field}


def test_driver_without_the_newer_memory_call_is_asked_the_older_way(
    stand_in: StandIn, reading: Reading
) -> None:
    stand_in.cards[0]["error.memory_v2"] = 13
    (read,) = reading("cuda:0")(0)
    assert read.memory_used == 2 * GIB + GIB // 2
    assert read.memory_free == 12 * GIB - 2 * GIB - GIB // 2


def test_driver_with_older_names_tells_throttling_and_processes(
    stand_in: StandIn, reading: Reading
) -> None:
    (stand_in.folder / "libnvidia-ml.so.1").unlink()
    stand_in.build("-DOLD_NAMES")
    stand_in.cards[0].update(reasons=0x20, compute=f"4000001:{GIB}")
    (read,) = reading("cuda:0")(0)
    assert read.throttled == {"heat"}
    assert read.processes == (CardProcess(4000001, "", GIB),)


def test_others_programs_are_told_with_their_names_and_ours_are_left_out(
    stand_in: StandIn, reading: Reading
) -> None:
    game = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        stand_in.cards[0].update(
            compute=f"{os.getpid()}:{3 * GIB},{game.pid}:{GIB}", graphics=f"{game.pid}:{GIB}"
        )
        (read,) = reading("cuda:0")(0, os.getpid())
        assert read.processes is not None
        assert [(p.pid, p.memory) for p in read.processes] == [(game.pid, GIB)]
        assert read.processes[0].name.startswith("python")
        assert read.foreign_memory == GIB
    finally:
        game.communicate(b"\n")


def test_windows_keeps_the_memory_of_each_program_to_itself(
    stand_in: StandIn, reading: Reading
) -> None:
    stand_in.cards[0].update(graphics="4000001:-1,4000002:-1")
    (read,) = reading("cuda:0")(0)
    assert read.processes == (CardProcess(4000001, ""), CardProcess(4000002, ""))
    assert read.foreign_memory is None


def test_driver_tells_of_no_programs_at_all_processes_are_none(
    stand_in: StandIn, reading: Reading
) -> None:
    stand_in.cards[0].update({"error.compute": NOT_SUPPORTED, "error.graphics": NOT_SUPPORTED})
    (read,) = reading("cuda:0")(0)
    assert read.processes is None
    assert read.foreign_memory is None


def test_engine_that_was_killed_but_is_listed_still_is_no_stranger(
    stand_in: StandIn, reading: Reading
) -> None:
    read = reading("cuda:0")
    stand_in.cards[0]["compute"] = f"4000001:{GIB}"
    assert read(0, 4000001)[0].processes == ()
    assert read(1)[0].processes == ()  # its process is gone, its memory not yet
    stand_in.cards[0]["compute"] = "-"
    assert read(2)[0].processes == ()
    stand_in.cards[0]["compute"] = f"4000001:{GIB}"  # the system uses the number again
    assert read(3)[0].foreign_memory == GIB


def test_two_cards_are_read_each_as_itself(stand_in: StandIn, reading: Reading) -> None:
    stand_in.cards[1] = card(1)
    one, other = reading("cuda:0", "cuda:1")(0)
    assert (one.device, one.temperature) == ("cuda:0", 61)
    assert (other.device, other.temperature) == ("cuda:1", 62)


def test_bus_order_that_the_environment_asks_for_is_followed(
    stand_in: StandIn, reading: Reading
) -> None:
    stand_in.cards[1] = card(1)
    environment = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "1"}
    (read,) = reading("cuda:0", **environment)(0)
    assert read.temperature == 62


@pytest.mark.parametrize("code", [GPU_IS_LOST, 6, 16])
def test_card_vanishes_it_alone_is_not_present_and_comes_back_by_itself(
    stand_in: StandIn, reading: Reading, code: int
) -> None:
    stand_in.cards[1] = card(1)
    read = reading("cuda:0", "cuda:1")
    assert all(one.present for one in read(0))
    stand_in.cards[0]["lost"] = code
    for at in (1, 6, 20):  # also once the driver was started again and lists one card of the two
        gone, other = read(at)
        assert not gone.present
        assert gone.problem
        assert gone.memory_total is None
        assert (other.present, other.temperature) == (True, 62)
    del stand_in.cards[0]["lost"]
    back, other = read(100)
    assert (back.present, back.temperature, back.problem) == (True, 61, "")
    assert other.present


def test_card_cannot_tell_its_memory_for_an_unknown_reason_it_is_gone(
    stand_in: StandIn, reading: Reading
) -> None:
    read = reading("cuda:0")
    read(0)
    stand_in.cards[0].update({"error.memory_v2": UNKNOWN, "error.total": UNKNOWN})
    (gone,) = read(1)
    assert not gone.present


def test_driver_is_restarted_nvml_is_started_again(stand_in: StandIn, reading: Reading) -> None:
    read = reading("cuda:0")
    read(0)
    stand_in.driver["restarted"] = 1
    assert not read(10)[0].present
    (back,) = read(11)
    assert (back.present, back.temperature) == (True, 61)
    assert stand_in.inits == 2


def test_driver_is_updated_under_us_the_new_library_is_loaded(
    stand_in: StandIn, reading: Reading
) -> None:
    read = reading("cuda:0")
    assert read(0)[0].present
    stand_in.driver["driver"] = 2
    assert not read(10)[0].present
    (away,) = read(20)
    assert "updated" in away.problem
    (stand_in.folder / "libnvidia-ml.so.1").unlink()
    stand_in.build("-DDRIVER=2")
    (back,) = read(100)
    assert (back.present, back.temperature) == (True, 61)


def test_driver_stays_away_it_is_not_started_at_every_reading(
    stand_in: StandIn, reading: Reading
) -> None:
    stand_in.driver["init"] = 17
    read = reading("cuda:0")
    for at in range(120):
        (gone,) = read(at)
        assert not gone.present
        assert gone.problem
    assert stand_in.inits <= 7  # after 0, 5, 10, 20, 40, 60 s
    del stand_in.driver["init"]
    assert any(read(at)[0].present for at in range(120, 181))


def test_no_nvml_at_all_says_so(stand_in: StandIn) -> None:
    environment = {**stand_in.environment, "LD_LIBRARY_PATH": ""}
    with OtherProcess("nvml_reading.py", "read", "cuda:0", environment=environment) as other:
        (told,) = other.ask({"at": 0})
    assert told["present"] is False
    assert "driver was not found" in told["problem"]


def test_driver_hangs_the_card_is_said_to_be_away_and_comes_back(stand_in: StandIn) -> None:
    stand_in.tell()
    with OtherProcess(
        "nvml_reading.py", "watch", "cuda:0", environment=stand_in.environment
    ) as other:

        def until(present: bool) -> dict[str, object]:
            while (told := other.hear()[0])["present"] is not present:
                pass
            return told

        assert until(True)["temperature"] == 61
        stand_in.driver["hang"] = 1
        stand_in.tell()
        assert "have not come" in str(until(False)["problem"])
        del stand_in.driver["hang"]
        stand_in.cards[0]["temperature"] = 70
        stand_in.tell()
        assert until(True)["temperature"] == 70


def test_doctor_asks_the_driver_for_its_cards(stand_in: StandIn) -> None:
    stand_in.tell()
    program = "from foxden_agent.doctor.facts import driver_facts; print(driver_facts())"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=stand_in.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "absent=False" in done.stdout
    assert "name='NVIDIA GeForce RTX 4070'" in done.stdout
    assert f"memory_total={12 * GIB}" in done.stdout
