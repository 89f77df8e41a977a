"""Two brokers on one PostgreSQL: work goes on whichever of them, or the database, is disturbed."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest
from drawn import after_step, outcomes
from postgres import Unavailable
from real_pool import BRIEF, LONG, TIMERS, wait_until
from replica_pool import SharedPool

import foxden
from foxden import events

pytestmark = [pytest.mark.system, pytest.mark.engine]

PROMPT = "a red cube on a blue background"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedPool]:
    """Brokers `a` and `b`, and an agent that comes to one of them through a balancer."""
    try:
        made = SharedPool(tmp_path_factory.mktemp("replicas"))
    except Unavailable as error:
        pytest.skip(str(error))
    try:
        made.start_replica("a")
        made.start_replica("b")
        made.start_agent("one", broker=made.balance("a", "b"))
        yield made
    finally:
        made.close()


@pytest.fixture
def pool(shared: SharedPool) -> SharedPool:
    """All of it well: what a test breaks is started again for the next one."""
    shared.mend()
    return shared


def owner_and_other(pool: SharedPool) -> tuple[str, str]:
    """Asked just before it matters: on a machine that starves a broker for longer than its lease
    (4.5 s here) the account changes hands, as it should."""
    wait_until(pool.owner, 20)
    owner = pool.owner()
    return owner, {"a": "b", "b": "a"}[owner]


def pictures(pool: SharedPool, job: foxden.Job) -> list[int]:
    """Indices of the accepted pictures, as the database has them."""
    found = pool.rows("SELECT idx FROM picture WHERE job_id = %s ORDER BY idx", job.id)
    return [row[0] for row in found]


def planned_no_more(pool: SharedPool, *names: str) -> int:
    """How often these have found that they do not plan for the account any more."""
    logs = [(pool.folder / f"{name}.log").read_text() for name in names]
    return sum(log.count("planned for no more") for log in logs)


def test_agents_and_clients_on_both_brokers_make_one_pool(pool):
    pool.come_by("a")
    pool.start_agent("two", broker=pool.urls["b"])
    a, b = pool.client_of("a"), pool.client_of("b")
    assert [card.online for card in a.cards()] == [card.online for card in b.cards()] == [True] * 2

    # Submitted at one, watched and fetched at the other, drawn by cards of both.
    job = a.submit(PROMPT, seed=1, count=6, steps=40)
    seen = list(b.get(job.id).watch())
    result = b.get(job.id).result(timeout=60)

    assert {event.index for event in seen if isinstance(event, events.Progress)}
    assert [type(event) for event in seen[-1:]] == [events.Done]
    assert {picture.card.rpartition(" in ")[2] for picture in result} == {"one", "two"}
    assert pictures(pool, job) == list(range(6))
    other = b.submit(PROMPT, seed=9)
    assert len(other.result(timeout=60)) == 1
    assert a.get(other.id).result()[0].data == other.result()[0].data
    # A cancel from the broker that does not plan reaches the card.
    long = b.submit(PROMPT, seed=1, count=3, **LONG)
    after_step(long)
    long.cancel()
    with pytest.raises(foxden.JobCancelled):
        long.result(timeout=30)
    pool.agents["two"].stop()


def test_owner_killed_under_work_the_other_takes_over_and_images_go_on(pool):
    owner, other = owner_and_other(pool)
    pool.come_by(owner)
    client = pool.client(url=pool.balanced)
    running = client.submit(PROMPT, seed=1, **LONG)
    waiting = [client.submit(PROMPT, seed=10 + i, count=2) for i in range(3)]
    after_step(running)

    pool.replicas[owner].kill()
    # Nobody plans yet, but what is acknowledged now counts too.
    late = pool.client_of(other).submit(PROMPT, seed=50)

    for job in [running, *waiting, late]:
        assert len(job.result(timeout=90)) == job.count
        assert pictures(pool, job) == list(range(job.count))
    wait_until(lambda: pool.owner() == other, 20)
    # The agent kept its image over the change: nobody drew it twice.
    assert outcomes(running) == ["finish"]


def test_other_broker_killed_its_agent_comes_back_by_the_owner(pool):
    owner, other = owner_and_other(pool)
    pool.come_by(other)
    job = pool.client(url=pool.balanced).submit(PROMPT, seed=1, **LONG)
    after_step(job)

    pool.replicas[other].kill()

    assert len(job.result(timeout=90)) == 1
    assert outcomes(job) == ["finish"]
    wait_until(lambda: pool.owner() == owner, 20)


def test_owner_stopped_cleanly_the_other_takes_over_at_once(pool):
    owner, other = owner_and_other(pool)
    pool.come_by(owner)
    client = pool.client(url=pool.balanced)
    job = client.submit(PROMPT, seed=1, **LONG)
    after_step(job)

    pool.replicas[owner].signal(signal.SIGTERM)
    began = time.monotonic()
    wait_until(lambda: pool.owner() == other, 10)
    took = time.monotonic() - began

    assert len(job.result(timeout=90)) == 1
    assert outcomes(job) == ["finish"]
    assert pool.replicas[owner].stop() == 0
    assert took < TIMERS.scheduling_lease


def test_owner_killed_and_started_again_before_its_lease_ends_goes_on(pool):
    owner, other = owner_and_other(pool)
    pool.replicas[other].stop()
    pool.come_by(owner)
    job = pool.client_of(owner).submit(PROMPT, seed=1, **LONG)
    after_step(job)
    epoch = pool.epoch()

    pool.replicas[owner].kill()
    pool.start_replica(owner)

    assert len(job.result(timeout=90)) == 1
    assert outcomes(job) == ["finish"]
    assert pool.epoch() > epoch  # never the same twice: the killed one may have left writes behind


def test_database_stopped_for_longer_than_a_lease_both_go_on_when_it_is_back(pool):
    before = planned_no_more(pool, "a", "b")
    client = pool.client(url=pool.balanced)
    jobs = [client.submit(PROMPT, seed=i, count=2, **BRIEF) for i in range(2)]
    after_step(jobs[0])

    pool.cluster.stop("fast")
    time.sleep(2 * TIMERS.scheduling_lease)
    pool.cluster.start()

    for job in jobs:
        assert len(job.result(timeout=120)) == 2
        assert pictures(pool, job) == [0, 1]
    for name in ("a", "b"):
        assert pool.client_of(name).get(jobs[0].id).state == "done"
    assert planned_no_more(pool, "a", "b") > before


def test_owner_suspended_past_its_lease_writes_nothing_when_it_wakes_up(pool):
    owner, other = owner_and_other(pool)
    pool.come_by(other)
    client = pool.client_of(other)
    before = planned_no_more(pool, owner)
    running = client.submit(PROMPT, seed=1, **LONG)
    waiting = client.submit(PROMPT, seed=2, count=4)
    after_step(running)
    epoch = pool.epoch()
    assert pool.owner() == owner, "the machine is too busy: the account changed hands before"

    pool.replicas[owner].signal(signal.SIGSTOP)
    wait_until(lambda: pool.owner() == other, 20)
    # Long enough that, by its own clock, every agent of the sleeper is long gone.
    time.sleep(TIMERS.lease_lost)
    pool.replicas[owner].signal(signal.SIGCONT)

    assert len(running.result(timeout=90)) == 1
    assert len(waiting.result(timeout=90)) == 4
    assert pictures(pool, waiting) == [0, 1, 2, 3]
    assert outcomes(running) == ["finish"]
    assert all(outcomes(waiting, i) == ["finish"] for i in range(4))
    wait_until(lambda: planned_no_more(pool, owner) > before, 10)
    assert pool.owner() == other
    assert pool.epoch() > epoch
    # It serves again, as the one that passes on.
    assert len(pool.client_of(owner).generate(PROMPT, seed=3, progress=False)) == 1
