"""An installation's id, and the lock that lets it run once."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from foxden_agent.identity import (
    CardInUse,
    HomeInUse,
    agent_id,
    only_one,
    only_one_per_card,
)

FORM = re.compile(r"agent-[0-9a-f]{16}")


def test_first_start_makes_an_id_and_the_next_finds_it(tmp_path: Path) -> None:
    made = agent_id(tmp_path / "agent")
    assert FORM.fullmatch(made)
    assert agent_id(tmp_path / "agent") == made


def test_two_installations_have_two_ids(tmp_path: Path) -> None:
    assert agent_id(tmp_path / "a") != agent_id(tmp_path / "b")


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"{",
        b"\xff\xfe\x00",
        b"null",
        b"[1]",
        b'"agent-1"',
        b"{}",
        b'{"agent_id": 7}',
        b'{"agent_id": ""}',
        b'{"agent_id": "two words"}',
        json.dumps({"agent_id": "a" * 65}).encode(),
    ],
)
def test_damaged_file_gives_a_new_id_that_lasts(damaged: bytes, tmp_path: Path) -> None:
    (tmp_path / "agent.json").write_bytes(damaged)
    made = agent_id(tmp_path)
    assert FORM.fullmatch(made)
    assert agent_id(tmp_path) == made


def test_second_agent_on_one_home_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    with only_one(tmp_path / "agent"):
        with (
            pytest.raises(HomeInUse, match=r"already: stop it, or .* --home"),
            only_one(tmp_path / "agent"),
        ):
            pass
        with only_one(tmp_path / "other"):
            pass
    with only_one(tmp_path / "agent"):
        pass


HOLD = """
import pathlib, sys, time
from foxden_agent.identity import only_one
with only_one(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_agent_that_is_killed_leaves_no_lock(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process.stdout as output:
        assert output.readline() == "held\n"
        with pytest.raises(HomeInUse), only_one(tmp_path):
            pass
        process.kill()
        process.wait()
    with only_one(tmp_path):
        pass


def test_two_agents_on_one_card_the_second_is_told_what_to_do(tmp_path: Path) -> None:
    with only_one_per_card("cuda:0", tmp_path):
        with (
            pytest.raises(CardInUse, match=r"looks after cuda:0 already.*--device"),
            only_one_per_card("cuda:0", tmp_path),
        ):
            pass
        with only_one_per_card("cuda:1", tmp_path):
            pass
    with only_one_per_card("cuda:0", tmp_path):
        pass


def test_processor_is_shared_by_agents(tmp_path: Path) -> None:
    with only_one_per_card("cpu", tmp_path), only_one_per_card("cpu", tmp_path):
        assert not list(tmp_path.iterdir())
