"""The mirror of one account's pool: it follows each change, and forgets what is over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from foxden_broker.pool import Pool
from foxden_broker.pool_parts import Held, PoolCard
from foxden_broker.scheduler.facts import Give
from foxden_broker.store.base import Attempt, Job, Lease, Task
from foxden_proto.states import JobState, TaskEvent, TaskState
from foxden_proto.v1 import pool_pb2

Make = Callable[..., Any]


@pytest.fixture
def pool(make_card: Make) -> Pool:
    pool = Pool("account")
    for name in ("a", "b"):
        card = PoolCard(make_card(name), f"agent-{name}", name, "1", 0, online=True)
        pool.put_card(card)
        pool.agent_accepts(card.agent_id, True)
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


def reserve(pool: Pool, index: int = 0, card: str = "a") -> None:
    pool.reserve(Give(card, (("job", index),), pool.jobs["job"].kind.model))


def give(pool: Pool, index: int = 0, card: str = "a", lease_no: int = 1) -> Lease:
    """What the dispatcher does when the store says yes."""
    lease = Lease("job", index, lease_no)
    reserve(pool, index, card)
    pool.hold(Held(lease, card, f"agent-{card}", False, 0.0))
    return lease


def end(pool: Pool, lease: Lease, event: TaskEvent, *, blame: bool = False) -> None:
    after = TaskState.DONE if event is TaskEvent.FINISH else TaskState.QUEUED
    pool.ended(lease, after, event, blame=blame)


def busy(pool: Pool) -> dict[str, int]:
    """Images on each card that is given work, as the scheduler sees it."""
    return {
        card_id: sum(len(batch.images) for batch in card.held)
        for card_id, card in pool.scheduler.table.cards.items()
        if card.accepting and card.here
    }


def waiting(pool: Pool) -> dict[str, list[int]]:
    """What the scheduler may hand out; the mirror must say the same."""
    told = {name: sorted(j.waiting) for name, j in pool.scheduler.jobs.items() if j.waiting}
    assert told == {name: sorted(j.waiting) for name, j in pool.jobs.items() if j.waiting}
    return told


def avoided(pool: Pool) -> dict[int, frozenset[str]]:
    return pool.scheduler.jobs["job"].avoid


def test_job_added_waits_with_all_its_images(pool: Pool, job: Make) -> None:
    opened = pool.add_job(job(count=3), range(3))
    assert waiting(pool) == {"job": [0, 1, 2]}
    assert opened.image_request(2).seed == 102
    assert opened.request.seed == 100


def test_image_reserved_neither_waits_nor_leaves_its_card_free(pool: Pool, job: Make) -> None:
    pool.add_job(job(count=2), range(2))
    reserve(pool)
    assert waiting(pool) == {"job": [1]}
    assert busy(pool) == {"a": 1, "b": 0}


def test_image_reserved_and_refused_by_the_store_can_wait_again(pool: Pool, job: Make) -> None:
    pool.add_job(job(count=2), range(2))
    reserve(pool)
    pool.unreserve("job", 0, waits=True)
    assert waiting(pool) == {"job": [0, 1]}
    assert busy(pool) == {"a": 0, "b": 0}


def test_last_image_refused_by_the_store_closes_the_job(pool: Pool, job: Make) -> None:
    pool.add_job(job(), range(1))
    reserve(pool)
    pool.unreserve("job", 0, waits=False)
    assert pool.jobs == {}


def test_image_held_and_finished_closes_the_job(pool: Pool, job: Make) -> None:
    pool.add_job(job(), range(1))
    lease = give(pool)
    assert busy(pool) == {"a": 1, "b": 0}
    assert pool.images_on("a") == 1
    assert [held.lease for held in pool.leases_of("agent-a")] == [lease]
    end(pool, lease, TaskEvent.FINISH)
    assert (pool.jobs, pool.held, busy(pool)) == ({}, {}, {"a": 0, "b": 0})


def test_image_failed_waits_again_and_avoids_its_card(pool: Pool, job: Make) -> None:
    pool.add_job(job(count=2), range(2))
    end(pool, give(pool), TaskEvent.FAIL, blame=True)
    assert waiting(pool) == {"job": [0, 1]}
    assert avoided(pool) == {0: frozenset("a")}
    lease = give(pool, card="b", lease_no=2)
    end(pool, lease, TaskEvent.LOSE, blame=True)
    assert avoided(pool) == {0: frozenset("ab")}


def test_image_released_waits_again_without_blame(pool: Pool, job: Make) -> None:
    pool.add_job(job(), range(1))
    end(pool, give(pool), TaskEvent.RELEASED)
    assert waiting(pool) == {"job": [0]}
    assert avoided(pool) == {}


def test_lease_ended_twice_counts_once(pool: Pool, job: Make) -> None:
    pool.add_job(job(count=2), range(2))
    lease = give(pool)
    give(pool, index=1, card="b")
    for _ in range(2):
        end(pool, lease, TaskEvent.FINISH)
    assert pool.jobs["job"].held == 1


def test_words_about_a_job_that_is_over_change_nothing(pool: Pool) -> None:
    end(pool, Lease("gone", 0, 1), TaskEvent.FAIL, blame=True)
    pool.requeue("gone", 0)
    pool.unqueue("gone", 0)
    assert (pool.jobs, pool.held, pool.scheduler.jobs) == ({}, {}, {})


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


@pytest.mark.parametrize(
    ("change", "is_open"),
    [
        ({}, True),
        ({"mode": pool_pb2.MODE_DUTY_CYCLED}, True),
        ({"mode": pool_pb2.MODE_GAMING}, False),
        ({"mode": pool_pb2.MODE_UNSPECIFIED}, False),
        ({"online": False}, False),
        ({"standing": "cordoned"}, False),
    ],
)
def test_card_in_each_condition_is_open_or_not(
    change: dict[str, Any], is_open: bool, pool: Pool
) -> None:
    for name, value in change.items():
        setattr(pool.cards["a"], name, value)
    pool.card_changed("a")
    assert ("a" in busy(pool)) is is_open


def test_card_whose_agent_takes_no_work_is_not_open_until_it_does(pool: Pool) -> None:
    assert pool.agent_accepts("agent-a", False)
    assert not pool.agent_accepts("agent-a", False)  # nothing new
    assert list(busy(pool)) == ["b"]
    pool.agent_accepts("agent-a", True)
    assert list(busy(pool)) == ["a", "b"]


def test_cards_that_are_away_stay_in_the_catalogue(pool: Pool, job: Make) -> None:
    pool.cards["a"].online = False
    pool.card_changed("a")
    (listed,) = pool.catalogue().models()
    assert (listed.cards, listed.cards_online) == (2, 1)
    assert len(pool.capable_cards(pool.add_job(job(), ()).kind)) == 2


def test_card_described_without_the_model_can_no_longer_run_it(
    pool: Pool, job: Make, make_card: Make, make_model: Make
) -> None:
    kind = pool.add_job(job(), range(1)).kind
    assert len(pool.capable_cards(kind)) == 2
    other = make_card("a", make_model("other"))
    pool.put_card(PoolCard(other, "agent-a", "a", "1", 0, online=True))
    assert [card.info.card_id for card in pool.capable_cards(kind)] == ["b"]


def test_job_from_before_any_model_is_handed_out_once_it_is_known(
    job: Make, make_card: Make, make_request: Make
) -> None:
    pool = Pool("account")
    opened = pool.add_job(replace(job(count=2), model_sha256=""), range(2))
    assert (pool.unresolved, dict(pool.scheduler.jobs)) == ({"job"}, {})
    pool.put_card(PoolCard(make_card("a"), "agent-a", "a", "1", 0, online=True))
    pool.resolved(opened, make_request(seed=100))
    assert (pool.unresolved, waiting(pool)) == (set(), {"job": [0, 1]})


def restored(state: TaskState, failed_on: str = "") -> Task:
    """An image of a job that card a holds, if its state says so, and others failed on."""
    tried = tuple(Attempt(1, c, c, "fail", "", 0, 0) for c in failed_on)
    return Task(
        "job", 0, state, 2, "a", "a", "agent-a", "", len(tried), 0, 0, 3, 0, 0, 0, attempts=tried
    )


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
    pool.restore(job(), restored(state, failed_on="b"), 9.0)
    assert avoided(pool) == {0: frozenset("b")}
    assert waiting(pool) == ({"job": [0]} if waits else {})
    held = pool.held.get(Lease("job", 0, 2))
    if started is None:
        assert held is None
        return
    assert held is not None
    assert (held.started, held.releasing, held.deadline) == (started, releasing, 9.0)
    assert (pool.jobs["job"].held, busy(pool)) == (1, {"a": 1, "b": 0})


def test_lease_restored_and_lost_waits_again(pool: Pool, job: Make) -> None:
    pool.restore(job(), restored(TaskState.RUNNING), 5.0)
    (held,) = pool.held.values()
    end(pool, held.lease, TaskEvent.LOSE, blame=True)
    assert (waiting(pool), avoided(pool)) == ({"job": [0]}, {0: frozenset("a")})


def test_lease_restored_on_a_card_that_is_not_remembered_waits_again_when_it_is_lost(
    pool: Pool, job: Make
) -> None:
    pool.restore(job(), replace(restored(TaskState.RUNNING), card_id="gone"), 5.0)
    (held,) = pool.held.values()
    end(pool, held.lease, TaskEvent.LOSE, blame=True)
    assert waiting(pool) == {"job": [0]}
