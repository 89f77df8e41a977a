"""Joining with the command, as an owner and an administrator use it; and one card for two."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from drawn import after_step, tries
from pictures import matches_prompt
from real_pool import Pool, wait_until

from foxden_proto import join_links

pytestmark = [pytest.mark.system, pytest.mark.engine]

PROMPT = "a red cube on a blue background"


def command(
    *words: str, pool: Pool | None = None, home: Path | None = None, told: str = ""
) -> tuple[int, Any]:
    """Exit code, and what --json told. `told`: its standard input."""
    who = {"FOXDEN_URL": pool.url, "FOXDEN_TOKEN": pool.token} if pool else {}
    done = subprocess.run(
        [sys.executable, "-m", "foxden", *words, "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        input=told,
        env={
            **{k: v for k, v in os.environ.items() if k != "DBUS_SESSION_BUS_ADDRESS"},
            "FOXDEN_HOME": str(home or "/nonexistent"),
            **who,
        },
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_machine_joins_draws_is_shut_out_and_leaves_nothing(pool: Pool) -> None:
    pool.start_broker("--public-host", "localhost")
    home = pool.folder / "one"
    _, made = command("join-link", "--uses", "2", "--approve", pool=pool)
    link = made["text"]
    code, told = command("join", link, home=home)
    assert (code, told["error"]["type"]) == (2, "NotAsked")  # nobody agreed to the terms
    code, told = command("join", "-", "--yes", home=home, told=f"{link}\n")
    assert (code, told["pending"], told["again"]) == (0, True, False)
    assert command("join", link, home=home)[1]["again"]
    assert command("join", link[:-1], home=home)[0] == 2

    (key_file,) = (home / "agent" / "keys").iterdir()
    secrets = [key_file.read_text(), join_links.read(link).secret]
    words = ["--no-page"]  # with a page it would stay, for its owner to join again
    agent = pool.start_agent("one", joined=True, wait=False, arguments=words, FOXDEN_TOKEN="")
    wait_until(lambda: "waits" in agent.log.read_text(), why="the agent does not say that it waits")
    _, told = command("agents", "list", pool=pool)
    (waiting,) = told["agents"]
    assert waiting["state"] == "waits for approval"
    assert command("agents", "approve", waiting["id"], pool=pool)[0] == 0
    assert agent.ready()["agent_id"] == waiting["id"]
    assert matches_prompt(pool.client().generate(PROMPT, seed=7, progress=False)[0].image)

    assert command("agents", "revoke", waiting["name"], pool=pool)[0] == 0
    assert agent.stop_code(10) == 4
    assert "shut out" in agent.log.read_text()
    code, told = command("leave", home=home)
    assert (code, told["broker_told"], told["problems"]) == (0, True, [])
    left = {path.name for path in (home / "agent").rglob("*")}
    assert not left & {"pools.json", "pools-now.json", "keys"}
    for log in pool.folder.rglob("*.log"):
        assert not [secret for secret in secrets if secret in log.read_text()], log


def test_owners_picture_comes_before_the_pools_on_the_same_card(pool: Pool, tmp_path: Path) -> None:
    pool.start_broker("--public-host", "localhost")
    own = Pool(tmp_path / "own")
    own.folder.mkdir()
    try:
        own.start_broker()
        home = own.folder / "pc"
        _, made = command("join-link", pool=pool)
        assert command("join", made["text"], "--yes", home=home)[0] == 0
        own.start_agent("pc", joined=True, broker=own.url)
        admin = pool.client()
        wait_until(lambda: [agent.state for agent in admin.agents()] == ["online"])

        theirs = admin.submit(PROMPT, steps=80, width=128, height=128, seed=7)
        after_step(theirs)
        mine = own.client().submit(PROMPT, seed=7)
        assert len(mine.result(timeout=60)) == 1
        told = theirs.refresh()
        assert told.state in ("queued", "running")  # it was not finished before
        assert len(theirs.result(timeout=90)) == 1
        (attempt, *others) = tries(theirs)
        assert attempt.outcome == "released"
        assert "owner's own" in attempt.reason
        assert others[-1].outcome == "finish"
    finally:
        own.close()


def test_agent_whose_id_changes_when_it_joins_goes_on_with_it_and_says_so(
    pool: Pool, tmp_path: Path
) -> None:
    """Its home was copied from a machine that has joined."""
    pool.start_broker("--public-host", "localhost")
    own = Pool(tmp_path / "own")
    own.folder.mkdir()
    try:
        own.start_broker()
        _, made = command("join-link", "--uses", "2", pool=pool)
        assert command("join", made["text"], "--yes", home=own.folder / "first")[0] == 0
        (own.folder / "copy" / "agent").mkdir(parents=True)
        shutil.copy(own.folder / "first/agent/agent.json", own.folder / "copy/agent")
        agent = own.start_agent("copy")
        _, told = command("join", made["text"], "--yes", home=own.folder / "copy")
        wait_until(lambda: "online" in [one.state for one in pool.client().agents()], 60)
        agent.assert_runs()
        new_id = told["pool"]["agent_id"]
        assert [c.id for c in own.client().cards() if c.online] == [f"{new_id}.cpu"]
        log = agent.log.read_text()
        assert f"this machine is {new_id} since it joined: the agent starts again" in log
        assert "Traceback" not in log
    finally:
        own.close()
