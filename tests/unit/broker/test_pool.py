"""The mirror of one account's pool: it follows each change, and forgets what is over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from foxden_broker.pool import Held, Pool, PoolCard
from foxden_broker.store.base import Assign, Attempt, Job, Lease, Task
from foxden_proto.states import JobState, TaskState
from foxden_proto.v1 import pool_pb2

Make = Callable[..., Any]


@pytest.fixture
def pool(make_card: Make) -> Pool:
    pool = Pool("account")
    for name in ("a", "b"):
        card = PoolCard(make_card(name), f"agent-{name}", name, "1", 0, online=True)
        pool.cards[name] = card
    return pool


@pytest.fixture
def job(make_request: Make) -> Make:
    def make(name: str = "job", count: int = 1, priority: int = 2, created: int = 0) -> Job:
        request = make_request(seed=100)
        return Job(
            "account",
            name,
            "ann",
            request.SerializeToString(),
            request.model_sha256,
            count,
            priority,
            JobState.QUEUED,
            1,
            created,
            0,
            0,
            False,
            "",
            0,
        )

    return make


def assign(index: int = 0, card: str = "a", job: str = "job") -> Assign:
    return Assign(job, index, card, card, f"agent-{card}")


def give(pool: Pool, index: int = 0, card: str = "a", lease_no: int = 1) -> Lease:
    """What the dispatcher does when the store says yes."""
    lease = Lease("job", index, lease_no)
    pool.reserve(assign(index, card))
    pool.hold(Held(lease, card, f"agent-{card}", False, 0.0))
    pool.unreserve(assign(index, card))
    return lease


def busy(pool: Pool) -> dict[str, int]:
    return {card.info.card_id: card.busy for card in pool.open_cards({"agent-a", "agent-b"})}


def waiting(pool: Pool) -> dict[str, list[int]]:
    return {job.job_id: list(job.waiting) for job in pool.waiting_jobs()}


def test_job_added_waits_with_all_its_images(pool: Pool, job: Make) -> None:
    opened = pool.add_job(job(count=3), range(3))
    assert waiting(pool) == {"job": [0, 1, 2]}
    assert opened.image_request(2).seed == 102
    assert opened.request.seed == 100


def test_image_reserved_neither_waits_nor_leaves_its_card_free(pool: Pool, job: Make) -> None:
    pool.add_job(job(count=2), range(2))
    pool.reserve(assign())
    assert waiting(pool) == {"job": [1]}
    assert busy(pool) == {"a": 1, "b": 0}


def test_image_reserved_and_refused_by_the_store_can_wait_again(pool: Pool, job: Make) -> None:
    pool.add_job(job(count=2), range(2))
    pool.reserve(assign())
    pool.unreserve(assign())
    pool.requeue("job", 0)
    assert waiting(pool) == {"job": [0, 1]}
    assert busy(pool) == {"a": 0, "b": 0}


def test_last_image_refused_by_the_store_closes_the_job(pool: Pool, job: Make) -> None:
    pool.add_job(job(), range(1))
    pool.reserve(assign())
    pool.unreserve(assign())
    assert pool.jobs == {}


def test_image_held_and_finished_closes_the_job(pool: Pool, job: Make) -> None:
    pool.add_job(job(), range(1))
    lease = give(pool)
    assert busy(pool) == {"a": 1, "b": 0}
    assert pool.images_on("a") == 1
    assert [held.lease for held in pool.leases_of("agent-a")] == [lease]
    pool.ended(lease, TaskState.DONE, blame=False)
    assert (pool.jobs, pool.held, busy(pool)) == ({}, {}, {"a": 0, "b": 0})


def test_image_failed_waits_again_and_avoids_its_card(pool: Pool, job: Make) -> None:
    pool.add_job(job(count=2), range(2))
    pool.ended(give(pool), TaskState.QUEUED, blame=True)
    assert waiting(pool) == {"job": [0, 1]}
    assert pool.jobs["job"].avoid == {0: frozenset("a")}
    lease = give(pool, card="b", lease_no=2)
    pool.ended(lease, TaskState.QUEUED, blame=True)
    assert pool.jobs["job"].avoid == {0: frozenset("ab")}


def test_image_released_waits_again_without_blame(pool: Pool, job: Make) -> None:
    pool.add_job(job(), range(1))
    pool.ended(give(pool), TaskState.QUEUED, blame=False)
    assert waiting(pool) == {"job": [0]}
    assert pool.jobs["job"].avoid == {}


def test_lease_ended_twice_counts_once(pool: Pool, job: Make) -> None:
    pool.add_job(job(count=2), range(2))
    lease = give(pool)
    give(pool, index=1, card="b")
    for _ in range(2):
        pool.ended(lease, TaskState.DONE, blame=False)
    assert pool.jobs["job"].held == 1


def test_words_about_a_job_that_is_over_change_nothing(pool: Pool) -> None:
    pool.ended(Lease("gone", 0, 1), TaskState.QUEUED, blame=True)
    pool.requeue("gone", 0)
    pool.unqueue("gone", 0)
    assert (pool.jobs, pool.held, pool.images_before("gone")) == ({}, {}, 0)


def test_image_requeued_twice_waits_once_and_in_order(pool: Pool, job: Make) -> None:
    pool.add_job(job(count=3), range(2, 3))
    for index in (1, 0, 1):
        pool.requeue("job", index)
    assert waiting(pool) == {"job": [0, 1, 2]}


def test_last_image_unqueued_closes_the_job(pool: Pool, job: Make) -> None:
    pool.add_job(job(count=2), range(2))
    pool.unqueue("job", 0)
    assert waiting(pool) == {"job": [1]}
    pool.unqueue("job", 1)
    assert pool.jobs == {}


def test_cancelled_job_is_not_handed_out(pool: Pool, job: Make) -> None:
    pool.add_job(job(), range(1)).cancelled = True
    assert pool.waiting_jobs() == []


def test_images_before_counts_higher_priority_and_older(pool: Pool, job: Make) -> None:
    pool.add_job(job("old", 2, created=1), range(2))
    pool.add_job(job("mine", 4, created=5), range(4))
    pool.add_job(job("young", 8, created=9), range(8))
    pool.add_job(job("urgent", 16, priority=1, created=9), range(16))
    assert pool.images_before("mine") == 18
    assert pool.images_before("urgent") == 0


@pytest.mark.parametrize(
    ("change", "is_open"),
    [
        ({}, True),
        ({"mode": pool_pb2.MODE_DUTY_CYCLED}, True),
        ({"mode": pool_pb2.MODE_GAMING}, False),
        ({"mode": pool_pb2.MODE_UNSPECIFIED}, False),
        ({"online": False}, False),
        ({"agent_id": "not accepting"}, False),
    ],
)
def test_card_in_each_condition_is_open_or_not(
    change: dict[str, Any], is_open: bool, pool: Pool
) -> None:
    for name, value in change.items():
        setattr(pool.cards["a"], name, value)
    assert ("a" in busy(pool)) is is_open


def test_cards_that_are_away_stay_in_the_catalogue(pool: Pool, make_request: Make) -> None:
    pool.cards["a"].online = False
    (listed,) = pool.catalogue().models()
    assert (listed.cards, listed.cards_online) == (2, 1)
    assert len(pool.capable_cards(make_request())) == 2


@pytest.mark.parametrize(
    ("state", "waits", "started", "releasing"),
    [
        (TaskState.QUEUED, True, None, None),
        (TaskState.LEASED, False, False, False),
        (TaskState.RUNNING, False, True, False),
        (TaskState.RELEASING, False, True, True),
    ],
)
def test_task_restored_in_each_open_state(
    state: TaskState,
    waits: bool,
    started: bool | None,
    releasing: bool | None,
    pool: Pool,
    job: Make,
) -> None:
    attempts = (Attempt(1, "b", "b", "fail", "", 0, 0),)
    task = Task("job", 0, state, 2, "a", "a", "agent-a", "", 1, 0, 0, 3, 0, 0, 0, attempts=attempts)
    pool.restore(job(), task, 9.0)
    opened = pool.jobs["job"]
    assert opened.avoid == {0: frozenset("b")}
    assert opened.waiting == ([0] if waits else [])
    held = pool.held.get(Lease("job", 0, 2))
    if started is None:
        assert held is None
        return
    assert held is not None
    assert (held.started, held.releasing, held.deadline) == (started, releasing, 9.0)
    assert opened.held == 1
