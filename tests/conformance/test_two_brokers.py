"""Two whole brokers on one PostgreSQL, in this process; only cards are made up: they say what real
agents say, over real WebSockets."""

from __future__ import annotations

import asyncio
import io
import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio
from PIL import Image
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

import foxden
from foxden import events
from foxden_broker.account import now_ms
from foxden_broker.app import Running, broker
from foxden_broker.hub import Hub
from foxden_broker.peers import FORWARDED, SIGNATURE, Seal
from foxden_broker.settings import BrokerSettings
from foxden_broker.store.base import NewJob, Replica
from foxden_broker.store.sql_store import open_store
from foxden_proto.timers import Timers
from foxden_proto.v1 import generation_pb2 as gen
from foxden_proto.v1 import link_pb2 as pb
from foxden_proto.v1 import peer_pb2, pool_pb2
from foxden_proto.v1.generation_pb2_grpc import GenerationStub
from foxden_proto.v1.peer_pb2_grpc import PeerStub
from foxden_proto.v1.pool_pb2_grpc import PoolStub

TIMERS = Timers().scaled(0.1)
SIZE = 64
MODEL = pool_pb2.Model(
    name="dream",
    sha256="d" * 64,
    default_width=SIZE,
    default_height=SIZE,
    default_steps=4,
    default_guidance_scale=7.0,
    default_sampler="Euler",
    default_schedule="automatic",
    multiple_of=8,
    min_size=SIZE,
    max_size=SIZE,
)


def png() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (SIZE, SIZE), "red").save(data, "PNG")
    return data.getvalue()


async def until(what: Callable[[], bool], seconds: float = 10.0) -> None:
    """Look again and again: what another task brings about has no event here."""
    async with asyncio.timeout(seconds):
        while not what():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def code_of(call: Any) -> grpc.StatusCode:
    """How a call ended; what it says before is passed over."""
    try:
        if hasattr(call, "read"):
            while await call.read() is not grpc.aio.EOF:
                pass
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


class Agent:
    """One made-up card on a real WebSocket."""

    def __init__(self, name: str, http: str, connection: ClientConnection) -> None:
        self.name = name
        self._http = http
        self.connection = connection
        self._beating = asyncio.create_task(self._beat())

    async def _beat(self) -> None:
        with suppress(ConnectionClosed):
            for number in itertools.count(1):
                await asyncio.sleep(TIMERS.heartbeat)
                await self.say(heartbeat=pb.Heartbeat(number=number))

    async def close(self) -> None:
        self._beating.cancel()
        await self.connection.close()

    @classmethod
    async def dial(cls, http: str, token: str, name: str = "agent-1") -> Agent:
        url = http.replace("http", "ws", 1) + "/v1/link"
        headers = {"Authorization": f"Bearer {token}"}
        made = cls(name, http, await connect(url, additional_headers=headers, proxy=None))
        sampler = pool_pb2.Sampler(name="Euler", schedules=["automatic"])
        card = pool_pb2.CardInfo(card_id=f"{name}.0", name=name, models=[MODEL], samplers=[sampler])
        await made.say(hello=pb.Hello(protocol=1, agent_id=name, agent_name=name, cards=[card]))
        return made

    async def say(self, **frame: Any) -> None:
        await self.connection.send(pb.AgentFrame(**frame).SerializeToString())

    async def hear(self, kind: str, seconds: float = 10.0) -> Any:
        """The next frame of that kind; others are passed over."""
        async with asyncio.timeout(seconds):
            while True:
                data = await self.connection.recv()
                assert isinstance(data, bytes)
                frame = pb.BrokerFrame.FromString(data)
                if frame.WhichOneof("frame") == kind:
                    return getattr(frame, kind)

    async def start(self) -> pb.AssignedTask:
        (task,) = (await self.hear("assignment")).tasks
        await self.say(acknowledged=pb.Acknowledged(leases=[task.lease]))
        await self.say(started=pb.TaskStarted(lease=task.lease))
        return task

    async def finish(self, task: pb.AssignedTask, http: str = "") -> pb.Settled:
        headers = {"Authorization": f"Bearer {task.upload_token}"}
        async with httpx.AsyncClient(base_url=http or self._http) as client:
            answer = await client.put(task.upload_path, content=png(), headers=headers)
        assert answer.status_code == 200, answer.text
        told = answer.json()
        picture = gen.Picture(sha256=told["sha256"], size=told["size"], seconds=0.1)
        finished = pb.TaskFinished(lease=task.lease, picture=picture, receipt=told["receipt"])
        await self.say(finished=finished)
        settled: pb.Settled = await self.hear("settled")
        return settled


class Brokers:
    """Brokers by name on one database, and clients of each."""

    def __init__(self, url: str, folder: Path, stack: AsyncExitStack) -> None:
        self.url = url
        self._folder = folder
        self._stack = stack
        self.running: dict[str, Running] = {}
        self._contexts: dict[str, Any] = {}
        self.agent_token = ""

    async def start(self, name: str, timers: Timers = TIMERS) -> Running:
        settings = BrokerSettings(
            self._folder / name,
            grpc_port=0,
            http_port=0,
            database_url=self.url,
            blobs=str(self._folder / "blobs"),
            timers=timers,
        )
        self._contexts[name] = context = broker(settings)
        running = self.running[name] = await context.__aenter__()
        if not self.agent_token:
            made = await self.client(name).create_token("agents", ["agent"])
            self.agent_token = made.secret
        return running

    async def stop(self, name: str) -> None:
        await self._contexts.pop(name).__aexit__(None, None, None)

    async def close(self) -> None:
        for name in list(self._contexts):
            await self.stop(name)

    def client(self, name: str, token: str = "") -> foxden.AsyncClient:
        running = self.running[name]
        client = foxden.AsyncClient(str(running.address), token=token or running.token)
        self._stack.push_async_callback(client.close)
        return client

    def channel(self, name: str) -> grpc.aio.Channel:
        channel = grpc.aio.insecure_channel(self.running[name].address.grpc_target)
        self._stack.push_async_callback(channel.close)
        return channel

    def bearer(self, name: str) -> tuple[str, str]:
        return ("authorization", f"Bearer {self.running[name].token}")

    async def agent(self, name: str, agent: str = "agent-1") -> Agent:
        dialled = await Agent.dial(self.running[name].http_url, self.agent_token, agent)
        self._stack.push_async_callback(dialled.close)
        return dialled


@pytest_asyncio.fixture
async def brokers(postgresql_url: Callable[[], str], tmp_path: Path) -> AsyncIterator[Brokers]:
    async with AsyncExitStack() as stack:
        made = Brokers(postgresql_url(), tmp_path, stack)
        yield made
        await made.close()


@pytest_asyncio.fixture
async def two(brokers: Brokers) -> Brokers:
    """`a` plans, `b` passes on."""
    await brokers.start("a")
    await brokers.start("b")
    return brokers


async def test_client_and_agent_at_the_other_broker_make_a_picture_with_progress(
    two: Brokers,
) -> None:
    agent = await two.agent("b")
    await agent.hear("welcome")
    job = await two.client("b").submit("a red cube")
    seen: list[events.Event] = []

    async def watch() -> None:
        async for event in job.watch():
            seen.append(event)

    watching = asyncio.create_task(watch())
    task = await agent.start()
    await until(lambda: any(isinstance(event, events.Started) for event in seen))
    progress = pb.TaskProgress(lease=task.lease, step=2, steps=4, preview=png())
    await agent.say(progress=progress)
    await until(lambda: any(isinstance(event, events.Progress) for event in seen))
    assert (await agent.finish(task)).accepted
    async with asyncio.timeout(10):
        await watching

    told = next(event for event in seen if isinstance(event, events.Progress))
    assert (told.step, told.steps) == (2, 4)
    assert told.preview is not None
    assert told.preview.size == (SIZE, SIZE)
    ready = next(event for event in seen if isinstance(event, events.PictureReady))
    assert ready.picture.data == png()
    assert isinstance(seen[-1], events.Done)


async def test_picture_put_to_the_broker_that_does_not_plan_counts_and_a_stale_one_does_not(
    two: Brokers,
) -> None:
    agent = await two.agent("a")
    await two.client("a").submit("a red cube")
    task = await agent.start()

    assert (await agent.finish(task, two.running["b"].http_url)).accepted

    headers = {"Authorization": f"Bearer {task.upload_token}"}
    async with httpx.AsyncClient(base_url=two.running["b"].http_url) as client:
        late = await client.put(task.upload_path, content=png(), headers=headers)
        headers = {"Authorization": "Bearer " + "0" * 64}
        forged = await client.put(task.upload_path, content=png(), headers=headers)
    assert (late.status_code, forged.status_code) == (410, 401)


async def test_watch_at_the_other_broker_left_by_its_client_ends_at_the_owner_too(
    two: Brokers, monkeypatch: pytest.MonkeyPatch
) -> None:
    hubs: list[Hub] = []  # those that a watcher came to
    subscribe = Hub.subscribe

    def noted(hub: Hub, topic: str) -> Any:
        hubs.append(hub)
        return subscribe(hub, topic)

    monkeypatch.setattr(Hub, "subscribe", noted)
    agent = await two.agent("a")
    await agent.hear("welcome")
    job = await two.client("b").submit("a red cube")
    watch = GenerationStub(two.channel("b")).Watch(
        gen.WatchRequest(job_id=job.id), metadata=[two.bearer("a")]
    )
    assert (await watch.read()).HasField("queued")
    hub = hubs[-1]
    assert job.id in hub._topics

    watch.cancel()

    await until(lambda: job.id not in hub._topics)


async def test_call_with_a_bad_token_is_refused_by_the_first_broker(two: Brokers) -> None:
    await two.stop("a")  # nobody to ask
    good = two.running["b"].token
    with pytest.raises(foxden.Unauthorized):
        await two.client("b", good[:-4] + "0000").submit("a red cube")


async def test_call_that_was_passed_on_is_never_passed_on_again(two: Brokers) -> None:
    for name, code in (("b", grpc.StatusCode.UNAVAILABLE), ("a", grpc.StatusCode.OK)):
        call = PoolStub(two.channel(name)).ListCards(
            pool_pb2.ListCardsRequest(), metadata=[two.bearer("a"), (FORWARDED, "somebody")]
        )
        assert await code_of(call) is code


async def test_error_of_the_owner_reaches_the_client_as_it_is(two: Brokers) -> None:
    await (await two.agent("a")).hear("welcome")
    with pytest.raises(foxden.UnknownModel) as caught:
        await two.client("b").submit("a red cube", model="drea")
    assert caught.value.near == ("dream",)


async def test_job_that_another_broker_stored_is_found_by_polling(two: Brokers) -> None:
    agent = await two.agent("a")
    await agent.hear("welcome")
    store = await open_store(two.url)
    try:
        (account,) = await store.accounts()
        request = gen.ImageRequest(
            model="dream",
            model_sha256=MODEL.sha256,
            prompt="a red cube",
            sampler="Euler",
            schedule="automatic",
            steps=4,
            guidance_scale=7.0,
            width=SIZE,
            height=SIZE,
            seed=1,
        )
        await store.submit(
            NewJob(
                account, "job", "ann", request.SerializeToString(), MODEL.sha256, 1, 2, now_ms()
            ),
            key_window_ms=1000,
        )
    finally:
        await store.close()
    began = time.monotonic()
    task = await agent.start()
    assert task.lease.job_id == "job"
    assert time.monotonic() - began < 3 * TIMERS.store_poll + 1
    assert (await agent.finish(task)).accepted


async def test_no_owner_within_reach_submit_is_stored_watch_polls_and_work_goes_on_later(
    brokers: Brokers,
) -> None:
    await brokers.start("a")
    await (await brokers.agent("a")).hear("welcome")  # a card is known to the store
    await brokers.stop("a")
    store = await open_store(brokers.url)
    (account,) = await store.accounts()
    until = now_ms() + 4000
    await store.save_replica(Replica("ghost", "127.0.0.1:1", "", "1", now_ms() + 60_000))
    assert await store.lease_account(account, "ghost", now_ms(), until) is not None
    await brokers.start("b")
    stub = GenerationStub(brokers.channel("b"))
    meta = [brokers.bearer("a")]

    # Without a key it might be made twice, had the owner got it: the client has to decide.
    asked = gen.ImageRequest(prompt="a red cube")
    keyless = stub.Submit(gen.SubmitRequest(request=asked), metadata=meta)
    assert await code_of(keyless) is grpc.StatusCode.UNAVAILABLE
    wrong = gen.SubmitRequest(
        request=gen.ImageRequest(prompt="a red cube", model="drea"), idempotency_key="k0"
    )  # checked against the cards of the store
    assert await code_of(stub.Submit(wrong, metadata=meta)) is grpc.StatusCode.NOT_FOUND
    request = gen.SubmitRequest(request=asked, idempotency_key="k1")
    answer = await stub.Submit(request, metadata=meta)
    again = await stub.Submit(request, metadata=meta)
    assert (again.repeated, again.job.id) == (True, answer.job.id)
    assert answer.job.request.model == "dream"
    watch = stub.Watch(gen.WatchRequest(job_id=answer.job.id), metadata=meta)
    first = await watch.read()
    assert first.queued.waiting_for == "a broker to plan for this pool"
    listing = PoolStub(brokers.channel("b")).ListCards(pool_pb2.ListCardsRequest(), metadata=meta)
    assert await code_of(listing) is grpc.StatusCode.UNAVAILABLE
    assert now_ms() < until, "the ghost's lease ran out too early for this test"

    # The stream ends so that the client asks again: the ghost might be back. Then its lease runs
    # out, and `b` plans.
    async with asyncio.timeout(20):
        assert await code_of(watch) is grpc.StatusCode.UNAVAILABLE
        while (await store.scheduling_lease(account)).replica_id == "ghost":  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    await store.close()
    agent = await brokers.agent("b")
    assert (await agent.finish(await agent.start())).accepted
    job = await brokers.client("b").get(answer.job.id)
    assert job.state == "done"


async def test_client_that_watches_at_the_other_broker_goes_on_over_a_change_of_owner(
    two: Brokers,
) -> None:
    job = await two.client("b").submit("a red cube")
    result = asyncio.create_task(job.result())
    await asyncio.sleep(0.3)

    await two.stop("a")

    agent = await two.agent("b")
    assert (await agent.finish(await agent.start())).accepted
    async with asyncio.timeout(20):
        assert len(await result) == 1


async def test_agent_whose_token_is_revoked_is_told_so_through_the_other_broker(
    two: Brokers,
) -> None:
    agent = await two.agent("b")
    await agent.hear("welcome")
    client = two.client("a")
    (token,) = [t for t in await client.tokens() if t.member == "agents"]
    await client.revoke_token(token.id)

    rejected = await agent.hear("rejected")

    assert rejected.final
    with pytest.raises(ConnectionClosed):
        await agent.hear("welcome")


async def test_link_between_brokers_needs_their_secret_and_the_owner(two: Brokers) -> None:
    store = await open_store(two.url)
    seal = Seal(await store.secret("peers", b""))
    (account,) = await store.accounts()
    await store.close()
    opening = peer_pb2.PeerFrame(open=peer_pb2.LinkOpen(account_id=account, member="agents"))
    for name, signer, code in (
        ("a", Seal(b"guess" * 7), grpc.StatusCode.UNAUTHENTICATED),
        ("b", seal, grpc.StatusCode.UNAVAILABLE),
    ):
        signature = signer.sign("r1", _replica_id(two, name), now_ms())
        call = PeerStub(two.channel(name)).Link(metadata=[(SIGNATURE, signature)])
        with suppress(grpc.RpcError, asyncio.InvalidStateError):
            await call.write(opening)
        assert await code_of(call) is code


def _replica_id(two: Brokers, name: str) -> str:
    return (two._folder / name / "broker" / "replica-id").read_text().strip()


async def test_only_broker_on_postgresql_plans_from_its_start_and_gives_up_at_its_end(
    brokers: Brokers,
) -> None:
    began = time.monotonic()
    await brokers.start("a", Timers())  # unscaled: nothing here waits for a lease to run out
    agent = await brokers.agent("a")
    await brokers.client("a").submit("a red cube")
    assert (await agent.finish(await agent.start())).accepted
    store = await open_store(brokers.url)
    (account,) = await store.accounts()
    lease = await store.scheduling_lease(account)
    assert lease is not None
    assert lease.until_ms > now_ms()

    await brokers.stop("a")

    left = await store.scheduling_lease(account)
    assert left is None or left.replica_id == "" or left.until_ms <= now_ms()
    assert not [r for r in await store.replicas(0) if r.replica_id == lease.replica_id]
    await store.close()
    assert time.monotonic() - began < Timers().scheduling_lease


async def test_brokers_that_start_together_on_an_empty_database_share_one_account(
    brokers: Brokers,
) -> None:
    await asyncio.gather(brokers.start("a"), brokers.start("b"))
    store = await open_store(brokers.url)
    assert len(await store.accounts()) == 1
    await store.close()
    agent = await brokers.agent("a")
    job = await brokers.client("b").submit("a red cube")
    assert (await agent.finish(await agent.start())).accepted
    assert (await brokers.client("a").get(job.id)).state == "done"
