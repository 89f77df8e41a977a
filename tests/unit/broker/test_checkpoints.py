"""Checkpoints at the broker: PUT and GET at the real door, told over the link, gone on from on
another card, and swept."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from one_account import World, new_store, sha256_of

from foxden_agent.pictures import PictureRefused, PictureSender
from foxden_broker import dispatcher, http_api, keeper, sweeper
from foxden_broker.auth import Doorkeeper
from foxden_broker.session import Session
from foxden_broker.store.base import Checkpoint
from foxden_broker.sweeper import Keep
from foxden_broker.uploads import checkpoint_path, upload_path
from foxden_proto import limits
from foxden_proto.address import Address
from foxden_proto.link import LeaseKey
from foxden_proto.timers import Timers
from foxden_proto.v1 import generation_pb2 as gen
from foxden_proto.v1 import link_pb2 as pb
from foxden_proto.v1 import pool_pb2

Make = Callable[..., Any]


class Den:
    """A broker with its HTTP door, and the agents' own sender on the other end of it."""

    def __init__(self, world: World, make_card: Make) -> None:
        self.world, self.card = world, make_card
        account = world.account
        app = http_api.create(
            {"main": account}, Doorkeeper(world.store), "", account.metrics, metrics_open=False
        )
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x")
        self.sender = PictureSender(Address("127.0.0.1"), lambda: None)
        self.sender._client = self.client

    def token(self, lease: LeaseKey) -> str:
        return self.world.account.signer.upload_token("main", lease)

    async def put(self, lease: LeaseKey, data: bytes, **headers: str) -> httpx.Response:
        names = {"Authorization": f"Bearer {self.token(lease)}", "X-Foxden-Sha256": sha256_of(data)}
        return await self.client.put(
            checkpoint_path("main", lease), content=data, headers=names | headers
        )

    async def tell(self, lease: LeaseKey, data: bytes, step: int) -> pb.Checkpoint:
        """PUT it, and say so."""
        told = (await self.put(lease, data)).json()
        made = pb.Checkpoint(sha256=told["sha256"], size=told["size"], step=step)
        frame = pb.TaskCheckpoint(lease=lease.message(), checkpoint=made, receipt=told["receipt"])
        await self.world.say(self.world.session_of(lease), checkpoint=frame)
        return made

    async def running(self, count: int = 1, **values: Any) -> list[LeaseKey]:
        await self.world.submit(count, **values)
        leases = sorted(await self.world.dispatch(), key=lambda lease: lease.index)
        await self.world.start(*leases)
        return leases

    async def given(self, session: Session) -> list[list[pb.AssignedTask]]:
        """What the dispatcher gives this agent now, by assignment."""
        await dispatcher.dispatch(self.world.account)
        frames = self.world.heard(session)
        return [list(f.assignment.tasks) for f in frames if f.WhichOneof("frame") == "assignment"]

    async def kept(self, lease: LeaseKey) -> Checkpoint | None:
        job = await self.world.store.job("main", lease.job_id)
        assert job is not None
        return job.tasks[lease.index].checkpoint

    async def blobs(self) -> set[str]:
        return {kept.sha256 async for kept in self.world.account.blobs.kept()}


@pytest_asyncio.fixture
async def den(tmp_path: Path, make_card: Make) -> AsyncIterator[Den]:
    store = await new_store(tmp_path)
    made = Den(World(store, tmp_path), make_card)
    yield made
    await made.client.aclose()
    await store.close()


# The door


async def test_put_x_answered_with_a_receipt_that_is_none_for_a_picture(den: Den) -> None:
    await den.world.join(den.card("a"))
    (lease,) = await den.running()
    told = (await den.put(lease, b"latents")).json()
    signer = den.world.account.signer
    ids = ("main", lease, sha256_of(b"latents"), 7)
    assert signer.check_checkpoint_receipt(told["receipt"], *ids)
    assert not signer.check_receipt(told["receipt"], *ids)
    assert not signer.check_checkpoint_receipt(signer.receipt(*ids), *ids)
    picture = gen.Picture(sha256=ids[2], size=7)
    finished = pb.TaskFinished(lease=lease.message(), picture=picture, receipt=told["receipt"])
    (settled,) = await den.world.say(den.world.session_of(lease), finished=finished)
    assert not settled.settled.accepted


async def test_put_x_refused_without_the_token_of_this_lease(den: Den) -> None:
    await den.world.join(den.card("a", most_together=16))
    one, other = await den.running(2)
    answer = await den.put(one, b"latents", Authorization=f"Bearer {den.token(other)}")
    assert answer.status_code == 401
    assert (await den.put(one, b"latents", Authorization="")).status_code == 401
    assert await den.blobs() == set()


@pytest.mark.parametrize(
    ("data", "headers", "status"),
    [
        (b"cut in the mid", {"X-Foxden-Sha256": sha256_of(b"cut in the middle")}, 422),
        (b"latents", {"X-Foxden-Sha256": "no hash"}, 422),
        (b"latents", {"X-Foxden-Sha256": ""}, 422),
        (b"x" * (limits.CHECKPOINT_BYTES + 1), {}, 413),
    ],
    ids=["cut", "no hash", "unsaid", "too big"],
)
async def test_put_of_what_is_no_checkpoint_x_keeps_nothing(
    den: Den, data: bytes, headers: dict[str, str], status: int
) -> None:
    await den.world.join(den.card("a"))
    (lease,) = await den.running()
    assert (await den.put(lease, data, **headers)).status_code == status
    assert await den.blobs() == set()


async def test_put_again_and_again_x_is_too_many(den: Den) -> None:
    await den.world.join(den.card("a"))
    (lease,) = await den.running()
    answers = [await den.put(lease, bytes([n])) for n in range(6)]
    assert [answer.status_code for answer in answers] == [200] * 4 + [429] * 2


async def test_put_and_get_of_a_lease_that_is_over_x_gone(den: Den) -> None:
    await den.world.join(den.card("a"))
    (lease,) = await den.running()
    await den.world.finish(lease)
    assert (await den.put(lease, b"latents")).status_code == 410
    auth = {"Authorization": f"Bearer {den.token(lease)}"}
    assert (await den.client.get(checkpoint_path("main", lease), headers=auth)).status_code == 410


@pytest.mark.parametrize("path", ["x/0/1", "job/-1/1", f"job/0/{10**30}", "job/0/one"])
async def test_put_to_a_path_that_names_no_lease_x_is_refused(den: Den, path: str) -> None:
    answer = await den.client.put(f"/v1/checkpoints/main/{path}", content=b"x")
    assert answer.status_code in (401, 422)


async def test_get_x_gives_exactly_what_the_lease_was_given_and_nothing_else(den: Den) -> None:
    await den.world.join(den.card("a"))
    (first,) = await den.running()
    made = await den.tell(first, b"latents of step 7", 7)
    with pytest.raises(PictureRefused, match="beginning"):  # its own lease began from nothing
        await fetch(den, first, made)
    den.world.leave(den.card("a"))
    session = await den.world.join(den.card("a"))  # without it: it is lost
    ((task,),) = await den.given(session)
    second = LeaseKey.of(task.lease)
    assert second.lease_no == 2
    assert await fetch(den, second, task.resume) == b"latents of step 7"
    with pytest.raises(PictureRefused, match="not yours"):
        await fetch(den, first, made)
    another = pb.Checkpoint(sha256=sha256_of(b"another"), size=17)
    with pytest.raises(PictureRefused, match="another one than was announced"):
        await fetch(den, second, another)
    longer = pb.Checkpoint(sha256=made.sha256, size=5)
    with pytest.raises(PictureRefused, match="another one than was announced"):
        await fetch(den, second, longer)


async def fetch(den: Den, lease: LeaseKey, what: pb.Checkpoint) -> bytes:
    return await den.sender.get(
        checkpoint_path("main", lease),
        den.token(lease),
        what.sha256,
        what.size,
        wanted=lambda: True,
        within=5.0,
    )


async def test_get_of_one_that_is_not_kept_any_more_x_says_so(den: Den) -> None:
    session = await den.world.join(den.card("a"))
    (first,) = await den.running()
    made = await den.tell(first, b"latents", 7)
    await give_back(den, first)
    await den.world.account.blobs.delete(made.sha256)
    ((task,),) = await den.given(session)
    with pytest.raises(PictureRefused, match="not kept any more"):
        await fetch(den, LeaseKey.of(task.lease), task.resume)


# The link


async def give_back(den: Den, lease: LeaseKey, **last: Any) -> None:
    session = den.world.session_of(lease)
    for releasing in (True, False):
        more = {} if releasing else last
        word = pb.TaskReleased(lease=lease.message(), releasing=releasing, reason="a game", **more)
        await den.world.say(session, released=word)


async def test_told_x_kept_and_given_to_the_next_card_with_the_place_to_fetch_it(
    den: Den,
) -> None:
    session = await den.world.join(den.card("a"))
    (lease,) = await den.running()
    await den.tell(lease, b"latents", 7)
    made = await den.tell(lease, b"later latents", 9)
    await give_back(den, lease)
    ((task,),) = await den.given(session)
    path = checkpoint_path("main", LeaseKey.of(task.lease))
    made.path = path
    assert task.resume == made
    assert task.checkpoint_path == path
    job = await den.world.job(lease.job_id)
    assert (job.tasks[0].failures, job.tasks[0].releases) == (0, 1)


async def test_told_without_the_receipt_of_this_lease_x_is_not_believed(den: Den) -> None:
    session = await den.world.join(den.card("a", most_together=16))
    one, other = await den.running(2)
    receipt = (await den.put(other, b"latents")).json()["receipt"]
    made = pb.Checkpoint(sha256=sha256_of(b"latents"), size=7, step=3)
    frame = pb.TaskCheckpoint(lease=one.message(), checkpoint=made, receipt=receipt)
    await den.world.say(session, checkpoint=frame)
    assert await den.kept(one) is None
    await give_back(den, one, checkpoint=made, receipt=receipt)
    assert await den.kept(one) is None
    assert one not in den.world.account.pool.held


async def test_released_with_a_later_one_x_that_counts(den: Den) -> None:
    await den.world.join(den.card("a"))
    (lease,) = await den.running()
    await den.tell(lease, b"latents", 7)
    last = (await den.put(lease, b"last latents")).json()
    made = pb.Checkpoint(sha256=last["sha256"], size=last["size"], step=12)
    await give_back(den, lease, checkpoint=made, receipt=last["receipt"])
    kept = await den.kept(lease)
    assert kept is not None
    assert kept.step == 12


async def test_releasing_and_nothing_more_x_queued_after_the_wait_with_what_is_kept(
    tmp_path: Path, make_card: Make
) -> None:
    store = await new_store(tmp_path)
    den = Den(World(store, tmp_path, timers=replace(Timers(), release=0.05)), make_card)
    session = await den.world.join(make_card("a"))
    (lease,) = await den.running()
    await den.tell(lease, b"latents", 7)
    word = pb.TaskReleased(lease=lease.message(), releasing=True, reason="a game")
    await den.world.say(session, released=word)
    assert lease in den.world.account.pool.held
    await asyncio.sleep(0.06)
    await keeper.look(den.world.account)
    assert lease not in den.world.account.pool.held
    kept = await den.kept(lease)
    assert kept is not None
    assert kept.step == 7
    job = await den.world.job(lease.job_id)
    assert (job.tasks[0].failures, job.tasks[0].losses) == (0, 0)
    await den.client.aclose()
    await store.close()


async def test_checkpoint_refused_x_begins_again_and_nobody_failed(den: Den) -> None:
    session = await den.world.join(den.card("a"))
    (lease,) = await den.running()
    await den.tell(lease, b"latents", 7)
    await give_back(den, lease)
    ((task,),) = await den.given(session)
    second = LeaseKey.of(task.lease)
    await den.world.start(second)
    failed = pb.TaskFailed(
        lease=second.message(), reason="unreadable", retryable=True, checkpoint_refused=True
    )
    await den.world.say(session, failed=failed)
    assert await den.kept(second) is None
    ((task,),) = await den.given(session)
    assert not task.HasField("resume")
    third = LeaseKey.of(task.lease)
    job = await den.world.job(lease.job_id)
    assert (job.tasks[0].failures, job.tasks[0].losses) == (0, 0)
    # What begins from the beginning has no checkpoint to refuse: this is a failure like any other.
    await den.world.start(third)
    failed.lease.CopyFrom(third.message())
    await den.world.say(session, failed=failed)
    job = await den.world.job(lease.job_id)
    assert job.tasks[0].failures == 1


async def test_card_without_the_model_refuses_x_the_checkpoint_stays(den: Den) -> None:
    session = await den.world.join(den.card("a"))
    (lease,) = await den.running()
    await den.tell(lease, b"latents", 7)
    await give_back(den, lease)
    ((task,),) = await den.given(session)
    refused = pb.Refused(leases=[task.lease], reason="this card has no model dream")
    await den.world.say(session, refused=refused)
    kept = await den.kept(lease)
    assert kept is not None
    assert kept.step == 7


async def test_refused_because_its_owner_came_first_x_card_is_not_left_alone_for_it(
    den: Den,
) -> None:
    session = await den.world.join(den.card("a"))
    await den.world.submit()
    (lease,) = await den.world.dispatch()
    mode = pb.CardMode(card_id="a", mode=pool_pb2.MODE_GAMING, reasons=["gaming"])
    await den.world.say(session, mode_changed=pb.ModeChanged(mode=mode))
    refused = pb.Refused(leases=[lease.message()], reason="not ready: gaming", not_ready=True)
    await den.world.say(session, refused=refused)
    assert await den.given(session) == []
    mode.mode = pool_pb2.MODE_READY
    await den.world.say(session, mode_changed=pb.ModeChanged(mode=mode))
    assert len(await den.given(session)) == 1


async def test_agent_vanishes_x_another_goes_on_from_what_was_told(den: Den) -> None:
    await den.world.join(den.card("a"))
    (lease,) = await den.running()
    await den.tell(lease, b"latents", 7)
    other = await den.world.join(den.card("b"))
    den.world.leave(den.card("a"))
    account = den.world.account
    session = account.sessions["agent-a"]
    session.link._lost_at = time.monotonic() - account.timers.lease_lost - 1
    await keeper.look(account)
    ((task,),) = await den.given(other)
    assert task.resume.step == 7
    job = await den.world.job(lease.job_id)
    assert job.tasks[0].losses == 1


async def test_broker_restarts_x_waiting_images_go_on_from_their_checkpoints(den: Den) -> None:
    await den.world.join(den.card("a"))
    (lease,) = await den.running()
    await den.tell(lease, b"latents", 7)
    await give_back(den, lease)
    await den.world.restart()
    session = await den.world.join(den.card("a"))
    ((task,),) = await den.given(session)
    assert task.resume.step == 7
    assert sha256_of(b"latents") in den.world.account.checkpoints.stored


# Batches


async def test_batch_released_together_x_comes_together_again(den: Den) -> None:
    session = await den.world.join(den.card("a", most_together=16))
    leases = await den.running(3)
    assert len(leases) == 3
    await den.world.submit(2)  # fresh ones of the same kind
    for n, lease in enumerate(leases):
        await den.tell(lease, b"latents %d" % n, 7)
        await give_back(den, lease)
    given = await den.given(session)
    assert sorted(len(tasks) for tasks in given) in ([2, 3], [3])
    for tasks in given:
        assert len({task.resume.step for task in tasks}) == 1
    assert [task.lease.job_id for task in given[0]] == [leases[0].job_id] * 3, "they keep their age"


async def test_place_of_a_job_with_images_at_several_steps_x_counts_all_of_them(den: Den) -> None:
    await den.world.join(den.card("a"))
    job_id = await den.world.submit(3)
    (lease,) = await den.world.dispatch()
    await den.world.start(lease)
    await den.tell(lease, b"latents", 7)
    await give_back(den, lease)
    account = den.world.account
    opened = account.pool.jobs[job_id]
    assert sorted(opened.waiting) == [0, 1, 2]
    parts = account.pool.scheduler.jobs
    assert sorted(len(job.waiting) for job in parts.values()) == [1, 2]
    place = account.pool.scheduled.place(opened, time.monotonic())
    whole = [account.pool.scheduled.outlook.place(name, time.monotonic()).p50 for name in parts]
    assert place.p50 == pytest.approx(max(p50 for p50 in whole if p50 is not None), rel=0.2)


async def test_resumed_image_cancelled_while_it_waits_x_nothing_is_left_of_it(den: Den) -> None:
    session = await den.world.join(den.card("a"))
    (lease,) = await den.running()
    await den.tell(lease, b"latents", 7)
    await give_back(den, lease)
    account = den.world.account
    await account.end_queued([(lease.job_id, 0)], dispatcher.TaskEvent.CANCEL, "no more")
    assert account.pool.jobs == {}
    assert account.pool.scheduler.jobs == {}
    assert await den.given(session) == []


# Pre-emption


async def test_urgent_job_waits_behind_bulk_x_card_is_asked_and_both_are_drawn(den: Den) -> None:
    session = await den.world.join(den.card("a"))
    account = den.world.account
    (bulk,) = await den.running(priority=gen.PRIORITY_BULK)
    state = account.pool.scheduler
    state.table.cards["a"].held[0].run = 300.0  # a long one
    state._holds(state.table.cards["a"], time.monotonic())
    urgent = await den.world.submit(priority=gen.PRIORITY_INTERACTIVE)
    await dispatcher.dispatch(account)
    asked = [f.preempt for f in den.world.heard(session) if f.WhichOneof("frame") == "preempt"]
    assert [LeaseKey.of(one.lease) for one in asked] == [bulk]
    await dispatcher.dispatch(account)
    assert den.world.heard(session) == [], "it is asked once"
    await den.tell(bulk, b"latents", 7)
    await give_back(den, bulk)
    ((task,),) = await den.given(session)
    assert task.lease.job_id == urgent
    await den.world.start(LeaseKey.of(task.lease))
    await den.world.finish(LeaseKey.of(task.lease))
    ((task,),) = await den.given(session)
    assert (task.lease.job_id, task.resume.step) == (bulk.job_id, 7)
    part = account.pool.scheduler.preempts
    assert part == {(f"{bulk.job_id}@7", 0): 1}, "how often it gave way goes with it"


# The sweeper


async def test_replaced_and_ended_x_their_bytes_are_swept_within_the_minute(
    tmp_path: Path, make_card: Make
) -> None:
    store = await new_store(tmp_path)
    timers = replace(Timers(), lease_lost=0.0, silent=100.0, release=-100.0)
    den = Den(World(store, tmp_path, timers=timers), make_card)
    await den.world.join(make_card("a"))
    (lease,) = await den.running()
    await den.tell(lease, b"latents", 7)
    await den.tell(lease, b"later latents", 9)
    account = den.world.account

    async def sweep() -> set[str]:
        await asyncio.sleep(0.003)
        await sweeper.sweep(account, Keep(None, None, 0), set())
        return await den.blobs()

    assert await sweep() == {sha256_of(b"later latents")}
    picture = await den.world.finish(lease)
    assert await sweep() == {picture}
    assert account.checkpoints.stored == {}
    await den.client.aclose()
    await store.close()


def test_paths_x_pictures_and_checkpoints_are_apart() -> None:
    lease = LeaseKey("job", 0, 1)
    assert upload_path("main", lease) != checkpoint_path("main", lease)
