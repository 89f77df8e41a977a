"""A store that fails, agents that lie or hang, callers that hang up: nothing waits for ever."""

from __future__ import annotations

import asyncio
import time
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio

from foxden_broker import agent_calls, client_calls, dispatcher, doubts, keeper
from foxden_broker.account import Account, now_ms
from foxden_broker.blobs_folder import FolderBlobs
from foxden_broker.client_calls import Member
from foxden_broker.grpc_api import GenerationService
from foxden_broker.scheduler.facts import Give
from foxden_broker.session import Session
from foxden_broker.store.base import StorageFull, StoreError, Task
from foxden_broker.store.sql_store import open_store
from foxden_broker.uploads import Signer
from foxden_proto.link import LeaseKey
from foxden_proto.problems import Problem, Reason
from foxden_proto.states import TaskEvent, TaskState
from foxden_proto.timers import Timers
from foxden_proto.v1 import generation_pb2 as gen
from foxden_proto.v1 import link_pb2 as pb

MEMBER = Member("main", "ann", frozenset({"generate"}))


class Line:
    async def send_bytes(self, data: bytes) -> None: ...
    async def close(self, code: int = 1000, reason: str | None = None) -> None: ...


class Pause:
    """Between what the store has done and its answer."""

    def __init__(self) -> None:
        self.reached, self.over = asyncio.Event(), asyncio.Event()


class ShakyStore:
    """The real store, whose methods fail or wait as long as a test wants them to."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.broken: set[str] = set()
        self.unheard: set[str] = set()  # done, and the answer gets lost: once each
        self.after: dict[str, Pause] = {}

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def call(*args: Any, **named: Any) -> Any:
            if name in self.broken:
                raise StorageFull("The disk is full.")
            answer = await getattr(self._store, name)(*args, **named)
            if name in self.unheard:
                self.unheard.discard(name)
                raise StoreError("The connection broke.")
            if (pause := self.after.get(name)) is not None:
                pause.reached.set()
                await pause.over.wait()
            return answer

        return call


async def _chunks(data: bytes) -> AsyncIterator[bytes]:
    yield data


class World:
    """An account with one agent that has one card."""

    def __init__(self, store: Any, folder: Path, card: Any) -> None:
        self.store = ShakyStore(store)
        self.card = card
        self.account = self._account(folder)
        self.folder = folder
        self.session = Session("agent-1", Timers(), time.monotonic())

    def _account(self, folder: Path) -> Account:
        store: Any = self.store
        return Account("main", store, FolderBlobs(folder), Signer(bytes(32)), Timers())

    async def restart(self) -> None:
        self.account = self._account(self.folder)
        await self.account.load()
        self.session = self.account.sessions.get("agent-1", self.session)

    async def hello(self, *held: pb.HeldLease) -> list[pb.BrokerFrame]:
        self.account.sessions["agent-1"] = self.session
        self.session.connected(Line())
        return await self.say(
            hello=pb.Hello(protocol=1, agent_id="agent-1", cards=[self.card], held=held)
        )

    async def say(self, **frame: Any) -> list[pb.BrokerFrame]:
        """What the agent says, and what it hears."""
        data = pb.AgentFrame(**frame).SerializeToString()
        for event in self.session.link.receive(data, time.monotonic()):
            await agent_calls.handle(self.account, self.session, event)
        return self.heard()

    def heard(self) -> list[pb.BrokerFrame]:
        unsent = self.session._unsent
        found = [unsent.get_nowait() for _ in range(unsent.qsize())]
        return [pb.BrokerFrame.FromString(data) for data in found if data is not None]

    async def submit(self, **more: Any) -> str:
        request = gen.SubmitRequest(request=gen.ImageRequest(prompt="a red cube"), **more)
        return (await client_calls.submit(self.account, MEMBER, request)).job.id

    async def leased(self, *, started: bool = True) -> LeaseKey:
        """An image on its card."""
        job_id = await self.submit()
        await dispatcher.dispatch(self.account)
        (key,) = [LeaseKey.of(f.assignment.tasks[0].lease) for f in self.heard() if f.assignment]
        assert key.job_id == job_id
        if started:
            await self.say(started=pb.TaskStarted(lease=key.message()))
        return key

    async def finish(self, key: LeaseKey) -> None:
        """Its agent has drawn and stored it."""
        sha256, size = await self.account.blobs.put(_chunks(b"a picture"), limit=100)
        receipt = self.account.signer.receipt("main", key, sha256, size)
        picture = gen.Picture(sha256=sha256, size=size, seconds=0.1)
        said = pb.TaskFinished(lease=key.message(), picture=picture, receipt=receipt)
        await self.say(finished=said)

    async def task(self, job_id: str) -> Task:
        job = await self.store.job("main", job_id, attempts=True)
        return job.tasks[0]  # type: ignore[no-any-return]


@pytest_asyncio.fixture
async def world(tmp_path: Path, make_card: Any) -> AsyncIterator[World]:
    store = await open_store(str(tmp_path / "foxden.db"))
    await store.ensure_account("main", "main", 1)
    made = World(store, tmp_path / "blobs", make_card())
    await made.hello()
    made.heard()
    yield made
    await store.close()


# The store fails


async def test_store_that_neither_leases_nor_answers_leaves_the_image_waiting(world: World) -> None:
    job_id = await world.submit()
    world.store.broken = {"assign", "job"}
    with pytest.raises(StoreError):
        await dispatcher.dispatch(world.account)
    world.store.broken = set()
    await dispatcher.dispatch(world.account)
    assert [f.WhichOneof("frame") for f in world.heard()] == ["assignment"]
    assert (await world.task(job_id)).state is TaskState.LEASED


async def test_image_that_cannot_be_put_back_does_not_keep_others_from_being_sent(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [await world.submit(), await world.submit()]
    sent = []

    async def send(account: Account, give: Give, leases: list[LeaseKey]) -> None:
        sent.append(leases)
        if len(sent) == 1:
            raise StorageFull("The disk is full.")

    monkeypatch.setattr(dispatcher, "_send", send)
    card = world.card.card_id
    gives = [Give(card, ((job, 0),), world.card.models[0].sha256) for job in jobs]
    for give in gives:
        world.account.pool.reserve(give)
    with pytest.raises(StorageFull):
        await dispatcher._hand_out(world.account, gives)
    assert len(sent) == 2


async def test_lease_lost_while_the_disk_is_full_is_given_back_once_there_is_space(
    world: World,
) -> None:
    key = await world.leased()
    connection = world.session._connection
    assert connection is not None
    world.session.disconnected(connection)
    world.session.link._lost_at -= Timers().lease_lost
    world.store.broken = {"end_lease"}
    with pytest.raises(StoreError):
        await keeper.look(world.account)
    world.store.broken = set()
    await keeper.look(world.account)
    task = await world.task(key.job_id)
    assert (task.state, task.losses) == (TaskState.QUEUED, 1)


async def test_goodbye_while_the_disk_is_full_is_made_good_once_there_is_space(
    world: World,
) -> None:
    key = await world.leased()
    world.store.broken = {"end_lease"}
    await world.say(goodbye=pb.Goodbye(reason="stopped"))
    world.account.sessions.clear()  # as its connection does when it ends
    world.store.broken = set()
    await keeper.look(world.account)
    assert (await world.task(key.job_id)).state is TaskState.QUEUED


# The store does it, and its answer gets lost: a connection that breaks during COMMIT


async def test_lease_whose_answer_got_lost_is_given_back_and_leased_again(world: World) -> None:
    job_id = await world.submit()
    world.store.unheard = {"assign"}
    with pytest.raises(StoreError):
        await dispatcher.dispatch(world.account)
    await dispatcher.dispatch(world.account)
    (frame,) = world.heard()
    task = await world.task(job_id)
    assert LeaseKey.of(frame.assignment.tasks[0].lease) == task.lease
    assert (task.lease_no, task.failures, task.losses) == (2, 0, 0)
    assert not world.account.doubts


async def test_lease_whose_answer_got_lost_while_the_last_other_image_ends_is_leased_again(
    world: World, make_card: Any
) -> None:
    cards = [world.card, make_card("another")]
    await world.say(cards_changed=pb.CardsChanged(cards=cards))
    job_id = await world.submit(count=2)
    await dispatcher.dispatch(world.account)
    other, lost = world.account.pool.held
    await world.say(started=pb.TaskStarted(lease=other.message()))
    await world.account.end_lease(lost, TaskEvent.REFUSE, "not now")
    world.store.unheard = {"assign"}
    with pytest.raises(StoreError):
        await dispatcher.dispatch(world.account)
    pause = world.store.after["end_lease"] = Pause()
    settling = asyncio.create_task(doubts.settle(world.account))
    await pause.reached.wait()  # the store has ended the lease that nobody was told of
    await world.finish(other)
    pause.over.set()
    await settling
    world.heard()
    await dispatcher.dispatch(world.account)
    (frame,) = world.heard()
    lease = frame.assignment.tasks[0].lease
    assert (lease.job_id, lease.index) == (job_id, lost.index)


async def test_lease_and_cancel_at_once_with_both_answers_lost_ends_the_job(world: World) -> None:
    job_id = await world.submit()
    world.store.unheard = {"assign", "cancel"}
    with pytest.raises(StoreError):
        await dispatcher.dispatch(world.account)
    with pytest.raises(StoreError):
        await client_calls.cancel(world.account, MEMBER, job_id)
    await client_calls.cancel(world.account, MEMBER, job_id)
    await dispatcher.dispatch(world.account)
    assert (await world.task(job_id)).state is TaskState.CANCELLED
    assert job_id not in world.account.pool.jobs


async def test_submit_whose_answer_got_lost_runs_once_its_client_asks_again(world: World) -> None:
    world.store.unheard = {"submit"}
    with pytest.raises(StoreError):
        await world.submit(idempotency_key="k")
    await world.submit(idempotency_key="k")
    await dispatcher.dispatch(world.account)
    assert [f.WhichOneof("frame") for f in world.heard()] == ["assignment"]


async def test_picture_whose_acceptance_was_not_heard_frees_its_card(world: World) -> None:
    key = await world.leased()
    receipt = world.account.signer.receipt("main", key, "a" * 64, 1)
    picture = gen.Picture(sha256="a" * 64, size=1)
    finished = pb.TaskFinished(lease=key.message(), picture=picture, receipt=receipt)
    world.store.unheard = {"finish"}
    with pytest.raises(StoreError):
        await world.say(finished=finished)
    (settled,) = await world.say(finished=finished)
    assert settled.settled.accepted
    await dispatcher.dispatch(world.account)
    assert not world.account.pool.held
    assert not world.account.pool.jobs


async def test_start_whose_answer_got_lost_has_begun(world: World) -> None:
    key = await world.leased(started=False)
    world.store.unheard = {"start"}
    with pytest.raises(StoreError):
        await world.say(started=pb.TaskStarted(lease=key.message()))
    await world.say(started=pb.TaskStarted(lease=key.message()))
    await dispatcher.dispatch(world.account)
    assert world.account.pool.held[key].started


async def test_failure_whose_answer_got_lost_is_tried_again(world: World) -> None:
    key = await world.leased()
    failed = pb.TaskFailed(lease=key.message(), reason="it broke", retryable=True)
    world.store.unheard = {"end_lease"}
    with pytest.raises(StoreError):
        await world.say(failed=failed)
    await world.say(failed=failed)
    await dispatcher.dispatch(world.account)
    (again,) = [f.assignment for f in world.heard() if f.HasField("assignment")]
    assert again.tasks[0].lease.lease_no == key.lease_no + 1


async def test_expiry_whose_answer_got_lost_leaves_nothing_waiting(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = await world.submit(deadline=1.0)
    for clock in ("monotonic", "time"):
        moment = getattr(time, clock)() + 1.1
        monkeypatch.setattr(time, clock, lambda moment=moment: moment)
    world.store.unheard = {"end_queued"}
    with pytest.raises(StoreError):
        await dispatcher.dispatch(world.account)
    await dispatcher.dispatch(world.account)
    assert job_id not in world.account.pool.jobs
    assert (await world.task(job_id)).state is TaskState.EXPIRED


async def test_model_whose_filling_in_was_not_heard_is_known(world: World) -> None:
    (card,) = world.account.pool.cards.values()
    world.account.pool.forget_card(card.info.card_id)
    job_id = await world.submit()
    world.account.pool.put_card(card)
    world.store.unheard = {"resolve"}
    with pytest.raises(StoreError):
        await world.account.resolve_waiting()
    await world.account.resolve_waiting()
    await dispatcher.dispatch(world.account)
    assert [f.assignment.tasks[0].lease.job_id for f in world.heard()] == [job_id]


async def test_image_that_moves_while_it_is_asked_about_is_asked_about_again(world: World) -> None:
    key = await world.leased()
    world.account.doubt(key.job_id, key.index)
    pause = world.store.after["job"] = Pause()
    settling = asyncio.create_task(doubts.settle(world.account))
    await pause.reached.wait()
    await world.account.end_lease(key, TaskEvent.LOSE, "gone")
    pause.over.set()
    await settling
    assert world.account.doubts == {(key.job_id, key.index)}
    await dispatcher.dispatch(world.account)
    assert [f.WhichOneof("frame") for f in world.heard()] == ["assignment"]


async def test_submit_whose_answer_got_lost_and_whose_client_has_gone_runs(world: World) -> None:
    world.store.unheard = {"submit"}
    with pytest.raises(StoreError):
        await world.submit()
    await dispatcher.dispatch(world.account)
    assert [f.WhichOneof("frame") for f in world.heard()] == ["assignment"]


# Races


async def test_two_tries_of_one_submit_answered_in_the_wrong_order_make_one_job(
    world: World,
) -> None:
    request = gen.SubmitRequest(request=gen.ImageRequest(prompt="a cube"), idempotency_key="k")
    pause = world.store.after["submit"] = Pause()
    first = asyncio.create_task(client_calls.submit(world.account, MEMBER, request))
    await pause.reached.wait()
    world.store.after.clear()
    answer = await client_calls.submit(world.account, MEMBER, request)
    await dispatcher.dispatch(world.account)
    pause.over.set()
    await first
    opened = world.account.pool.jobs[answer.job.id]
    assert (opened.waiting, opened.held) == (set(), 1)


async def test_lease_lost_while_its_start_is_being_written_goes_back(world: World) -> None:
    key = await world.leased(started=False)
    pause = world.store.after["start"] = Pause()
    starting = asyncio.create_task(world.say(started=pb.TaskStarted(lease=key.message())))
    await pause.reached.wait()
    await world.account.lose(world.account.pool.held[key], "gone")
    pause.over.set()
    await starting
    assert (await world.task(key.job_id)).state is TaskState.QUEUED
    assert not world.account.pool.held


async def test_client_that_hangs_up_while_its_job_is_written_leaves_a_job_that_runs(
    world: World,
) -> None:
    async def enter(*_: object) -> tuple[Account, Member]:
        return world.account, MEMBER

    door: Any = SimpleNamespace(enter=enter, metrics=world.account.metrics)
    pause = world.store.after["submit"] = Pause()
    request = gen.SubmitRequest(request=gen.ImageRequest(prompt="a red cube"), idempotency_key="k")
    context: Any = None
    calling = asyncio.create_task(GenerationService(door).Submit(request, context))
    await pause.reached.wait()
    calling.cancel()
    await asyncio.wait([calling])
    world.account.wake.clear()
    pause.over.set()
    await asyncio.wait_for(world.account.wake.wait(), 10)
    await dispatcher.dispatch(world.account)
    assert [f.WhichOneof("frame") for f in world.heard()] == ["assignment"]


async def test_cancel_while_the_link_is_broken_reaches_the_agent_with_its_welcome(
    world: World,
) -> None:
    key = await world.leased()
    connection = world.session._connection
    assert connection is not None
    world.session.disconnected(connection)
    await client_calls.cancel(world.account, MEMBER, key.job_id)
    heard = await world.hello(pb.HeldLease(lease=key.message(), started=True))
    assert [f.WhichOneof("frame") for f in heard] == ["welcome", "stop_task"]


async def test_releasing_image_of_before_a_restart_goes_back_without_a_mark(world: World) -> None:
    key = await world.leased()
    await world.say(released=pb.TaskReleased(lease=key.message(), releasing=True))
    await world.restart()
    world.account.pool.held[key].deadline -= Timers().release
    await keeper.look(world.account)
    task = await world.task(key.job_id)
    assert (task.state, task.losses, task.failures) == (TaskState.QUEUED, 0, 0)


async def test_image_whose_agent_did_not_outlive_the_brokers_absence_waits_without_a_mark(
    world: World,
) -> None:
    key = await world.leased()
    await world.restart()
    await world.hello()  # without it
    task = await world.task(key.job_id)
    assert (task.state, task.losses, task.failures, task.releases) == (TaskState.QUEUED, 0, 0, 1)


async def test_image_brought_back_after_a_restart_and_lost_later_counts_a_loss(
    world: World,
) -> None:
    key = await world.leased()
    await world.restart()
    await world.hello(pb.HeldLease(lease=key.message(), started=True))
    world.session.disconnected(world.session._connection)  # type: ignore[arg-type]
    await world.hello()
    assert (await world.task(key.job_id)).losses == 1


async def test_card_that_its_agent_takes_away_while_the_lease_is_written_is_not_stumbled_over(
    world: World,
) -> None:
    job_id = await world.submit()
    pause = world.store.after["assign"] = Pause()
    dispatching = asyncio.create_task(dispatcher.dispatch(world.account))
    await pause.reached.wait()
    world.store.after.clear()
    await world.say(cards_changed=pb.CardsChanged(cards=[]))
    pause.over.set()
    await dispatching
    lease = (await world.task(job_id)).lease
    await world.say(refused=pb.Refused(leases=[lease.message()], reason="that card is gone"))
    assert (await world.task(job_id)).state is TaskState.QUEUED
    await world.say(cards_changed=pb.CardsChanged(cards=[world.card]))
    world.heard()
    await dispatcher.dispatch(world.account)
    assert [f.WhichOneof("frame") for f in world.heard()] == ["assignment"]


async def test_image_cancelled_while_another_expires_is_not_stumbled_over(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    late, other = await world.submit(deadline=1.0), await world.submit()
    for clock in ("monotonic", "time"):
        moment = getattr(time, clock)() + 1.1
        monkeypatch.setattr(time, clock, lambda moment=moment: moment)
    pause = world.store.after["end_queued"] = Pause()
    dispatching = asyncio.create_task(dispatcher.dispatch(world.account))
    await pause.reached.wait()
    world.store.after.clear()
    await client_calls.cancel(world.account, MEMBER, other)
    pause.over.set()
    await dispatching
    assert (await world.task(late)).state is TaskState.EXPIRED


# Agents that lie


async def test_nul_in_what_an_agent_says_is_left_out(world: World) -> None:
    """PostgreSQL takes none: a card's name with one would keep every image from being leased."""
    world.card.name = "my\x00 card"
    world.session.disconnected(world.session._connection)  # type: ignore[arg-type]
    await world.hello()
    key = await world.leased()
    await world.say(failed=pb.TaskFailed(lease=key.message(), reason="no\x00 luck"))
    (tried,) = (await world.task(key.job_id)).attempts
    assert (tried.card_name, tried.reason) == ("my card", "no luck")


async def test_agent_that_stops_unasked_cancels_nothing(world: World) -> None:
    key = await world.leased()
    heard = await world.say(stopped=pb.TaskStopped(lease=key.message()))
    assert [f.WhichOneof("frame") for f in heard] == ["settled"]
    task = await world.task(key.job_id)
    assert (task.state, task.failures) == (TaskState.QUEUED, 1)


async def test_agent_that_stops_what_was_cancelled_confirms_it(world: World) -> None:
    key = await world.leased()
    await client_calls.cancel(world.account, MEMBER, key.job_id)
    await world.say(stopped=pb.TaskStopped(lease=key.message()))
    assert (await world.task(key.job_id)).state is TaskState.CANCELLED


async def test_agent_that_claims_to_have_drawn_for_ages_is_not_believed(world: World) -> None:
    key = await world.leased()
    sha, size = "a" * 64, 100
    receipt = world.account.signer.receipt("main", key, sha, size)
    picture = gen.Picture(seconds=1e300, sha256=sha, size=size)
    await world.say(finished=pb.TaskFinished(lease=key.message(), picture=picture, receipt=receipt))
    task = await world.task(key.job_id)
    assert task.picture is not None
    assert gen.Picture.FromString(task.picture.meta).seconds < 60


# Requests that cannot be answered


async def test_picture_whose_bytes_are_gone_is_said_in_words(world: World) -> None:
    key = await world.leased()
    sha = "a" * 64
    receipt = world.account.signer.receipt("main", key, sha, 1)
    await world.say(
        finished=pb.TaskFinished(
            lease=key.message(), picture=gen.Picture(sha256=sha, size=1), receipt=receipt
        )
    )
    wanted = gen.DownloadRequest(picture=gen.PictureRef(job_id=key.job_id, index=0))
    with pytest.raises(Problem, match="bytes are gone") as raised:
        await anext(client_calls.download(world.account, MEMBER, wanted))
    assert raised.value.reason is Reason.NOT_FOUND


@pytest.mark.parametrize("sha256", ["", "x" * 64, "A" * 64, "a" * 63])
async def test_upload_with_what_is_no_hash_is_refused(world: World, sha256: str) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"x"

    header = gen.UploadHeader(size=1, media_type="image/png", sha256=sha256)
    with pytest.raises(Problem) as raised:
        await client_calls.upload(world.account, header, chunks())
    assert raised.value.facts["field"] == "sha256"


async def test_page_token_with_an_impossible_time_is_a_page(world: World) -> None:
    token = urlsafe_b64encode(f"{10**30}:x".encode()).decode()
    page = await client_calls.list_jobs(
        world.account, MEMBER, gen.ListJobsRequest(page_token=token)
    )
    assert not page.jobs


async def test_failure_while_releasing_is_no_unknown_transition(world: World) -> None:
    """The keeper's deadline may pass while the release is on its way into the store."""
    key = await world.leased()
    await world.store.end_lease("main", key, TaskEvent.RELEASE, "owner", now_ms())
    world.account.pool.held[key].deadline = 0
    await keeper.look(world.account)
    assert (await world.task(key.job_id)).state is TaskState.QUEUED
