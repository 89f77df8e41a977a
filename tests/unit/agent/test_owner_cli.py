"""`foxden pause`, `resume` and `policy`, through the command line that owners type."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from foxden.cli import main
from foxden_agent.policy import owner_files
from foxden_agent.policy.owner_files import OwnerFiles
from foxden_agent.policy.wishes import Kind, Wish

Foxden = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "agent"


@pytest.fixture
def foxden(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Foxden:
    def run(*words: str) -> tuple[int, str, str]:
        code = main.main([*words, "--home", str(tmp_path)])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def answered(result: tuple[int, str, str]) -> Any:
    assert result[0] == 0, result
    return json.loads(result[1])


def wish(folder: Path) -> Wish | None:
    return OwnerFiles(folder, owner_files.last_run(folder)).look().wish


@pytest.mark.parametrize(
    ("words", "kind", "seconds"),
    [
        ((), Kind.FOREVER, 0),
        (("--for", "1h"), Kind.FOR, 3600),
        (("--for=90s",), Kind.FOR, 90),
        (("--until-tomorrow",), Kind.TOMORROW, 0),
        (("--finish-current",), Kind.FINISH, 0),
    ],
)
def test_pause_writes_a_wish_that_the_agent_reads(
    foxden: Foxden, folder: Path, words: tuple[str, ...], kind: Kind, seconds: float
) -> None:
    before = time.time()
    code, said, _ = foxden("pause", *words)
    assert code == 0
    assert "`foxden resume`" in said
    found = wish(folder)
    assert found is not None
    assert (found.kind, found.seconds) == (kind, seconds)
    assert before <= found.made <= time.time()


def test_pause_as_json_tells_when_it_ends(foxden: Foxden) -> None:
    data = answered(foxden("pause", "--for", "15m", "--json"))
    assert data["ends"] - data["wish"]["made"] == 900


def test_resume_takes_the_wish_back(foxden: Foxden, folder: Path) -> None:
    foxden("pause")
    assert answered(foxden("resume", "--json")) == {"wish": None}
    assert wish(folder) is None


def test_until_restart_means_the_run_that_goes_on(foxden: Foxden, folder: Path) -> None:
    owner_files.begin_run(folder)
    assert foxden("pause", "--until-restart")[0] == 0
    assert wish(folder) is not None
    owner_files.begin_run(folder)
    assert wish(folder) is None


def test_until_restart_before_any_agent_ran_says_what_to_do(foxden: Foxden, folder: Path) -> None:
    code, out, error = foxden("pause", "--until-restart", "--json")
    assert code == 1
    assert json.loads(out)["error"]["type"] == "NoAgent"
    assert "start it, or pause with --for 1h" in error
    assert not folder.exists()


@pytest.mark.parametrize(
    "words",
    [("--for", "3"), ("--for", "0s"), ("--for", "31d"), ("--for", "1h", "--until-tomorrow")],
)
def test_pause_that_cannot_be_is_refused(
    foxden: Foxden, folder: Path, words: tuple[str, ...]
) -> None:
    assert foxden("pause", *words)[0] == 2
    assert not folder.exists()


def test_policy_set_then_show_tells_it(foxden: Foxden, folder: Path) -> None:
    assert answered(foxden("policy", "set", "temperature.stop", "85", "--json")) == {
        "temperature.stop": 85
    }
    foxden("policy", "set", "quiet_hours", "mon-fri 18:00-23:30", "sat,sun 22:00-02:00")
    foxden("policy", "set", "programs", "witcher3.exe")
    foxden("policy", "set", "memory_in_use", "6 GB")
    foxden("policy", "set", "only_when_away", "true")
    data = answered(foxden("policy", "show", "--json"))
    assert data["policy"]["temperature"] == {"stop": 85, "resume": 75, "hold": 120}
    assert data["policy"]["programs"] == ["witcher3.exe"]
    assert data["policy"]["only_when_away"] is True
    assert data["file"] == str(folder / "policy.json")
    text = foxden("policy", "show")[1]
    assert "mon,tue,wed,thu,fri 18:00-23:30; sat,sun 22:00-02:00" in text
    assert foxden("policy", "set", "programs")[0] == 0  # none: the list is empty
    assert answered(foxden("policy", "show", "--json"))["policy"]["programs"] == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("temperature.stop", "200"), "temperature.stop is 200: give a number from 40 to 110"),
        (("hold", "long"), "hold is 'long': give a number"),
        (("hold", "1", "2"), "hold takes one value, not 2"),
        (("warmth", "1"), "there is no setting 'warmth': take one of programs"),
        (("quiet_hours", "noon"), "quiet_hours is ['noon']: give a list"),
    ],
)
def test_bad_setting_is_refused_and_nothing_is_written(
    foxden: Foxden, folder: Path, words: tuple[str, ...], sentence: str
) -> None:
    code, out, error = foxden("policy", "set", *words, "--json")
    assert code == 2
    assert error.startswith(f"foxden: {sentence}")
    assert json.loads(out)["error"]["message"].startswith(sentence)
    assert not folder.exists()


def test_show_of_a_file_with_a_bad_value_says_which(foxden: Foxden, folder: Path) -> None:
    folder.mkdir()
    (folder / "policy.json").write_text('{"hold": -1}')
    data = answered(foxden("policy", "show", "--json"))
    assert data["policy"]["hold"] == 30
    assert data["problems"] == ["hold is -1: give a number from 0 to 3600 (seconds)"]


@pytest.mark.parametrize("words", [("pause",), ("resume",), ("policy", "set", "hold", "5")])
def test_folder_cannot_be_written_x_says_that_nothing_has_changed(
    foxden: Foxden, folder: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(owner_files, "write_private", full)
    code, _, said = foxden(*words)
    assert code == 1
    assert "(No space left on device): what it said before still holds" in said


def test_show_of_a_broken_file_fails_with_words(foxden: Foxden, folder: Path) -> None:
    folder.mkdir()
    (folder / "policy.json").write_text("{")
    code, _, error = foxden("policy", "show")
    assert code == 1
    assert "mend it, or move it away" in error
