"""kill -9 on each process while it works: every job still ends, each image exactly once."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import psutil
import pytest
from drawn import after_step, outcomes, tries
from real_pool import BRIEF, LONG, TIMERS, gone, wait_until

import foxden

pytestmark = [pytest.mark.system, pytest.mark.engine]

PROMPT = "a red cube on a blue background"


def pictures_in_store(pool, job_id: str) -> list[int]:
    """Indices of the accepted pictures, as the broker's own database has them."""
    found = pool.rows("SELECT idx FROM picture WHERE job_id = ? ORDER BY idx", job_id)
    return [row[0] for row in found]


def test_broker_killed_with_one_running_and_others_waiting_every_job_ends_once(
    pool_on_each_store,
):
    pool = pool_on_each_store
    pool.start_broker()
    pool.start_agent()
    client = pool.client()
    running = client.submit(PROMPT, seed=1, **LONG)
    waiting = [client.submit(PROMPT, seed=10 + i, count=2) for i in range(3)]
    after_step(running)

    pool.broker.kill()
    pool.start_broker()

    for job in [running, *waiting]:
        assert len(job.result(timeout=90)) == job.count
        assert pictures_in_store(pool, job.id) == list(range(job.count))
    # The agent kept its image over the restart: nobody drew it twice.
    assert outcomes(running) == ["finish"]


def test_broker_killed_before_any_agent_came_nothing_is_lost(pool_on_each_store):
    pool = pool_on_each_store
    pool.start_broker()
    client = pool.client()
    jobs = [client.submit(PROMPT, seed=i) for i in range(5)]

    pool.broker.kill()
    pool.start_broker()
    pool.start_agent()

    for job in jobs:
        assert len(job.result(timeout=60)) == 1


def test_agent_killed_leaves_no_engine_and_its_image_is_drawn_when_it_is_back(pool):
    pool.start_broker()
    agent = pool.start_agent()
    job = pool.client().submit(PROMPT, seed=1, count=2, **BRIEF)
    after_step(job)

    engines = agent.kill()

    assert engines
    wait_until(lambda: gone(engines), 5, "an engine outlived its agent")
    pool.start_agent()
    assert len(job.result(timeout=90)) == 2
    assert tries(job)[0].outcome == "lose"


def test_agent_killed_its_image_is_drawn_by_another(pool_on_each_store):
    pool = pool_on_each_store
    pool.start_broker()
    pool.start_agent("one")
    job = pool.client().submit(PROMPT, seed=1, **LONG)
    after_step(job)
    pool.start_agent("two")

    killed = time.monotonic()
    pool.agents["one"].kill()

    result = job.result(timeout=90)
    assert result[0].card.endswith("in two")
    # The house promise: a lease outlives a closed socket by `lease_lost`, not longer.
    first = tries(job)[0]
    assert first.outcome == "lose"
    assert time.monotonic() - killed >= TIMERS.lease_lost


def test_engine_killed_in_mid_picture_the_job_still_ends(pool):
    pool.start_broker()
    pool.start_agent()
    job = pool.client().submit(PROMPT, seed=1, count=2, **BRIEF)
    after_step(job)

    pool.engine_of().kill()

    assert len(job.result(timeout=90)) == 2
    first, *_ = tries(job)
    assert first.outcome == "fail"
    assert "SIGKILL" in first.reason


def test_engine_silent_is_replaced(pool):
    pool.start_broker()
    pool.start_agent()
    job = pool.client().submit(PROMPT, seed=1, **BRIEF)
    after_step(job)
    engine = pool.engine_of()

    engine.suspend()

    assert len(job.result(timeout=120)) == 1
    assert "no sign of life" in tries(job)[0].reason
    assert gone([engine])


def test_client_killed_the_job_goes_on_and_can_be_fetched(pool):
    pool.start_broker()
    pool.start_agent()
    script = (
        "import foxden, sys\n"
        f"client = foxden.Client({pool.url!r}, token={pool.token!r})\n"
        f"job = client.submit({PROMPT!r}, seed=5, count=2)\n"
        "print(job.id, flush=True)\n"
        "job.result()\n"
    )
    client = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert client.stdout is not None
    job_id = client.stdout.readline().strip()
    client.kill()
    client.wait()
    client.stdout.close()

    assert len(pool.client().get(job_id).result(timeout=60)) == 2


def test_cancel_stops_what_runs_at_its_next_step_and_what_waits_at_once(pool):
    pool.start_broker()
    pool.start_agent()
    client = pool.client()
    job = client.submit(PROMPT, seed=1, count=3, **BRIEF)
    after_step(job)

    began = time.monotonic()
    job.cancel()
    with pytest.raises(foxden.JobCancelled):
        job.result(timeout=30)

    assert time.monotonic() - began < 5
    assert pictures_in_store(pool, job.id) == []
    assert len(client.generate(PROMPT, seed=2, progress=False)) == 1  # the card is free again


def test_terminated_programs_end_cleanly(pool):
    broker = pool.start_broker()
    agent = pool.start_agent()
    engines = agent.descendants()

    for process in (agent, broker):
        process.signal(signal.SIGTERM)
    wait_until(lambda: gone([*engines, psutil.Process(agent.pid), psutil.Process(broker.pid)]), 15)
    assert agent.stop() == 0
    assert broker.stop() == 0
