"""A recorded evening of a PC's owner, played to a real agent: what the pool sees, what the owner's
log says, and what becomes of the pictures that were being drawn."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import pytest
import real_pool
from drawn import outcomes
from real_pool import Pool, gone, wait_until

import foxden
from foxden import events

pytestmark = [pytest.mark.system, pytest.mark.engine]

EVENING = Path(__file__).parents[2] / "readings" / "evening.jsonl"
PROMPT = "a red cube on a blue background"
LONG = {**real_pool.LONG, "seed": 7}
STORY = ["ready", "gaming", "ready", "duty_cycled", "hot", "ready", "quiet_hours"]


def digest(job: foxden.Job) -> str:
    (picture,) = job.result(timeout=120)
    return hashlib.sha256(picture.data).hexdigest()


def test_evening_x_one_story_everywhere_and_the_picture_in_flight_goes_on(pool: Pool) -> None:
    pool.start_broker()
    pool.start_agent("two")
    client = pool.client()
    plain = digest(client.submit(PROMPT, **LONG))
    pool.agents["two"].stop()

    replay = ["--replay", str(EVENING), "--replay-speed", "120"]
    pool.start_agent("one", arguments=replay)
    job = client.submit(PROMPT, **LONG)
    seen = next(e for e in job.watch() if isinstance(e, events.Progress) and e.step >= 10)
    engine = pool.engine_of("one")
    pool.start_agent("two", wait=False)

    def mode() -> tuple[str, tuple[str, ...]]:
        card = next(card for card in client.cards() if card.name.endswith("in one"))
        return card.mode, tuple(card.reasons)

    story: list[str] = ["ready"]
    reasons: dict[str, tuple[str, ...]] = {}
    end = time.monotonic() + 60
    while story != STORY and time.monotonic() < end:
        now, why = mode()
        if now == "gaming" and story[-1] == "ready":
            wait_until(lambda: gone([engine]), 5, "the card's memory is not back")
        if now != story[-1]:
            story.append(now)
            reasons[now] = why
        time.sleep(0.05)
    assert story == STORY
    assert "game.exe" in reasons["gaming"][0]
    assert "°C" in reasons["hot"][0]
    assert "until Sat 08:00" in reasons["quiet_hours"][0]

    assert digest(job) == plain
    tried = job.refresh().info.tasks[0]
    assert outcomes(job) == ["released", "finish"]
    assert (tried.failures, tried.losses, tried.releases) == (0, 0, 1)
    assert seen.step >= 10
    log = pool.agents["one"].log.read_text()
    told = [
        line.split(" is ", 1)[1].split()[0] for line in log.splitlines() if "INFO cpu is" in line
    ]
    assert told == STORY
    assert "game.exe is full screen" in log


def test_pause_and_resume_x_the_owners_words_reach_a_running_agent(pool: Pool) -> None:
    pool.start_broker()
    pool.start_agent("one")
    client = pool.client()
    home = ["--home", str(pool.folder / "one")]
    job = client.submit(PROMPT, **LONG)
    next(e for e in job.watch() if isinstance(e, events.Progress))
    engine = pool.engine_of("one")

    began = time.monotonic()
    assert foxden_command("pause", *home, "--for", "1h") == 0
    wait_until(lambda: gone([engine]), 5, "the card's memory is not back")
    assert time.monotonic() - began < 7
    (card,) = client.cards()
    assert card.mode == "paused"
    assert "by you" in card.reasons[0]
    late = client.submit(PROMPT, **LONG)
    wait_until(lambda: "by you" in next(iter(late.watch())).waiting_for, 10)

    assert foxden_command("resume", *home) == 0
    assert len(job.result(timeout=120)) == 1
    late.cancel()


def foxden_command(*words: str) -> int:
    from foxden.cli.main import main

    return main(words)
