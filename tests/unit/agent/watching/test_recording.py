"""Recordings: written, read back, refused, played."""

from __future__ import annotations

import asyncio
import json
import math
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foxden_agent.readings import CardProcess, CardReadings, MachineReadings, Readings
from foxden_agent.watching.player import Player, roles
from foxden_agent.watching.recorder import Recorder
from foxden_agent.watching.recording import BadRecording, Encoder, Recording, header

BEGUN = datetime(2026, 11, 20, 21, 3)  # noqa: DTZ001 - a recording begins at a local time
HEAD = '{"foxden_readings": 1, "begun": "2026-11-20T21:03:00"}\n'

sizes = st.none() | st.integers(0, 1 << 40)
amounts = st.none() | st.floats(0, 1e6).map(lambda value: round(value, 3))
shares = st.none() | st.floats(0, 1).map(lambda value: round(value, 3))
names = st.text(max_size=12)
processes = st.builds(CardProcess, st.integers(0, 1 << 22), names, sizes)


def card(device: str) -> st.SearchStrategy[CardReadings]:
    return st.builds(
        CardReadings,
        st.just(device),
        st.just(0.0),
        present=st.booleans(),
        memory_total=sizes,
        memory_used=sizes,
        memory_free=sizes,
        temperature=amounts,
        utilisation=shares,
        power=amounts,
        energy=amounts,
        fan=shares,
        throttled=st.frozensets(st.sampled_from(["power", "heat", "hardware", "brake"])),
        processes=st.none() | st.lists(processes, max_size=3).map(tuple),
        problem=names,
    )


machines = st.builds(
    MachineReadings,
    st.just(0.0),
    st.just(0.0),
    full_screen=st.none() | names,
    programs=st.frozensets(names, max_size=3),
    on_battery=st.none() | st.booleans(),
    battery=shares,
    idle_seconds=amounts,
    memory_free=sizes,
)
moments = st.builds(Readings, machines, st.tuples(card("cuda:0"), card("cpu")))


def timed(readings: Readings, at: float, wall: float) -> Readings:
    return Readings(
        replace(readings.machine, at=at, wall=wall),
        tuple(replace(one, at=at) for one in readings.cards),
    )


def simple(at: float, temperature: float = 50, wall: float | None = None) -> Readings:
    return Readings(
        MachineReadings(at, BEGUN.timestamp() + at if wall is None else wall),
        (CardReadings("cuda:0", at, temperature=temperature),),
    )


def written(path: Path, *lines: str, head: str = HEAD) -> Path:
    path.write_text(head + "".join(line + "\n" for line in lines))
    return path


class Clock:
    """Time that passes when somebody sleeps, and the sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)
        await asyncio.sleep(0)


async def played(
    recording: Recording, devices: Sequence[str], speed: float = 1.0, more: int = 0
) -> tuple[list[Readings], Clock]:
    """All that a player delivers to the end of the recording, and so many repeats."""
    clock = Clock()
    heard: list[Readings] = []
    enough = asyncio.Event()

    def deliver(readings: Readings) -> None:
        heard.append(readings)
        if player.over.is_set() and len(heard) - at_end[0] >= more:
            enough.set()
        at_end[0] = at_end[0] if player.over.is_set() else len(heard)

    at_end = [0]
    player = Player(recording, devices, deliver, speed=speed, clock=clock, sleep=clock.sleep)
    task = asyncio.create_task(player.run())
    await asyncio.wait_for(enough.wait() if more else player.over.wait(), 20)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    return heard[: at_end[0] + more], clock


@settings(max_examples=40)
@given(st.lists(moments, min_size=1, max_size=5))
def test_what_was_recorded_is_what_is_read_back(recorded: list[Readings]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "readings.jsonl")
        record = Recorder(path)
        ats = [100.0 + number for number in range(len(recorded))]
        for at, readings in zip(ats, recorded, strict=True):
            record(timed(readings, at, BEGUN.timestamp() + at))
        record.close()
        read = [moment.readings for moment in Recording(path).moments()]
    assert read == [timed(readings, number, number) for number, readings in enumerate(recorded)]


def test_only_what_changed_is_written(tmp_path: Path) -> None:
    record = Recorder(tmp_path / "r")
    for at, temperature in ((5, 50), (6, 50), (7, 51)):
        record(simple(at, temperature))
    record.close()
    lines = [json.loads(line) for line in (tmp_path / "r").read_text().splitlines()]
    assert lines[1:] == [
        {"t": 0, "cards": {"cuda:0": {"temperature": 50}}},
        {"t": 1},
        {"t": 2, "cards": {"cuda:0": {"temperature": 51}}},
    ]


def test_clock_that_jumps_is_recorded_and_one_that_drifts_is_not(tmp_path: Path) -> None:
    record = Recorder(tmp_path / "r")
    start = BEGUN.timestamp()
    for at, wall in ((0, start), (1, start + 1.4), (2, start + 3602), (3, start + 3603)):
        record(simple(at, wall=wall))
    record.close()
    walls = [moment.readings.machine.wall for moment in Recording(tmp_path / "r").moments()]
    assert walls == [0, 1, 3602, 3603]


def test_file_is_full_it_is_kept_once_and_begun_again(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "r"
    record = Recorder(path, most_bytes=2000)
    for at in range(200):
        record(simple(at, temperature=at))
    record.close()
    older = path.with_name("r.1")
    assert {file.name for file in path.parent.iterdir()} == {"r", "r.1"}
    assert older.stat().st_size < 2200
    assert path.stat().st_size < 2200
    temperatures = [
        moment.readings.card("cuda:0").temperature
        for file in (older, path)
        for moment in Recording(file).moments()
    ]
    assert temperatures == list(range(200 - len(temperatures), 200))


def test_disk_is_full_the_recording_ends_and_nothing_else(tmp_path: Path, caplog) -> None:
    record = Recorder(Path("/dev/full"))
    for at in range(3):
        record(simple(at))
    assert caplog.text.count("the recording /dev/full ends here") == 1


def test_recording_that_was_cut_by_a_kill_plays_to_its_last_whole_line(tmp_path: Path) -> None:
    record = Recorder(tmp_path / "r")
    record(simple(0))
    record(simple(1))
    read = [moment.t for moment in Recording(tmp_path / "r").moments()]  # not closed
    assert read == [0, 1]


GOOD = '{"t":0,"cards":{"card":{"temperature":50}}}'


@pytest.mark.parametrize(
    ("lines", "head", "why"),
    [
        ([], "", "it is empty"),
        ([], "holiday pictures\n", "not a JSON object"),
        ([], '{"t": 0}\n', "not that of a recording"),
        ([], HEAD.replace("1,", "2,"), "its version is 2"),
        ([], '{"foxden_readings": 1}\n', "when it was begun"),
        ([], '{"foxden_readings": 1, "begun": "yesterday"}\n', "when it was begun"),
        ([], '{"foxden_readings": 1, "begun": 7}\n', "when it was begun"),
        ([], HEAD, "holds no readings"),
        (["[1]"], HEAD, "line 2: an object"),
        (['{"t":0}'], HEAD, "names no card"),
        (['{"cards":{"card":{}}}'], HEAD, "line 2: None is not a number"),
        ([GOOD, '{"t":-1}'], HEAD, "line 3: its time goes back"),
        ([GOOD, '{"t":NaN}'], HEAD, "line 3: NaN"),
        ([GOOD, '{"t":1e999}'], HEAD, "line 3: inf"),
        ([GOOD, '{"t":true}'], HEAD, "line 3: True"),
        ([GOOD, '{"t":1,"prompt":"x"}'], HEAD, "line 3: 'prompt' is unknown"),
        ([GOOD, '{"t":1,"cards":{"other":{}}}'], HEAD, "line 3: the card 'other' is new"),
        ([GOOD, '{"t":1,"cards":{"card":{"heat":1}}}'], HEAD, "line 3: 'heat' is unknown"),
        ([GOOD, '{"t":1,"cards":{"card":{"fan":2}}}'], HEAD, "line 3: fan: 2 is not from 0 to 1"),
        ([GOOD, '{"t":1,"cards":{"card":{"memory_used":-1}}}'], HEAD, "memory_used: -1"),
        ([GOOD, '{"t":1,"cards":{"card":{"present":1}}}'], HEAD, "present: 1 is not true"),
        ([GOOD, '{"t":1,"cards":{"card":{"processes":[[1,2]]}}}'], HEAD, "processes"),
        ([GOOD, '{"t":1,"machine":{"full_screen":3}}'], HEAD, "full_screen: a text"),
        ([GOOD, '{"t":1,"machine":{"programs":"doom"}}'], HEAD, "programs: a list"),
        ([GOOD, '{"t":1,"machine":{"clock_offset":null}}'], HEAD, "clock_offset: None"),
        ([GOOD, "[" * 100_000], HEAD, "line 3: it is not a JSON object"),
        ([GOOD, '{"t":1,"machine":{"full_screen":"' + "x" * 300_000 + '"}}'], HEAD, "too long"),
    ],
)
def test_bad_file_is_refused_with_a_sentence_and_the_line(
    tmp_path: Path, lines: list[str], head: str, why: str
) -> None:
    path = written(tmp_path / "bad.jsonl", *lines, head=head)
    with pytest.raises(BadRecording) as refused:
        Recording(path)
    assert why in str(refused.value)
    assert str(refused.value).startswith(str(path))
    assert str(refused.value).endswith((".", "--replay."))


def test_file_that_is_cut_or_not_there_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r"
    path.write_text(HEAD + GOOD)
    with pytest.raises(BadRecording, match="cut"):
        Recording(path)
    with pytest.raises(BadRecording, match="check --replay"):
        Recording(tmp_path / "nothing")
    with pytest.raises(BadRecording, match="check --replay"):
        Recording(tmp_path)
    (tmp_path / "b").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    with pytest.raises(BadRecording, match="cut"):
        Recording(tmp_path / "b")


async def test_player_keeps_the_recordings_pace_times_the_speed(tmp_path: Path) -> None:
    lines = ['{"t":60}', '{"t":180,"machine":{"clock_offset":3600}}']
    recording = Recording(written(tmp_path / "r", GOOD, *lines))
    heard, clock = await played(recording, ["cuda:0"], speed=60)
    assert clock.slept[:3] == [0, 1, 2]
    assert [readings.machine.at for readings in heard] == [1000, 1060, 1180]
    assert [readings.cards[0].at for readings in heard] == [1000, 1060, 1180]
    local = [datetime.fromtimestamp(readings.machine.wall) for readings in heard]  # noqa: DTZ006
    hour = timedelta(hours=1)
    assert local == [BEGUN, BEGUN + timedelta(seconds=60), BEGUN + timedelta(seconds=180) + hour]


async def test_after_the_end_the_last_readings_stay_and_time_goes_on(tmp_path: Path) -> None:
    recording = Recording(written(tmp_path / "r", GOOD, '{"t":10}'))
    heard, _ = await played(recording, ["cpu"], speed=10, more=3)
    assert [card.temperature for readings in heard for card in readings.cards] == [50] * 5
    ats = [readings.machine.at for readings in heard]
    assert ats[:2] == [1000, 1010]
    assert ats[1] < ats[2] < ats[3] < ats[4]
    walls = [readings.machine.wall for readings in heard]
    for at, wall in zip(ats, walls, strict=True):
        assert math.isclose(wall - walls[0], at - ats[0], abs_tol=1e-3)


async def test_device_of_which_nothing_was_recorded_tells_nothing(tmp_path: Path) -> None:
    recording = Recording(written(tmp_path / "r", GOOD))
    heard, _ = await played(recording, ["cuda:0", "cuda:1"])
    one, other = heard[0].cards
    assert (one.device, one.temperature) == ("cuda:0", 50)
    assert other == CardReadings("cuda:1", 1000)


@pytest.mark.parametrize(
    ("recorded", "devices", "expected"),
    [
        (["card"], ["cuda:0", "cuda:1"], {"cuda:0": "card"}),
        (["card"], ["cpu"], {"cpu": "card"}),
        (["cuda:1", "card"], ["cuda:0", "cuda:1"], {"cuda:1": "cuda:1", "cuda:0": "card"}),
        (["cuda:0"], ["cpu"], {"cpu": "cuda:0"}),
        (["cuda:0", "cuda:1"], ["cuda:1"], {"cuda:1": "cuda:1"}),
    ],
)
def test_recorded_cards_are_played_by_name_and_then_in_order(
    recorded: list[str], devices: list[str], expected: dict[str, str]
) -> None:
    assert roles(recorded, devices) == expected


@pytest.mark.parametrize("speed", [0, -1, 5000, math.nan])
def test_impossible_speed_is_refused(tmp_path: Path, speed: float) -> None:
    recording = Recording(written(tmp_path / "r", GOOD))
    with pytest.raises(ValueError, match="speed"):
        Player(recording, ["cpu"], print, speed=speed)


def test_names_are_written_in_plain_ascii(tmp_path: Path) -> None:
    readings = Readings(MachineReadings(0, 0, full_screen="Füchse"), (CardReadings("cpu", 0),))
    line = Encoder().line(0, 0, readings)
    assert line.isascii()
    path = written(tmp_path / "r", line, head=header(BEGUN) + "\n")
    (moment,) = Recording(path).moments()
    assert moment.readings.machine.full_screen == "Füchse"
