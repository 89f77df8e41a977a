"""The far end: a real gRPC server that plays the broker from a script.

It runs in a thread with its own event loop, so that blocking and asynchronous clients meet it
alike. A test sets what it does next and reads what it was asked.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import grpc
import grpc.aio
import pytest
from PIL import Image, PngImagePlugin

from foxden_proto.problems import Problem
from foxden_proto.v1 import generation_pb2 as pb
from foxden_proto.v1 import pool_pb2
from foxden_proto.v1.generation_pb2_grpc import (
    GenerationServicer,
    add_GenerationServicer_to_server,
)
from foxden_proto.v1.pool_pb2_grpc import (
    AdminServicer,
    PoolServicer,
    add_AdminServicer_to_server,
    add_PoolServicer_to_server,
)

TOKEN = "fxd_test"
JOB = "job-1"


def png(seed: int) -> bytes:
    """A small picture with an infotext, different for each seed."""
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", f"a fox\nSteps: 2, Seed: {seed}")
    stream = io.BytesIO()
    Image.new("RGB", (16, 16), (seed % 256, 0, 0)).save(stream, "PNG", pnginfo=text)
    return stream.getvalue()


def event(cursor: int, **kind: Any) -> pb.JobEvent:
    return pb.JobEvent(cursor=cursor, **kind)


def picture(index: int, cursor: int | None = None) -> pb.JobEvent:
    return event(index + 1 if cursor is None else cursor, picture=told(index))


def told(index: int) -> pb.Picture:
    return pb.Picture(
        index=index,
        seed=7 + index,
        width=16,
        height=16,
        card="kitchen",
        model="demo",
        seconds=0.5,
        sha256=hashlib.sha256(png(7 + index)).hexdigest(),
    )


def ended(cursor: int, state: pb.JobState.ValueType, reason: str = "") -> pb.JobEvent:
    return event(cursor, ended=pb.Ended(state=state, reason=reason))


@dataclass
class Drop:
    """In a script: end the stream with this status."""

    code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE
    details: str = "going away"


@dataclass
class Hold:
    """In a script: wait until the test lets go, or the client leaves."""

    reached: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)


Step = pb.JobEvent | Drop | Hold


@dataclass
class Broker(GenerationServicer, PoolServicer, AdminServicer):
    """What the far end does (set by tests) and what it was asked (read by tests)."""

    scripts: list[list[Step]] = field(default_factory=list)  # one per Watch
    failures: dict[str, list[Any]] = field(default_factory=dict)  # Problem or Drop, by method
    job: pb.Job = field(
        default_factory=lambda: pb.Job(id=JOB, state=pb.JOB_STATE_QUEUED, count=1, priority=2)
    )
    requests: dict[str, list[Any]] = field(default_factory=dict)
    tokens_seen: set[str] = field(default_factory=set)
    downloads: Callable[[int], bytes] = field(default=lambda index: png(7 + index))
    download_hold: dict[int, Hold] = field(default_factory=dict)
    submit_hold: Hold | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)
    running: list[int] = field(default_factory=list)  # images on the card, one for each look
    breaks_backup: int = 0  # so many streams break
    url: str = ""

    async def _asked(self, method: str, request: Any, context: Any) -> None:
        self.requests.setdefault(method, []).append(request)
        self.tokens_seen.add(dict(context.invocation_metadata()).get("authorization", ""))
        waiting = self.failures.get(method)
        if waiting:
            failure = waiting.pop(0)
            if isinstance(failure, Problem):
                status = failure.status()
                context.set_trailing_metadata(status.trailing_metadata)
                await context.abort(status.code, status.details, status.trailing_metadata)
            await context.abort(failure.code, failure.details)

    async def Submit(self, request, context):
        await self._asked("Submit", request, context)
        if self.submit_hold is not None:
            await _held(self.submit_hold)
        self.job.count = request.count
        self.job.request.CopyFrom(request.request)
        return pb.SubmitResponse(job=self.job, queued=pb.Queued(position=0))

    async def Watch(self, request, context) -> AsyncIterator[pb.JobEvent]:
        await self._asked("Watch", request, context)
        for step in self.scripts.pop(0):
            if isinstance(step, Drop):
                await context.abort(step.code, step.details)
            elif isinstance(step, Hold):
                await _held(step)
            else:
                yield step

    async def Get(self, request, context):
        await self._asked("Get", request, context)
        return self.job

    async def List(self, request, context):
        await self._asked("List", request, context)
        return pb.ListJobsResponse(jobs=[self.job])

    async def Cancel(self, request, context):
        await self._asked("Cancel", request, context)
        self.cancelled.set()
        self.job.state = pb.JOB_STATE_CANCELLED
        return self.job

    async def Retry(self, request, context):
        await self._asked("Retry", request, context)
        self.job.state = pb.JOB_STATE_QUEUED
        return self.job

    async def Upload(self, requests, context):
        data = b""
        header = None
        async for message in requests:
            if message.WhichOneof("part") == "header":
                header = message.header
            else:
                assert len(message.chunk) <= 64 * 1024
                data += message.chunk
        await self._asked("Upload", header, context)
        assert hashlib.sha256(data).hexdigest() == header.sha256
        return pb.UploadResponse(upload_id=f"upload-{len(data)}")

    async def Download(self, request, context):
        await self._asked("Download", request, context)
        index = request.picture.index
        if index in self.download_hold:
            await _held(self.download_hold[index])
        data = self.downloads(index)
        half = len(data) // 2
        yield pb.DownloadChunk(chunk=data[:half], total=len(data))
        yield pb.DownloadChunk(chunk=data[half:])

    async def ListCards(self, request, context):
        await self._asked("ListCards", request, context)
        info = pool_pb2.CardInfo(card_id="c1", name="kitchen", device="cpu")
        left = self.running.pop(0) if self.running else 0
        card = pool_pb2.Card(info=info, online=True, mode=pool_pb2.MODE_GAMING, running=left)
        return pool_pb2.ListCardsResponse(cards=[card])

    async def ListModels(self, request, context):
        await self._asked("ListModels", request, context)
        return pool_pb2.ListModelsResponse(
            models=[pool_pb2.PoolModel(model=pool_pb2.Model(name="demo"), cards=1)]
        )

    async def CreateToken(self, request, context):
        await self._asked("CreateToken", request, context)
        token = pool_pb2.Token(token_id="t1", member=request.member, scopes=request.scopes)
        return pool_pb2.CreateTokenResponse(token=token, secret="fxd_new")

    async def ListTokens(self, request, context):
        await self._asked("ListTokens", request, context)
        return pool_pb2.ListTokensResponse(tokens=[pool_pb2.Token(token_id="t1", member="me")])

    async def RevokeToken(self, request, context):
        await self._asked("RevokeToken", request, context)
        return pool_pb2.Token(token_id=request.token_id, revoked_ms=1)

    async def SetCardStanding(self, request, context):
        await self._asked("SetCardStanding", request, context)
        return self._card(request.standing)

    def _card(self, standing=0):
        info = pool_pb2.CardInfo(card_id="c1", name="kitchen", device="cpu")
        left = self.running.pop(0) if self.running else 0
        return pool_pb2.Card(info=info, online=True, mode=1, running=left, standing=standing)

    async def ForgetCard(self, request, context):
        await self._asked("ForgetCard", request, context)
        return pool_pb2.ForgetCardResponse(card_id="c1", name="kitchen")

    async def SetQuota(self, request, context):
        await self._asked("SetQuota", request, context)
        return request.quota

    async def ListQuotas(self, request, context):
        await self._asked("ListQuotas", request, context)
        quota = pool_pb2.Quota(member="ann", most_queued=7, gpu_seconds_per_day=60)
        ann = pool_pb2.MemberQuota(quota=quota, most_queued=7, queued=2, running=1)
        return pool_pb2.ListQuotasResponse(members=[ann], queued_in_account=2)

    async def Usage(self, request, context):
        await self._asked("Usage", request, context)
        row = pool_pb2.MemberUsage(member="ann", day="2026-11-22", images=3, gpu_seconds=1.5)
        return pool_pb2.UsageResponse(rows=[row])

    async def Backup(self, request, context):
        await self._asked("Backup", request, context)
        for number, chunk in enumerate((b"one ", b"two ", b"three")):
            if number == 2 and self.breaks_backup:
                self.breaks_backup -= 1
                await context.abort(grpc.StatusCode.UNAVAILABLE, "going away")
            yield pool_pb2.BackupChunk(chunk=chunk)


async def _held(hold: Hold) -> None:
    hold.reached.set()
    while not hold.release.is_set():  # noqa: ASYNC110 - set from the test's thread
        await asyncio.sleep(0.01)


class Far:
    """The server's thread."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _start(self, port: int, credentials: grpc.ServerCredentials | None) -> int:
        self.server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        add_GenerationServicer_to_server(self.broker, self.server)
        add_PoolServicer_to_server(self.broker, self.server)
        add_AdminServicer_to_server(self.broker, self.server)
        where = f"127.0.0.1:{port}"
        if credentials is None:
            bound = self.server.add_insecure_port(where)
        else:
            bound = self.server.add_secure_port(where, credentials)
        await self.server.start()
        return bound

    def start(self, port: int = 0, credentials: grpc.ServerCredentials | None = None) -> int:
        return self.run(self._start(port, credentials))

    def stop(self) -> None:
        self.run(self.server.stop(None))

    def close(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()


@pytest.fixture(autouse=True)
def nothing_configured(monkeypatch, tmp_path):
    """No test reads the developer's own home or environment."""
    for name in ("FOXDEN_URL", "FOXDEN_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FOXDEN_HOME", str(tmp_path / "home"))


@pytest.fixture
def far() -> Iterator[Far]:
    broker = Broker()
    far = Far(broker)
    broker.url = f"foxden://127.0.0.1:{far.start()}"
    yield far
    far.close()


@pytest.fixture
def broker(far: Far) -> Broker:
    return far.broker


@pytest.fixture
def client(broker: Broker):
    import foxden

    with foxden.Client(broker.url, TOKEN, retry_for=5) as client:
        yield client


@pytest.fixture
def say() -> SimpleNamespace:
    """The words of a script."""
    return SimpleNamespace(
        Drop=Drop,
        Hold=Hold,
        JOB=JOB,
        TOKEN=TOKEN,
        ended=ended,
        event=event,
        picture=picture,
        png=png,
        progress=lambda cursor, index, step, steps=2: event(
            cursor, progress=pb.Progress(index=index, step=step, steps=steps)
        ),
        queued=lambda cursor, position: event(cursor, queued=pb.Queued(position=position)),
        started=lambda cursor, index: event(cursor, started=pb.Started(index=index, card="k")),
        told=told,
    )
