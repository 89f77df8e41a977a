"""kill -9 on each process while it works: every job still ends, each image exactly once."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import psutil
import pytest
from chaos.den import Den
from drawn import after_step, outcomes, tries
from real_pool import BRIEF, HURRIED, LONG, gone, wait_until

import foxden

pytestmark = [pytest.mark.system, pytest.mark.engine]

PROMPT = "a red cube on a blue background"


def pictures_in_store(pool, job_id: str) -> list[int]:
    """Indices of the accepted pictures, as the broker's own database has them."""
    found = pool.rows("SELECT idx FROM picture WHERE job_id = ? ORDER BY idx", job_id)
    return [row[0] for row in found]


def test_broker_killed_with_one_running_and_others_waiting_every_job_ends_once(den: Den):
    pool = den.pool
    client = pool.client()
    running = client.submit(PROMPT, seed=1, **LONG)
    after_step(running)
    waiting = [client.submit(PROMPT, seed=10 + i, count=2) for i in range(3)]

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
    jobs = [client.submit(PROMPT, seed=i, count=2) for i in range(5)]

    pool.broker.kill()
    pool.start_broker()

    for job in jobs:
        told = job.refresh().info
        assert (told.state, told.count, told.seed) == ("queued", 2, job.info.seed)
        assert [task.state for task in told.tasks] == ["queued", "queued"]


def test_agent_killed_its_image_is_drawn_when_it_is_back(pool):
    pool.start_broker()
    agent = pool.start_agent()
    job = pool.client().submit(PROMPT, seed=1, count=2, **BRIEF)
    after_step(job)

    agent.kill()
    pool.start_agent()

    assert len(job.result(timeout=90)) == 2
    assert tries(job)[0].outcome == "lose"


def test_engine_killed_in_mid_picture_the_job_still_ends(calm_pool):
    job = calm_pool.client().submit(PROMPT, seed=1, count=2, **BRIEF)
    after_step(job)

    calm_pool.engine_of().kill()  # its agent starts another

    assert len(job.result(timeout=90)) == 2
    first, *_ = tries(job)
    assert first.outcome == "fail"
    assert "SIGKILL" in first.reason


def test_engine_silent_is_replaced(pool):
    pool.start_broker()
    pool.start_agent(**HURRIED)
    job = pool.client().submit(PROMPT, seed=1, **BRIEF)
    after_step(job)
    engine = pool.engine_of()

    engine.suspend()

    assert len(job.result(timeout=120)) == 1
    assert "no sign of life" in tries(job)[0].reason
    assert gone([engine])


def test_client_killed_the_job_goes_on_and_can_be_fetched(calm_pool):
    pool = calm_pool
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


def test_cancel_stops_what_runs_at_its_next_step_and_what_waits_at_once(calm_pool):
    pool = calm_pool
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
