"""What batches took, kept and used."""

from __future__ import annotations

from pathlib import Path

import pytest
from placement_models import MODELS, card

from foxden_agent.placement import Placement, Remembered, Work, estimates, place
from foxden_agent.placement.facts import GIB
from foxden_agent.placement.ladder import need
from foxden_agent.placement.remembered import Measurements

SDXL, WORK, CARD = MODELS["SDXL"], Work(1024 * 1024), card(12)
TODAY = 20_000


def chosen(measurements: Measurements, work: Work = WORK) -> Placement:
    found = place(SDXL, CARD, work, measurements.of("card", "sdxl"))
    assert isinstance(found, Placement)
    return found


def note(measurements: Measurements, placement: Placement, peak: int, **more: bool) -> bool:
    return measurements.note("card", "sdxl", SDXL, CARD, placement, WORK, peak, **more)


def test_measured_peak_x_is_what_is_reckoned_with_next_time() -> None:
    measurements = Measurements(TODAY)
    placement = chosen(measurements)
    assert note(measurements, placement, 10 * GIB)
    known = measurements.of("card", "sdxl")
    assert need(SDXL, CARD, placement, WORK, known) == pytest.approx(10.5 * GIB, rel=0.001)


def test_same_again_x_is_no_news() -> None:
    measurements = Measurements(TODAY)
    assert note(measurements, chosen(measurements), 10 * GIB)
    assert not note(measurements, chosen(measurements), 10 * GIB)


def test_out_of_memory_x_steps_down_by_one_rung_and_again() -> None:
    measurements = Measurements(TODAY)
    seen = [chosen(measurements)]
    for _ in range(3):
        note(measurements, seen[-1], estimates.usable(CARD), too_much=True)
        seen.append(chosen(measurements))
    names = [placement.name for placement in seen]
    assert names == [
        "float16 tiled",
        "float16 offload=model",
        "float16 tiled offload=model",
        "float16 tiled offload=group",
    ]


def test_out_of_memory_x_smaller_pictures_keep_their_rung() -> None:
    measurements = Measurements(TODAY)
    note(measurements, chosen(measurements), estimates.usable(CARD), too_much=True)
    assert chosen(measurements, Work(256 * 256)).name == "float16"


def test_out_of_memory_x_one_lucky_success_does_not_undo_it() -> None:
    measurements = Measurements(TODAY)
    placement = chosen(measurements)
    note(measurements, placement, estimates.usable(CARD), too_much=True)
    assert not note(measurements, placement, 8 * GIB)
    assert chosen(measurements).name != placement.name


def test_file_x_read_again_x_says_the_same(tmp_path: Path) -> None:
    file = tmp_path / "placement.json"
    measurements = Measurements.read(file, TODAY)
    note(measurements, chosen(measurements), estimates.usable(CARD), too_much=True)
    measurements.write(file)
    again = Measurements.read(file, TODAY)
    assert chosen(again) == chosen(measurements)
    assert again.of("other card", "sdxl") == Remembered()


def test_out_of_memory_of_last_week_x_is_forgotten(tmp_path: Path) -> None:
    file = tmp_path / "placement.json"
    measurements = Measurements.read(file, TODAY)
    before = chosen(measurements)
    note(measurements, before, estimates.usable(CARD), too_much=True)
    measurements.write(file)
    assert chosen(Measurements.read(file, TODAY + 7)) != before
    assert chosen(Measurements.read(file, TODAY + 8)) == before


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"version": 1, "rows": [[1]]}', '{"version": 99, "rows": []}']
)
def test_broken_file_x_is_begun_anew(tmp_path: Path, text: str) -> None:
    file = tmp_path / "placement.json"
    file.write_text(text)
    assert Measurements.read(file, TODAY).of("card", "sdxl") == Remembered()


def test_many_models_x_the_file_stays_small(tmp_path: Path) -> None:
    file = tmp_path / "placement.json"
    measurements = Measurements(TODAY)
    placement = chosen(measurements)
    for number in range(2000):
        measurements.note("card", f"{number:064}", SDXL, CARD, placement, WORK, 10 * GIB)
    measurements.write(file)
    assert file.stat().st_size < 100_000
    assert measurements.of("card", f"{1999:064}").factors
    assert not measurements.of("card", f"{0:064}").factors


def test_disk_is_full_for_a_while_x_is_said_once_and_written_when_there_is_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    measurements, file = Measurements(TODAY), tmp_path / "away" / "placement.json"
    placement = chosen(measurements)
    assert note(measurements, placement, 10 * GIB)
    measurements.write(file)
    measurements.write(file)
    assert len(caplog.messages) == 1
    assert measurements.unwritten
    file.parent.mkdir()
    measurements.write(file)
    assert not measurements.unwritten
    assert Measurements.read(file, TODAY).of("card", "sdxl").factors


def test_folder_that_cannot_be_written_x_costs_the_memory_of_it_alone(tmp_path: Path) -> None:
    measurements = Measurements(TODAY)
    measurements.write(tmp_path / "missing" / "placement.json")
    assert note(measurements, chosen(measurements), 10 * GIB)
