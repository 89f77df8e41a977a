"""Watchers learn what changed from the changes themselves; the store fills the gaps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from foxden_broker.following import Follower
from foxden_broker.hub import MOST_CHANGES, Hub
from foxden_broker.recent_jobs import MOST_TASKS, RecentJobs
from foxden_broker.store.base import Change, Job, Task
from foxden_proto.states import JobState, TaskEvent, TaskState

JOB = Job("den", "job", "ann", b"", "m", 2, 2, JobState.QUEUED, 1, 0, 0, 0, False, "", 0)


def task(revision: int, state: TaskState = TaskState.RUNNING, index: int = 0) -> Task:
    return Task("job", index, state, 1, "c", "C", "a", "", 0, 0, 0, revision, 0, 0, 0)


def change(
    revision: int,
    state: TaskState = TaskState.RUNNING,
    job_state: JobState = JobState.RUNNING,
    index: int = 0,
) -> Change:
    return Change(task(revision, state, index), TaskEvent.START, job_state, revision)


class Store:
    """Counts how often it is asked, and answers with the job as a test has set it."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.job: Job | None = JOB
        self.tasks: tuple[Task, ...] = ()

    async def changed_tasks(self, account_id: str, job_id: str, after: int) -> Any:
        self.asked.append(after)
        return None if self.job is None else (self.job, self.tasks)


@pytest.fixture
def store() -> Store:
    return Store()


def follower(store: Any, hub: Hub, subscription: Any) -> Follower:
    return Follower(store, "den", "job", subscription, hub.recent)


async def test_watcher_that_keeps_up_asks_the_store_once(store: Store) -> None:
    hub = Hub()
    with hub.subscribe("job") as subscription:
        mine = follower(store, hub, subscription)
        assert await mine.news(0) == (JOB, ())
        hub.changed("job", change(2))
        hub.changed("job", change(3, TaskState.DONE, JobState.DONE))
        job, tasks = await mine.news(1) or (None, [])
        assert job == replace(JOB, revision=3, state=JobState.DONE)
        assert [(one.revision, one.state) for one in tasks] == [(3, TaskState.DONE)]
    assert store.asked == [0]


async def test_tasks_of_several_changes_come_in_the_order_of_their_revisions(store: Store) -> None:
    hub = Hub()
    with hub.subscribe("job") as subscription:
        mine = follower(store, hub, subscription)
        await mine.news(0)
        for revision, index in ((2, 1), (3, 0), (4, 1)):
            hub.changed("job", change(revision, index=index))
        _, tasks = await mine.news(1) or (None, [])
        assert [(one.revision, one.index) for one in tasks] == [(3, 0), (4, 1)]


async def test_gap_between_changes_sends_the_watcher_to_the_store(store: Store) -> None:
    hub = Hub()
    with hub.subscribe("job") as subscription:
        mine = follower(store, hub, subscription)
        await mine.news(0)
        hub.changed("job", change(3))
        await mine.news(1)
    assert store.asked == [0, 1]


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.CANCELLED, JobState.PARTIAL])
async def test_job_that_ended_badly_is_read_for_its_reason(store: Store, state: JobState) -> None:
    hub = Hub()
    with hub.subscribe("job") as subscription:
        mine = follower(store, hub, subscription)
        await mine.news(0)
        store.job = replace(JOB, revision=2, state=state, reason="why")
        hub.changed("job", change(2, TaskState.FAILED, state))
        job, _ = await mine.news(1) or (None, ())
        assert job == store.job


async def test_change_without_words_sends_the_watcher_to_the_store(store: Store) -> None:
    hub = Hub()
    with hub.subscribe("job") as subscription:
        mine = follower(store, hub, subscription)
        await mine.news(0)
        hub.changed("job", change(2))
        hub.changed("job")
        hub.changed("job", change(3))
        await mine.news(1)
        assert store.asked == [0, 1]


async def test_change_that_the_store_told_already_is_passed_over(store: Store) -> None:
    hub = Hub()
    with hub.subscribe("job") as subscription:
        mine = follower(store, hub, subscription)
        store.job = replace(JOB, revision=3)
        await mine.news(0)
        hub.changed("job", change(2))
        hub.changed("job", change(3))
        assert await mine.news(3) == (store.job, [])
        assert store.asked == [0]


async def test_watcher_far_behind_keeps_few_changes_and_asks_the_store(store: Store) -> None:
    hub = Hub()
    with hub.subscribe("job") as subscription:
        mine = follower(store, hub, subscription)
        await mine.news(0)
        for revision in range(2, 10 * MOST_CHANGES):
            hub.changed("job", change(revision))
            assert len(subscription._changes or ()) <= MOST_CHANGES
        await mine.news(1)
        assert store.asked == [0, 1]


async def test_job_that_is_not_there_is_told_as_none(store: Store) -> None:
    hub = Hub()
    store.job = None
    with hub.subscribe("job") as subscription:
        assert await follower(store, hub, subscription).news(0) is None


async def test_first_watcher_of_a_job_just_submitted_needs_no_store(store: Store) -> None:
    hub = Hub()
    hub.recent.add(JOB)
    hub.changed("job", change(2))
    with hub.subscribe("job") as subscription:
        mine = follower(store, hub, subscription)
        job, tasks = await mine.news(0) or (None, ())
        assert job == replace(JOB, revision=2, state=JobState.RUNNING)
        assert [one.revision for one in tasks] == [2]
        hub.changed("job", change(3, TaskState.DONE, JobState.RUNNING))
        _, tasks = await mine.news(2) or (None, ())
        assert [one.state for one in tasks] == [TaskState.DONE]
    assert store.asked == []


async def test_resumed_watcher_of_a_recent_job_hears_what_came_after_its_cursor() -> None:
    recent = RecentJobs()
    recent.add(JOB)
    recent.changed("job", change(2, index=0))
    recent.changed("job", change(3, index=1))
    _, tasks = recent.news("job", 2) or (None, ())
    assert [one.index for one in tasks] == [1]


@pytest.mark.parametrize(
    "told",
    [
        None,
        change(3),
        change(2, TaskState.DONE, JobState.DONE),
        change(2, job_state=JobState.FAILED),
    ],
    ids=["unsaid", "gap", "ended", "failed"],
)
def test_recent_job_that_cannot_be_followed_is_forgotten(told: Change | None) -> None:
    recent = RecentJobs()
    recent.add(JOB)
    recent.changed("job", told)
    assert recent.news("job", 0) is None


def test_recent_jobs_are_bounded_in_number_and_in_changed_tasks() -> None:
    recent = RecentJobs(most=2)
    for name in ("a", "b", "c"):
        recent.add(replace(JOB, job_id=name))
    assert [recent.news(name, 0) is None for name in ("a", "b", "c")] == [True, False, False]
    recent.add(JOB)
    for revision in range(2, MOST_TASKS + 3):
        recent.changed("job", change(revision, index=revision))
    assert recent.news("job", 0) is None


def test_hub_that_cannot_say_what_changed_forgets_the_recent_jobs() -> None:
    hub = Hub()
    hub.recent.add(JOB)
    with hub.subscribe("x") as subscription:
        subscription.changes()
        hub.all_changed()
        assert subscription.changes() is None
    assert hub.recent.news("job", 0) is None
