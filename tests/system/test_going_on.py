"""Pictures that move from one card to another in the middle, with real processes and the demo
model: what arrives is what would have been drawn without the move."""

from __future__ import annotations

import hashlib
import signal
import threading
import time

import psutil
import pytest
import real_pool
from cuttable import Relay
from drawn import outcomes
from real_pool import TIMERS, Pool, gone, wait_until

import foxden
from foxden import events
from foxden_proto.address import parse

pytestmark = [pytest.mark.system, pytest.mark.engine]

PROMPT = "a red cube on a blue background"
LONG = {**real_pool.LONG, "steps": 90, "seed": 7}


@pytest.fixture
def plain(pool: Pool) -> str:
    """A pool with agent `one`; the sha256 of the picture as it is drawn without a move."""
    pool.start_broker()
    pool.start_agent("one")
    return digest(pool.client().submit(PROMPT, **LONG))


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


def test_owner_stops_the_agent_x_another_goes_on_from_that_step_to_the_same_bytes(pool, plain):
    job = pool.client().submit(PROMPT, **LONG)
    last = steps(job, 40)[-1]

    pool.agents["one"].signal(signal.SIGTERM)

    wait_until(lambda: outcomes(job)[:1] == ["released"], 10)
    pool.start_agent("two", wait=False)
    assert min(steps(job, last + 1)) >= last - 15, "it began from the beginning"
    assert digest(job) == plain
    assert outcomes(job) == ["released", "finish"]
    assert job.refresh().info.tasks[0].attempts[1].card.endswith("in two")


def test_engine_is_stuck_in_a_step_x_is_gone_at_once_and_the_picture_goes_on(pool, plain):
    job = pool.client().submit(PROMPT, **LONG)
    steps(job, 40)
    engine = pool.engine_of("one")
    engine.suspend()

    began = time.monotonic()
    pool.agents["one"].signal(signal.SIGTERM)

    wait_until(lambda: gone([engine]), 5, "the card's memory is not back")
    assert time.monotonic() - began < 5
    pool.start_agent("two", wait=False)
    assert digest(job) == plain
    assert outcomes(job) == ["released", "finish"]


def test_agent_is_killed_x_another_goes_on_from_what_was_stored(pool, plain):
    job = pool.client().submit(PROMPT, **LONG)
    steps(job, 40)
    stored = pool.rows("SELECT checkpoint_step FROM task WHERE job_id = ?", job.id)[0][0]

    pool.agents["one"].kill()
    pool.start_agent("two", wait=False)

    assert digest(job) == plain
    assert outcomes(job) == ["lose", "finish"]
    assert stored > 0, f"nothing was stored in {TIMERS.checkpoint} s"


def test_last_put_is_cut_in_the_middle_x_the_picture_goes_on_all_the_same(pool):
    pool.start_broker()
    address = parse(pool.url)
    relay = Relay(("127.0.0.1", address.http_port))
    pool.start_agent("one", broker=f"foxden://127.0.0.1:{address.grpc_port}?http={relay.port}")
    plain = digest(pool.client().submit(PROMPT, **LONG))
    job = pool.client().submit(PROMPT, **LONG)
    steps(job, 40)
    relay.delay = 0.02
    over = threading.Event()

    def cut() -> None:
        while not over.wait(0.05):
            relay.cut()

    cutting = threading.Thread(target=cut)
    cutting.start()
    pool.agents["one"].signal(signal.SIGTERM)
    wait_until(lambda: gone([psutil.Process(pool.agents["one"].pid)]), 15)
    over.set()
    cutting.join()
    pool.start_agent("two", wait=False)

    assert digest(job) == plain
    assert outcomes(job)[-1] == "finish"
    relay.close()


def test_urgent_job_comes_while_bulk_is_drawn_x_bulk_gives_way_and_loses_nothing(pool):
    pool.start_broker()
    pool.start_agent("one")
    client = pool.client()
    # As long as nothing was measured, a picture on a processor is expected to take a minute.
    bulk = client.submit(PROMPT, priority="bulk", **LONG)
    steps(bulk, 20)

    urgent = client.submit(PROMPT, priority="interactive", seed=8, steps=2)

    assert len(urgent.result(timeout=60)) == 1
    assert outcomes(bulk)[:1] == ["released"]
    moved = digest(bulk)
    assert outcomes(bulk) == ["released", "finish"]
    assert moved == digest(client.submit(PROMPT, **LONG))
