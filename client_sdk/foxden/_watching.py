"""Following a job: one resumed stream of events, with the pictures fetched while it goes on."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncGenerator

import grpc.aio

from foxden import events
from foxden._requests import check_timeout
from foxden._transport import ATTEMPT_SECONDS, Transport
from foxden.errors import FoxdenError, NotFound, Timeout, Unavailable
from foxden.results import Picture
from foxden_proto.limits import INLINE_PICTURE_BYTES, PICTURE_BYTES
from foxden_proto.v1 import generation_pb2 as pb

_DOWNLOADS_AT_ONCE = 4
_WAITING_EVENTS = 64  # a slow reader slows the stream down; nothing piles up without bound


async def watch(
    transport: Transport, job_id: str, count: int, timeout: float | None = None
) -> AsyncGenerator[events.Event, None]:
    """Yield the events of a job of `count` images until it ends.

    The last one comes after every PictureReady. Raises Timeout after `timeout` seconds; the job
    goes on.
    """
    timeout = check_timeout(timeout)
    queue: asyncio.Queue[events.Event | Exception] = asyncio.Queue(_WAITING_EVENTS)
    producer = asyncio.create_task(_produce(transport, job_id, count, queue))
    loop = asyncio.get_running_loop()
    deadline = None if timeout is None else loop.time() + timeout
    try:
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    item = await queue.get()
            except TimeoutError:
                raise out_of_time(job_id, timeout) from None
            if isinstance(item, Exception):
                raise item
            yield item
            if isinstance(item, events.Last):
                return
    finally:
        producer.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await producer


def out_of_time(job_id: str, timeout: float | None) -> Timeout:
    if not job_id:
        return Timeout(
            f"the broker did not take the job within {timeout:.1f} s: check that it runs, "
            "or give it more time"
        )
    return Timeout(
        f"job {job_id} is not done after {timeout:.1f} s and goes on: client.get({job_id!r}) "
        f"finds it again, client.cancel({job_id!r}) stops it",
        job_id=job_id,
    )


async def _produce(
    transport: Transport,
    job_id: str,
    count: int,
    queue: asyncio.Queue[events.Event | Exception],
) -> None:
    """Put every event into the queue, at last the one that ends the job, or what went wrong."""
    room = asyncio.Semaphore(_DOWNLOADS_AT_ONCE)
    fetched: set[int] = set()  # a resumed stream may tell of a picture twice
    swept: dict[int, str] = {}  # images whose pictures are no longer kept, with the reason
    last: events.Last | None = None

    async def deliver(picture: pb.Picture) -> None:
        async with room:
            data = await download(transport, job_id, picture)
        await queue.put(events.PictureReady(picture.index, _picture(job_id, picture, data)))

    try:
        async with asyncio.TaskGroup() as downloads:

            def fetch(picture: pb.Picture) -> None:
                if picture.index not in fetched:
                    fetched.add(picture.index)
                    downloads.create_task(deliver(picture))

            async with contextlib.aclosing(_follow(transport, job_id)) as stream:
                async for event in stream:
                    match event.WhichOneof("event"):
                        case "picture" if _whole(event) and event.picture.index not in fetched:
                            fetched.add(event.picture.index)
                            picture = _picture(job_id, event.picture, event.picture_bytes)
                            await queue.put(events.PictureReady(event.picture.index, picture))
                        case "picture":
                            fetch(event.picture)
                        case "ended":
                            last = _ending(event.ended)
                        case "task_ended" if event.task_ended.state == pb.TASK_STATE_DONE:
                            swept[event.task_ended.index] = event.task_ended.reason
                        case _:
                            if (told := _event(event)) is not None:
                                await queue.put(told)
            if len(fetched) < count and not isinstance(last, events.Cancelled):
                # Nothing finished may get lost, whatever became of the events that told of it.
                for task in (await get(transport, job_id)).tasks:
                    if task.HasField("picture"):
                        fetch(task.picture)
        assert last is not None, "_follow ends after `ended` alone"
        if swept:
            raise NotFound(
                f"{len(swept)} of the {count} pictures of job {job_id} were made but cannot be "
                f"fetched any more ({next(iter(swept.values()))}): submit the same request and "
                "seed again"
            )
        await queue.put(last)
    except* Exception as group:  # noqa: BLE001 - handed on, to be raised where it is awaited
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        assert isinstance(error, Exception)
        await queue.put(error)


async def get(transport: Transport, job_id: str) -> pb.Job:
    """The job with its tasks and their attempts."""
    return await transport.call(
        lambda stubs: stubs.generation.Get(
            pb.GetJobRequest(job_id=job_id), metadata=transport.metadata, timeout=ATTEMPT_SECONDS
        )
    )


async def _follow(transport: Transport, job_id: str) -> AsyncGenerator[pb.JobEvent, None]:
    """The broker's events up to `ended`, over as many streams as it takes."""
    cursor = 0
    patience = transport.patience()
    while True:
        began = time.monotonic()
        try:
            generation = (await transport.stubs()).generation
            stream = generation.Watch(
                pb.WatchRequest(
                    job_id=job_id, cursor=cursor, inline_pictures_up_to=INLINE_PICTURE_BYTES
                ),
                metadata=transport.metadata,
            )
            await stream.wait_for_connection()
            patience.renew()
            async for event in stream:
                patience.renew()
                cursor = max(cursor, event.cursor)
                yield event
                if event.WhichOneof("event") == "ended":
                    return
            raise Unavailable("the broker ended the job's events early: try again")
        except (grpc.aio.AioRpcError, FoxdenError) as error:
            if time.monotonic() - began > ATTEMPT_SECONDS:
                # A dial fails sooner: this stream was up, and nothing happened to the job. The
                # quiet must not be counted as time in which the broker was away.
                patience.renew()
            pause = patience.delay(error)
        await asyncio.sleep(pause)


def _whole(event: pb.JobEvent) -> bool:
    """Whether the event brought its picture along, undamaged."""
    return hashlib.sha256(event.picture_bytes).hexdigest() == event.picture.sha256


async def download(transport: Transport, job_id: str, picture: pb.Picture) -> bytes:
    """The bytes of a finished picture, compared with its sha256; begun again where they break."""
    request = pb.DownloadRequest(picture=pb.PictureRef(job_id=job_id, index=picture.index))
    patience = transport.patience()
    while True:
        try:
            generation = (await transport.stubs()).generation
            data = bytearray()
            stream = generation.Download(request, metadata=transport.metadata)
            async for message in stream:
                data += message.chunk
                if len(data) > PICTURE_BYTES:
                    raise FoxdenError(
                        f"picture {picture.index} of job {job_id} is larger than any picture: "
                        "look at the broker's log"
                    )
            if hashlib.sha256(data).hexdigest() == picture.sha256:
                return bytes(data)
            raise Unavailable(
                f"picture {picture.index} of job {job_id} arrives damaged: look at the broker's log"
            )
        except (grpc.aio.AioRpcError, FoxdenError) as error:
            pause = patience.delay(error)
        await asyncio.sleep(pause)


def _event(event: pb.JobEvent) -> events.Event | None:
    """An event without bytes to fetch; None for one that this version does not know."""
    match event.WhichOneof("event"):
        case "queued":
            return queued(event.queued)
        case "started":
            return events.Started(event.started.index, event.started.card)
        case "progress":
            told = event.progress
            return events.Progress(told.index, told.step, told.steps, told.preview)
        case "task_ended":
            ended = event.task_ended
            state = pb.TaskState.Name(ended.state).removeprefix("TASK_STATE_").lower()
            return events.TaskFailed(ended.index, ended.reason, state)
    return None


def queued(told: pb.Queued) -> events.Queued:
    return events.Queued(
        told.position,
        told.eta_p50 if told.HasField("eta_p50") else None,
        told.eta_p90 if told.HasField("eta_p90") else None,
        told.waiting_for,
    )


def _ending(ended: pb.Ended) -> events.Last:
    if ended.state == pb.JOB_STATE_DONE:
        return events.Done()
    if ended.state == pb.JOB_STATE_CANCELLED:
        return events.Cancelled(ended.reason)
    return events.Failed(
        ended.reason, pb.JobState.Name(ended.state).removeprefix("JOB_STATE_").lower()
    )


def _picture(job_id: str, told: pb.Picture, data: bytes) -> Picture:
    return Picture(
        index=told.index,
        seed=told.seed,
        width=told.width,
        height=told.height,
        card=told.card,
        model=told.model,
        seconds=told.seconds,
        job_id=job_id,
        sha256=told.sha256,
        data=data,
    )
