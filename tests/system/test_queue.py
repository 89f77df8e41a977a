"""The queue as a client sees it: order, waiting, deadlines."""

from __future__ import annotations

import pytest
from drawn import tries

import foxden
from foxden import events

pytestmark = [pytest.mark.system, pytest.mark.engine]

PROMPT = "a red cube on a blue background"


def first(job: foxden.Job, kind: type) -> object:
    return next(event for event in job.watch() if isinstance(event, kind))


def test_jobs_in_an_empty_pool_wait_for_the_first_card_and_are_drawn_by_urgency(pool):
    pool.start_broker()
    client = pool.client()
    bulk = client.submit(PROMPT, count=2, steps=4, priority="bulk")
    urgent = client.submit(PROMPT, seed=1, priority="interactive")
    assert "first card" in first(urgent, events.Queued).waiting_for
    assert first(urgent, events.Queued).position == 0
    assert first(bulk, events.Queued).position == 1
    unknown = client.submit(PROMPT, model="dreamshaper-8")
    agent = pool.start_agent()

    assert len(urgent.result(timeout=60)) == 1
    assert len(bulk.result(timeout=60)) == 2
    (of_urgent, *_) = tries(urgent)
    assert all(of_urgent.started <= tries(bulk, index)[0].started for index in range(2))
    # A model that no card brought.
    with pytest.raises(foxden.JobFailed, match="dreamshaper-8"):
        unknown.result(timeout=60)

    # A card that is away is waited for by its name.
    agent.stop()
    job = client.submit(PROMPT, seed=7)
    assert "in one" in first(job, events.Queued).waiting_for
    pool.start_agent()
    assert len(job.result(timeout=60)) == 1


def test_job_past_its_deadline_expires_without_being_drawn(pool):
    pool.start_broker()
    job = pool.client().submit(PROMPT, deadline=1)
    with pytest.raises(foxden.DeadlineExpired):
        job.result(timeout=30)


def test_waiting_client_hears_an_eta_once_something_was_measured(calm_pool):
    client = calm_pool.client()
    client.generate(PROMPT, seed=1, steps=40, progress=False)
    client.submit(PROMPT, count=4, steps=40)
    last = client.submit(PROMPT, seed=2, steps=40)
    told = first(last, events.Queued)
    assert told.eta_p50 is not None
    assert 0 < told.eta_p50 <= told.eta_p90
    last.result(timeout=60)
