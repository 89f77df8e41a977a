"""Pictures that move from one card to another in the middle, with real processes and the demo
model: what arrives is what would have been drawn without the move."""

from __future__ import annotations

import hashlib
import signal
import threading
import time
from collections.abc import Callable

import pytest
import real_pool
from chaos.den import Den
from drawn import after_step, outcomes, tries
from real_pool import HURRIED, gone, wait_until

import foxden
from foxden import events

pytestmark = [pytest.mark.system, pytest.mark.engine]

PROMPT = "a red cube on a blue background"
LONG = {**real_pool.LONG, "steps": 90, "seed": 7}


@pytest.fixture(scope="module")
def plain(dens: Callable[[str], Den]) -> str:
    """The sha256 of the picture as it is drawn without a move."""
    return digest(dens("sqlite").pool.client().submit(PROMPT, **LONG))


def digest(job: foxden.Job) -> str:
    (picture,) = job.result(timeout=120)
    return hashlib.sha256(picture.data).hexdigest()


def steps(job: foxden.Job, until: int) -> list[int]:
    """The steps that are told from now on, until one is as far as that."""
    seen = []
    for event in job.watch():
        if isinstance(event, events.Progress):
            seen.append(event.step)
            if event.step >= until:
                break
        assert not isinstance(event, events.Done), "it ended before it could be moved"
    return seen


def assert_moved(job: foxden.Job, plain: str, how: str) -> None:
    assert digest(job) == plain
    first, second = tries(job)
    assert (first.outcome, second.outcome) == (how, "finish")
    assert first.card != second.card


def test_owner_stops_the_agent_x_another_goes_on_from_that_step_to_the_same_bytes(
    sqlite_den, plain
):
    job = sqlite_den.pool.client().submit(PROMPT, **LONG)
    agent = sqlite_den.pool.agents[after_step(job, 40)]
    last = steps(job, 40)[-1]

    agent.signal(signal.SIGTERM)

    wait_until(lambda: outcomes(job)[:1] == ["released"], 10)
    assert min(steps(job, last + 1)) >= last - 15, "it began from the beginning"
    assert_moved(job, plain, "released")
    assert agent.stop_code(15) == 0


def test_engine_is_stuck_in_a_step_x_is_gone_at_once_and_the_picture_goes_on(sqlite_den, plain):
    job = sqlite_den.pool.client().submit(PROMPT, **LONG)
    name = after_step(job, 40)
    agent, engine = sqlite_den.pool.agents[name], sqlite_den.pool.engine_of(name)
    engine.suspend()

    began = time.monotonic()
    agent.signal(signal.SIGTERM)

    wait_until(lambda: gone([engine]), 5, "the card's memory is not back")
    assert time.monotonic() - began < 5
    assert_moved(job, plain, "released")
    agent.stop_code(15)


def test_agent_is_killed_x_another_goes_on_from_what_was_stored(pool, plain):
    pool.start_broker()
    pool.start_agent("one", **HURRIED)  # it stores a checkpoint each 0.8 s
    job = pool.client().submit(PROMPT, **LONG)
    query = "SELECT checkpoint_step FROM task WHERE job_id = ?"
    wait_until(lambda: pool.rows(query, job.id)[0][0] > 0, why="nothing was stored")

    pool.agents["one"].kill()
    pool.start_agent("two", wait=False)

    assert_moved(job, plain, "lose")


def test_last_put_is_cut_in_the_middle_x_the_picture_goes_on_all_the_same(sqlite_den, plain):
    job = sqlite_den.pool.client().submit(PROMPT, **LONG)
    name = after_step(job, 40)
    agent, relay = sqlite_den.pool.agents[name], sqlite_den.relays[name]
    relay.delay = 0.02
    over = threading.Event()

    def cut() -> None:
        while not over.wait(0.05):
            relay.cut()

    cutting = threading.Thread(target=cut)
    cutting.start()
    agent.signal(signal.SIGTERM)
    agent.stop_code(30)
    over.set()
    cutting.join()

    assert digest(job) == plain
    assert outcomes(job)[-1] == "finish"


def test_urgent_job_comes_while_bulk_is_drawn_x_bulk_gives_way_and_loses_nothing(pool, plain):
    pool.start_broker()
    pool.start_agent("one")
    client = pool.client()
    # As long as nothing was measured, a picture on a processor is expected to take a minute.
    bulk = client.submit(PROMPT, priority="bulk", **LONG)
    steps(bulk, 20)

    urgent = client.submit(PROMPT, priority="interactive", seed=8, steps=2)

    assert len(urgent.result(timeout=60)) == 1
    assert outcomes(bulk)[:1] == ["released"]
    assert digest(bulk) == plain
    assert outcomes(bulk) == ["released", "finish"]
