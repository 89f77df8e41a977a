"""A real agent and the service's side of an update: is its owner away, and will it make way."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
from real_pool import Pool, wait_until

from foxden_agent.updating.yielding import EXIT_CODE, MAY, Asking, OwnerCame, ask

pytestmark = [pytest.mark.system, pytest.mark.engine]


def test_agent_that_is_asked_x_its_owners_word_decides_and_then_it_makes_way(pool: Pool) -> None:
    pool.start_broker()
    agent = pool.start_agent("one", FOXDEN_TIME_SCALE="1")
    folder = pool.folder / "one/agent"

    def owner(word: str) -> None:
        words = [sys.executable, "-m", "foxden", word, "--home", str(folder.parent)]
        subprocess.run(words, check=True, capture_output=True)

    def why() -> str:
        try:
            asking.check()
        except OwnerCame as came:
            return str(came)
        return ""

    assert not (folder / MAY).exists()
    asking = Asking(folder, threading.Event())
    assert why() == ""
    owner("pause")
    wait_until(lambda: "by you" in why(), 30)
    assert "an update waits to be made ready (paused: by you" in agent.log.read_text()
    owner("resume")
    wait_until(lambda: not why(), 30)
    asking.close()
    wait_until(lambda: not (folder / MAY).exists(), 30)
    owner("pause")  # no reason to leave the agent as it is
    ask(folder, "a test")
    assert agent.stop_code(60) == EXIT_CODE
