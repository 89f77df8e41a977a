"""policy.json and wishes.json as a running agent follows them."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest

from foxden_agent.policy import owner_files
from foxden_agent.policy.owner_files import OwnerFiles, OwnersWill
from foxden_agent.policy.settings import Policy
from foxden_agent.policy.wishes import Kind, Wish


@pytest.fixture
def files(tmp_path: Path) -> OwnerFiles:
    return OwnerFiles(tmp_path, owner_files.begin_run(tmp_path, lambda: "run-1"))


def write(folder: Path, text: str) -> None:
    (folder / owner_files.POLICY).write_text(text)


def test_no_files_x_look_is_the_default(files: OwnerFiles) -> None:
    assert files.look() == OwnersWill()


def test_run_cannot_be_noted_x_is_said_and_the_agent_runs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("where the folder should be")
    assert owner_files.begin_run(blocked, lambda: "run-2") == "run-2"
    (said,) = caplog.messages
    assert str(blocked) in said
    assert "see that its disk has space" in said


def test_policy_is_set_x_next_look_follows(files: OwnerFiles, tmp_path: Path) -> None:
    files.look()
    assert owner_files.set_policy(tmp_path, "hold", 5).hold == 5
    assert files.look().policy.hold == 5
    (tmp_path / owner_files.POLICY).unlink()
    assert files.look().policy == Policy()


def test_unchanged_files_are_not_read_again(
    files: OwnerFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner_files.set_policy(tmp_path, "hold", 5)
    before = files.look()
    monkeypatch.setattr(owner_files, "read_json", lambda path: pytest.fail("read again"))
    assert files.look() is before


def test_replaced_within_one_tick_of_the_clock_x_next_look_follows(
    files: OwnerFiles, tmp_path: Path
) -> None:
    for hold in (5, 6, 7):  # the same size, and made to have the same time
        owner_files.set_policy(tmp_path, "hold", hold)
        os.utime(tmp_path / owner_files.POLICY, ns=(10**18, 10**18))
        assert files.look().policy.hold == hold


def test_bad_value_x_last_good_policy_goes_on_and_it_is_said_once(
    files: OwnerFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, json.dumps({"hold": 5, "full_screen": False}))
    good = files.look().policy
    with caplog.at_level(logging.WARNING):
        write(tmp_path, json.dumps({"hold": 7, "full_screen": "no"}))
        wills = [files.look() for _ in range(3)]
    assert wills[-1].policy == good
    (problem,) = wills[-1].problems
    assert "full_screen is 'no': give true or false; the policy before goes on" in problem
    assert str(tmp_path / owner_files.POLICY) in problem
    assert len(caplog.records) == 1
    write(tmp_path, json.dumps({"hold": 7, "full_screen": True}))
    assert files.look() == OwnersWill(Policy(hold=7))


def test_bad_value_at_the_start_x_what_is_good_counts(files: OwnerFiles, tmp_path: Path) -> None:
    write(tmp_path, json.dumps({"hold": 7, "full_screen": "no"}))
    assert files.look().policy == Policy(hold=7)
    assert "the default goes on" in files.look().problems[0]


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff", "[" * 100_000, '{"a":' * 2000])
def test_no_json_x_last_good_policy_goes_on(files: OwnerFiles, tmp_path: Path, text: str) -> None:
    write(tmp_path, json.dumps({"hold": 5}))
    files.look()
    (tmp_path / owner_files.POLICY).write_bytes(text.encode("latin-1"))
    for _ in range(2):
        assert files.look().policy.hold == 5
        assert len(files.look().problems) == 1


def test_file_could_not_be_read_once_x_is_read_at_the_next_look(
    files: OwnerFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner_files.set_policy(tmp_path, "hold", 5)
    with monkeypatch.context() as patch:
        denied = PermissionError(13, "somebody writes it")
        patch.setattr(Path, "open", lambda *args, **options: (_ for _ in ()).throw(denied))
        assert files.look().policy == Policy()
        assert "somebody writes it" in files.look().problems[0]
    assert files.look() == OwnersWill(Policy(hold=5))


def test_larger_than_any_policy_is_not_read(files: OwnerFiles, tmp_path: Path) -> None:
    write(tmp_path, " " * 2**20 + "{}")
    assert "larger than 1 MiB" in files.look().problems[0]


def test_setting_over_a_broken_file_leaves_it_as_it_is(tmp_path: Path) -> None:
    write(tmp_path, "{")
    with pytest.raises(owner_files.BadFile, match="mend it, or move it away"):
        owner_files.set_policy(tmp_path, "hold", 5)
    assert (tmp_path / owner_files.POLICY).read_text() == "{"


def test_wish_is_written_x_next_look_has_it_until_it_is_taken_back(
    files: OwnerFiles, tmp_path: Path
) -> None:
    wish = Wish("w", Kind.FOR, 5.0, 60.0)
    owner_files.write_wish(tmp_path, wish)
    assert files.look().wish == wish
    owner_files.write_wish(tmp_path, None)
    assert files.look().wish is None


def test_until_restart_x_agent_starts_again_is_over(files: OwnerFiles, tmp_path: Path) -> None:
    assert owner_files.last_run(tmp_path) == "run-1"
    owner_files.write_wish(tmp_path, Wish("w", Kind.RESTART, 5.0, run="run-1"))
    assert files.look().wish is not None
    again = OwnerFiles(tmp_path, owner_files.begin_run(tmp_path))
    assert again.look().wish is None


def test_pause_for_ever_x_agent_starts_again_still_holds(tmp_path: Path) -> None:
    owner_files.write_wish(tmp_path, Wish("w", Kind.FOREVER, 5.0))
    assert OwnerFiles(tmp_path, owner_files.begin_run(tmp_path)).look().wish is not None


@pytest.mark.parametrize(
    "wish",
    [5, {}, {"kind": "x"}, {"kind": "for", "wish_id": "w", "made": "x"},
     {"kind": "for", "wish_id": "w", "made": 1e300}, {"kind": "for", "wish_id": 5, "made": 1},
     {"kind": "for", "wish_id": "w", "made": 1, "seconds": -5}],
    ids=str,
)  # fmt: skip
def test_wish_that_cannot_be_x_the_one_before_goes_on(
    files: OwnerFiles, tmp_path: Path, wish: object
) -> None:
    good = Wish("w", Kind.FOREVER, 5.0)
    owner_files.write_wish(tmp_path, good)
    files.look()
    (tmp_path / owner_files.WISHES).write_text(json.dumps({"wish": wish}))
    assert files.look().wish == good
    assert "write it with `foxden pause`" in files.look().problems[0]
