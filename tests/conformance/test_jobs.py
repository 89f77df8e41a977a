"""Jobs as clients see them, tokens, cards and uploads: call × situation → outcome."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from foxden_broker.store.base import Assign, Lease, Picture, StoreError, Token, Upload
from foxden_proto.states import JobState, TaskEvent, TaskState

World = Any  # of conftest.py
DAY_MS = 86_400_000
E, T, J = TaskEvent, TaskState, JobState


async def test_submit_stores_job_and_tasks(world: World) -> None:
    new = world.new_job(3, deadline_ms=77, priority=3, request=b"\x00\xff")
    submitted = await world.store.submit(new, key_window_ms=DAY_MS)
    assert (submitted.repeated, submitted.conflict) == (False, False)
    job = await world.job(new.job_id)
    assert job == submitted.job
    assert (job.state, job.revision, job.done, job.count) == (J.QUEUED, 1, 0, 3)
    assert (job.request, job.priority, job.deadline_ms) == (b"\x00\xff", 3, 77)
    assert [(t.index, t.state, t.lease_no) for t in job.tasks] == [
        (index, T.QUEUED, 0) for index in range(3)
    ]


async def test_submit_of_a_thousand_images(world: World) -> None:
    job_id = await world.queued(1000)
    assert [task.index for task in (await world.job(job_id)).tasks] == list(range(1000))


async def test_submit_with_a_taken_job_id_is_an_error_and_stores_nothing(world: World) -> None:
    job_id = await world.queued(1)
    with pytest.raises(StoreError):
        await world.submit(2, job_id=job_id, idempotency_key="k")
    assert (await world.job(job_id)).count == 1
    assert not (await world.submit(1, idempotency_key="k")).repeated


async def test_submit_same_key_and_request_within_the_window_is_the_first_job(world: World) -> None:
    first = await world.submit(2, idempotency_key="k")
    await world.started(first.job.job_id)
    again = await world.submit(2, idempotency_key="k")
    assert (again.repeated, again.conflict) == (True, False)
    assert again.job.job_id == first.job.job_id
    assert again.job.state is J.RUNNING
    assert len(again.job.tasks) == 2
    assert (await world.store.jobs("den")).total == 1


async def test_submit_same_key_other_request_is_a_conflict_and_stores_nothing(world: World) -> None:
    first = await world.submit(idempotency_key="k")
    clash = await world.submit(idempotency_key="k", request_digest=b"other")
    assert (clash.repeated, clash.conflict) == (False, True)
    assert clash.job.job_id == first.job.job_id
    assert (await world.store.jobs("den")).total == 1


async def test_submit_same_key_after_the_window_is_a_new_job(world: World) -> None:
    first = await world.submit(idempotency_key="k")
    at = first.job.created_ms
    inside = await world.submit(idempotency_key="k", created_ms=at + DAY_MS - 1)
    outside = await world.submit(idempotency_key="k", created_ms=at + DAY_MS)
    again = await world.submit(idempotency_key="k", created_ms=at + DAY_MS + 5)
    assert inside.job.job_id == first.job.job_id
    assert outside.job.job_id != first.job.job_id
    assert again.job.job_id == outside.job.job_id


async def test_key_is_looked_up_as_submit_would_answer_and_nothing_is_written(
    world: World,
) -> None:
    async def looked_up(**more: object) -> Any:
        new = world.new_job(idempotency_key="k", **more)
        return await world.store.submitted(new, key_window_ms=DAY_MS)

    assert await looked_up() is None
    first = await world.submit(2, idempotency_key="k")
    at = first.job.created_ms
    again = await looked_up(count=2)
    assert again is not None
    assert (again.job.job_id, again.repeated, again.conflict) == (first.job.job_id, True, False)
    clash = await looked_up(request_digest=b"other")
    assert clash is not None
    assert (clash.repeated, clash.conflict) == (False, True)
    assert await looked_up(member="bob") is None
    assert await looked_up(created_ms=at + DAY_MS) is None
    assert len((await world.store.jobs(world.account)).jobs) == 1


async def test_submit_same_key_of_another_member_is_a_new_job(world: World) -> None:
    first = await world.submit(idempotency_key="k")
    other = await world.submit(idempotency_key="k", member="bob")
    assert not other.repeated
    assert other.job.job_id != first.job.job_id


async def test_submit_same_key_by_many_at_once_stores_one(world: World) -> None:
    results = await asyncio.gather(*(world.submit(idempotency_key="k") for _ in range(32)))
    assert len({result.job.job_id for result in results}) == 1
    assert sum(not result.repeated for result in results) == 1
    assert (await world.store.jobs("den")).total == 1


async def test_submit_and_lease_by_many_at_once_lose_nothing(world: World) -> None:
    job_id = await world.queued(24)
    given = [[Assign(job_id, index, f"card-{n}", "C", "a")] for index in range(24) for n in (1, 2)]
    results = await asyncio.gather(*(world.store.assign("den", some, 5) for some in given))
    assert sum(len(result) for result in results) == 24
    job = await world.job(job_id)
    assert job.revision == 25
    assert sorted(task.revision for task in job.tasks) == list(range(2, 26))


async def test_job_that_is_not_there_is_none(world: World) -> None:
    assert await world.store.job("den", "nowhere") is None
    assert await world.store.changed_tasks("den", "nowhere", 0) is None
    assert await world.store.cancel("den", "nowhere", "x", 1) is None


async def test_job_gives_attempts_only_where_asked(world: World) -> None:
    job_id = await world.queued()
    await world.started(job_id)
    plain = await world.store.job("den", job_id)
    assert plain.tasks[0].attempts == ()
    assert len((await world.task(job_id)).attempts) == 1


async def test_changed_tasks_are_those_after_the_revision_in_its_order(world: World) -> None:
    job_id = await world.queued(3)
    job, tasks = await world.store.changed_tasks("den", job_id, 0)
    assert [task.index for task in tasks] == [0, 1, 2]
    assert job.tasks == ()
    seen = job.revision
    assert (await world.store.changed_tasks("den", job_id, seen))[1] == ()
    await world.started(job_id, 2)
    await world.done(job_id, 0)
    job, tasks = await world.store.changed_tasks("den", job_id, seen)
    assert [(task.index, task.state) for task in tasks] == [(2, T.RUNNING), (0, T.DONE)]
    assert [task.revision for task in tasks] == [seen + 2, seen + 5]
    assert tasks[1].picture is not None
    assert job.revision == seen + 5


async def test_jobs_are_newest_first_in_pages(world: World) -> None:
    ids = [await world.queued(created_ms=500 if n < 4 else 600 + n) for n in range(7)]
    seen, before, pages = [], "", 0
    while True:
        page = await world.store.jobs("den", before=before, limit=3)
        assert page.total == 7
        seen += [job.job_id for job in page.jobs]
        pages += 1
        if not page.next_before:
            break
        before = page.next_before
        await world.queued(created_ms=10_000 + pages, member="later", account_id="other")
    assert seen == ids[::-1]
    assert pages == 3
    assert all(job.tasks == () for job in page.jobs)


async def test_jobs_full_last_page_has_no_next(world: World) -> None:
    for _ in range(2):
        await world.queued()
    assert (await world.store.jobs("den", limit=2)).next_before == ""
    assert (await world.store.jobs("nobody")).jobs == ()


async def test_jobs_by_member_and_state(world: World) -> None:
    mine, done = await world.queued(), await world.queued()
    other = await world.queued(member="bob")
    await world.done(done)

    async def ids(**which: Any) -> list[str]:
        page = await world.store.jobs("den", **which)
        assert page.total == len(page.jobs)
        return [job.job_id for job in page.jobs]

    assert await ids(member="ann") == [done, mine]
    assert await ids(member="bob") == [other]
    assert await ids(state=J.QUEUED) == [other, mine]
    assert await ids(state=J.DONE, member="ann") == [done]
    assert await ids(state=J.DONE, member="bob") == []


@pytest.mark.parametrize("token", ["x", "%%%", "Zm9v", "bm90OmE6bnVtYmVy"])
async def test_jobs_with_a_made_up_page_token_is_an_error(world: World, token: str) -> None:
    with pytest.raises(ValueError, match="first page"):
        await world.store.jobs("den", before=token)


async def test_cancel_of_queued_ends_the_job(world: World) -> None:
    job_id = await world.queued(2)
    cancelled = await world.store.cancel("den", job_id, "changed my mind", world.tick())
    assert [(c.event, c.task.state, c.job_state) for c in cancelled.changes] == [
        (E.CANCEL, T.CANCELLED, J.CANCELLED)
    ] * 2
    assert cancelled.running == ()
    assert cancelled.job == await world.store.job("den", job_id)
    job = cancelled.job
    assert (job.state, job.reason, job.cancel_requested, job.ended_ms) == (
        J.CANCELLED,
        "changed my mind",
        True,
        world.now,
    )
    assert await world.store.assign("den", [Assign(job_id, 0, "c", "C", "a")], 9) == ()


async def test_cancel_of_running_names_what_is_held_and_marks_the_job(world: World) -> None:
    job_id = await world.queued(4)
    await world.done(job_id, 0)
    running, leased = await world.started(job_id, 1), await world.leased(job_id, 2)
    cancelled = await world.store.cancel("den", job_id, "stop", world.tick())
    assert [c.task.index for c in cancelled.changes] == [3]
    assert [task.lease for task in cancelled.running] == [running, leased]
    assert (cancelled.job.state, cancelled.job.cancel_requested) == (J.RUNNING, True)
    await world.store.end_lease("den", running, E.CANCEL, "", world.tick())
    change = await world.store.end_lease("den", leased, E.CANCEL, "", world.tick())
    assert change.job_state is J.PARTIAL


async def test_cancel_again_says_the_same_and_changes_nothing(world: World) -> None:
    job_id = await world.queued(2)
    lease = await world.started(job_id)
    first = await world.store.cancel("den", job_id, "stop", world.tick())
    again = await world.store.cancel("den", job_id, "other words", world.tick())
    assert again.job == first.job
    assert again.changes == ()
    assert [task.lease for task in again.running] == [lease]


async def test_cancel_of_an_ended_job_changes_nothing(world: World) -> None:
    job_id = await world.queued()
    await world.done(job_id)
    before = await world.store.job("den", job_id)
    cancelled = await world.store.cancel("den", job_id, "late", world.tick())
    assert (cancelled.job, cancelled.changes, cancelled.running) == (before, (), ())
    assert not cancelled.job.cancel_requested


async def test_resolve_fills_in_once(world: World) -> None:
    job_id = await world.queued(model_sha256="")
    assert await world.store.resolve("den", job_id, b"whole", "a" * 64)
    assert not await world.store.resolve("den", job_id, b"other", "b" * 64)
    assert not await world.store.resolve("den", "nowhere", b"x", "b" * 64)
    job = await world.job(job_id)
    assert (job.request, job.model_sha256) == (b"whole", "a" * 64)


def token(token_id: str = "t1", **more: Any) -> Token:
    fields = {
        "account_id": "den",
        "token_id": token_id,
        "secret_sha256": b"\x01" * 32,
        "member": "ann",
        "scopes": frozenset({"generate", "admin"}),
        "created_ms": 5,
        "expires_ms": 99,
    }
    return Token(**(fields | more))


async def test_token_is_read_back_listed_and_revoked_once(world: World) -> None:
    await world.store.add_token(token("t2", created_ms=9, scopes=frozenset()))
    await world.store.add_token(token("t1"))
    assert await world.store.token("den", "t1") == token("t1")
    assert await world.store.token("den", "nope") is None
    assert [t.token_id for t in await world.store.tokens("den")] == ["t1", "t2"]
    assert (await world.store.revoke_token("den", "t1", 50)).revoked_ms == 50
    assert (await world.store.revoke_token("den", "t1", 60)).revoked_ms == 50
    assert (await world.store.token("den", "t1")).revoked_ms == 50
    assert await world.store.revoke_token("den", "nope", 60) is None


async def test_token_with_a_taken_id_is_an_error(world: World) -> None:
    await world.store.add_token(token())
    with pytest.raises(StoreError):
        await world.store.add_token(token(member="eve"))
    assert (await world.store.token("den", "t1")).member == "ann"


async def test_ensure_account_twice_is_one(world: World) -> None:
    await world.store.ensure_account("den", "Other", 2)
    await world.store.ensure_account("abc", "Abc", 2)
    assert list(await world.store.accounts()) == ["abc", "den"]


async def test_save_cards_replaces_those_of_the_agent(world: World) -> None:
    async def save(agent: str, now: int, *cards: tuple[str, bytes]) -> None:
        await world.store.save_cards("den", agent, agent.upper(), "1.0", cards, now)

    async def rows() -> list[tuple[str, str, bytes, int]]:
        found = await world.store.cards("den")
        return [(row.agent_id, row.card_id, row.info, row.last_seen_ms) for row in found]

    await save("a", 1, ("c1", b"1"), ("c2", b"2"))
    await save("b", 2, ("c3", b"3"))
    await save("a", 3, ("c2", b"two"))
    assert await rows() == [("a", "c2", b"two", 3), ("b", "c3", b"3", 2)]
    await save("b", 4, ("c2", b"moved"), ("c3", b"3"))
    await save("a", 5)
    assert await rows() == [("b", "c2", b"moved", 4), ("b", "c3", b"3", 4)]
    (first, _) = await world.store.cards("den")
    assert (first.account_id, first.agent_name, first.agent_version) == ("den", "B", "1.0")


async def test_upload_is_read_back(world: World) -> None:
    upload = Upload("den", "u1", "a" * 64, 123, "image/png", 7)
    await world.store.add_upload(upload)
    assert await world.store.upload("den", "u1") == upload
    assert await world.store.upload("den", "u2") is None


async def test_two_accounts_never_see_or_touch_each_others_rows(world: World) -> None:
    store = world.store
    await store.ensure_account("fox", "Fox", 1)
    job_id = await world.queued(2, idempotency_key="k")
    lease = await world.started(job_id)
    await store.add_token(token())
    await store.save_cards("den", "a", "A", "1", [("c", b"i")], 1)
    await store.add_upload(Upload("den", "u1", "a" * 64, 1, "image/png", 7))
    before = await world.job(job_id)

    assert await store.job("fox", job_id) is None
    assert await store.changed_tasks("fox", job_id, 0) is None
    assert (await store.jobs("fox")).total == 0
    assert await store.open_tasks("fox") == ()
    assert await store.cancel("fox", job_id, "x", 9) is None
    assert not await store.resolve("fox", job_id, b"x", "b" * 64)
    assert await store.end_queued("fox", [(job_id, 1)], E.CANCEL, "x", 9) == ()
    assert await store.assign("fox", [Assign(job_id, 1, "c", "C", "a")], 9) == ()
    assert await store.start("fox", lease, 9) is None
    assert await store.finish("fox", lease, Picture("p", 1, b""), 9) == (None, False)
    assert await store.end_lease("fox", lease, E.LOSE, "x", 9) is None
    assert await store.retry("fox", job_id, 9) == ()
    assert await store.token("fox", "t1") is None
    assert await store.tokens("fox") == ()
    assert await store.revoke_token("fox", "t1", 9) is None
    assert await store.cards("fox") == ()
    await store.save_cards("fox", "a", "A", "1", [], 1)
    assert await store.upload("fox", "u1") is None

    # The very same names in another account are other things.
    twin = await world.submit(1, account_id="fox", job_id=job_id, idempotency_key="k")
    assert not twin.repeated
    (change,) = await store.assign("fox", [Assign(job_id, 0, "c", "C", "a")], 9)
    assert change.task.lease == Lease(job_id, 0, 1) == lease
    await store.end_lease("fox", lease, E.GIVE_UP, "x", 9)

    assert await world.job(job_id) == before
    assert len(await store.cards("den")) == 1
    assert (await store.token("den", "t1")).revoked_ms == 0
