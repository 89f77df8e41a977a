"""What the broker does for a client: submit, watch, get, list, cancel, upload, download."""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace

from foxden_broker.account import Account, now_ms
from foxden_broker.blobs import BlobMismatch, BlobMissing, BlobStalled, BlobTooBig, paced
from foxden_broker.catalogue import resolve
from foxden_broker.following import Follower
from foxden_broker.inlining import whole
from foxden_broker.problems import invalid, not_found, swept
from foxden_broker.store.base import Job, NewJob, StoreError, Submitted, Task, Upload
from foxden_broker.tokens import random_id
from foxden_broker.validation import check_submit
from foxden_broker.wire import job_message, job_state_of, task_picture
from foxden_proto import limits
from foxden_proto.problems import Problem, Reason
from foxden_proto.states import JOB_ENDED, TASK_ENDED, JobState, TaskState
from foxden_proto.v1 import generation_pb2 as gen

log = logging.getLogger(__name__)

KEY_WINDOW_MS = 24 * 3600 * 1000
_SWEPT = "its picture was kept for as long as this broker keeps results, and is gone"
_MEDIA_TYPES = ("image/png", "image/jpeg", "image/webp")
_QUEUE_REFRESH_SECONDS = 1.0  # how often a waiting client hears its position again
_WELCOME_SECONDS = 3.0  # a revoked token's stream goes on for this long at most


@dataclass(frozen=True)
class Member:
    """Who is calling: a member of an account, with a token's scopes."""

    account_id: str
    name: str
    scopes: frozenset[str]

    @property
    def sees_all(self) -> bool:
        return "admin" in self.scopes


async def submit(
    account: Account, member: Member, request: gen.SubmitRequest
) -> gen.SubmitResponse:
    """Store the job, or raise the Problem that says why not; nothing in between."""
    checked = check_submit(request, random.SystemRandom())
    catalogue = account.pool.catalogue()
    complete, resolved = checked.request, False
    if any(card.models for card in catalogue.cards):
        complete, resolved = resolve(checked.request, catalogue), True
    now = now_ms()
    deadline_ms = now + int(checked.deadline_seconds * 1000) if checked.deadline_seconds else 0
    new = NewJob(
        account.account_id,
        random_id(16),
        member.name,
        complete.SerializeToString(),
        complete.model_sha256 if resolved else "",
        checked.count,
        checked.priority,
        now,
        deadline_ms,
        checked.idempotency_key,
        checked.digest,
    )
    submitted = await _earlier_where_full(account, new)
    if submitted is None:
        with account.pool.tally.expected(member.name, checked.count):
            try:
                submitted = await account.store.submit(new, key_window_ms=KEY_WINDOW_MS)
            except StoreError:
                # Perhaps it is stored, and the answer got lost; its client may not ask again.
                account.stored(new.job_id, new.count)
                raise
    if submitted.conflict:
        raise Problem(
            Reason.IDEMPOTENCY_CONFLICT,
            "This idempotency key was used for another request in the last 24 hours: "
            "use a new key for a new request.",
        )
    job = submitted.job
    known = job.job_id in account.pool.jobs  # found by polling or by asking, a moment before
    if not submitted.repeated and not known:
        if account.planned:
            account.pool.add_job(job, range(job.count))
            account.hub.recent.add(job)
        else:
            account.stored(job.job_id, job.count)
        account.metrics.submitted(job.priority)
        account.wake.set()
        # A card with models may have come while the job was being written.
        if not resolved:
            await account.resolve_waiting()
    elif job.state not in JOB_ENDED and not known:
        # It was stored, and the store's answer to that got lost, or is on its way still.
        account.stored(job.job_id, job.count)
    return gen.SubmitResponse(
        job=job_message(job), queued=queued(account, job), repeated=submitted.repeated
    )


async def _earlier_where_full(account: Account, new: NewJob) -> Submitted | None:
    """Raises Problem QUOTA_EXCEEDED where the member may queue no more, unless this very request
    was taken before: the answer to it may have been lost, and it counts in the queue already."""
    try:
        account.check_quota(new.member, new.count)
    except Problem:
        earlier = None
        if new.idempotency_key:
            earlier = await account.store.submitted(new, key_window_ms=KEY_WINDOW_MS)
        if earlier is None:
            raise
        return earlier
    return None


async def find(account: Account, member: Member, job_id: str, *, attempts: bool = False) -> Job:
    if not job_id.isprintable():  # no id is like that, and PostgreSQL takes no NUL
        raise not_found("job", job_id)
    job = await account.store.job(account.account_id, job_id, attempts=attempts)
    if job is None or not (member.sees_all or job.member == member.name):
        raise not_found("job", job_id)
    return job


async def list_jobs(
    account: Account, member: Member, request: gen.ListJobsRequest
) -> gen.ListJobsResponse:
    if not 0 <= request.page_size <= 200:
        raise invalid("page_size", f"page_size is {request.page_size}", "1 to 200")
    try:
        page = await account.store.jobs(
            account.account_id,
            member="" if member.sees_all else member.name,
            state=job_state_of(request.state),
            before=request.page_token,
            limit=request.page_size or 50,
        )
    except ValueError:
        what = "the page token is not from this broker"
        raise invalid("page_token", what, "next_page_token of the page before") from None
    return gen.ListJobsResponse(
        jobs=[job_message(job) for job in page.jobs], next_page_token=page.next_before
    )


async def cancel(account: Account, member: Member, job_id: str) -> gen.Job:
    """Cancel what waits, and tell the cards that hold the rest to stop."""
    await find(account, member, job_id)
    why = "cancelled by the client"
    cancelled = await account.store.cancel(account.account_id, job_id, why, now_ms())
    if cancelled is None:
        raise not_found("job", job_id)
    if (opened := account.pool.jobs.get(job_id)) is not None:
        opened.cancelled = True
    for change in cancelled.changes:
        account.noted(change, was_held=False)
        account.pool.unqueue(change.task.job_id, change.task.index)
    if opened is not None and opened.waiting:  # an earlier cancel's answer got lost
        account.doubt(job_id, *opened.waiting)
    if not account.planned:
        account.stored(job_id, len(cancelled.job.tasks))
    for task in cancelled.running:
        session = account.sessions.get(task.agent_id)
        if session is not None:
            session.link.stop(task.lease)
            session.flush()
    account.changed(job_id)
    return job_message(cancelled.job)


async def retry(account: Account, member: Member, job_id: str) -> gen.Job:
    """Queue the failed images of a job again. Says nothing new where that was done already.

    Raises Problem: NOT_FOUND, QUOTA_EXCEEDED, or INVALID_REQUEST where nothing of it failed or its
    deadline has passed.
    """
    job = await find(account, member, job_id)
    failed = sum(task.state is TaskState.FAILED for task in job.tasks)
    if not failed and job.state in JOB_ENDED:
        what = f"job {job_id} has no failed image (it is {job.state.value})"
        raise invalid("job_id", what, "retry for jobs that are failed or partial")
    if failed and job.deadline_ms and job.deadline_ms <= now_ms():
        what = f"the deadline of job {job_id} has passed and nothing of it would be started"
        raise invalid("job_id", what, "a new submit with a later deadline")
    if failed:
        account.check_quota(job.member, failed)
        with account.pool.tally.expected(job.member, failed):
            changes = await account.store.retry(account.account_id, job_id, now_ms())
        if changes and job_id in account.pool.jobs:
            account.pool.jobs[job_id].cancelled = False
        elif changes:
            account.pool.add_job(replace(job, cancel_requested=False), range(0))
        for change in changes:
            account.pool.requeue(job_id, change.task.index)
        if changes:
            await account.resolve_waiting()
            account.changed(job_id)
    return job_message(await find(account, member, job_id, attempts=True))


async def watch(
    account: Account,
    member: Member,
    request: gen.WatchRequest,
    still_welcome: Callable[[], Awaitable[object]] | None = None,
    open_up: Callable[[], Awaitable[None]] | None = None,
) -> AsyncIterator[gen.JobEvent]:
    """The job's events after the cursor, until it has ended.

    Subscribing comes before reading: what changes between the two wakes the subscription.
    `still_welcome`, asked every few seconds, raises the Problem that ends the stream. `open_up` is
    called before the first wait.
    """
    if not request.job_id:
        raise not_found("job", request.job_id)
    cursor = request.cursor
    asked = time.monotonic()
    told_started: set[int] = set()
    told_queued: gen.Queued | None = None
    look_again = 0.0  # a place in the queue changes with every image that starts: tell it rarely
    inline = min(request.inline_pictures_up_to, limits.INLINE_PICTURE_BYTES)
    with account.hub.subscribe(request.job_id) as subscription:
        follower = Follower(
            account.store, account.account_id, request.job_id, subscription, account.hub.recent
        )
        while True:
            if still_welcome is not None and time.monotonic() - asked > _WELCOME_SECONDS:
                await still_welcome()
                asked = time.monotonic()
            found = await follower.news(cursor)
            if found is None or not (member.sees_all or found[0].member == member.name):
                raise not_found("job", request.job_id)
            job, tasks = found
            for task in tasks:
                for event in _task_events(task, told_started):
                    if not event.HasField("picture") or event.picture.size > inline:
                        yield event
                        continue
                    with account.sending.room(event.picture.size) as room:
                        if room:
                            sha256 = event.picture.sha256
                            data = await whole(account.recent, account.blobs, sha256)
                            event.picture_bytes = data
                        yield event
            cursor = max(cursor, job.revision)
            if job.state in JOB_ENDED:
                state = gen.JobState.Value(f"JOB_STATE_{job.state.name}")
                ended = gen.Ended(state=state, reason=job.reason)
                yield gen.JobEvent(cursor=cursor, ended=ended)
                return
            waits = job.state is JobState.QUEUED
            if waits and time.monotonic() >= look_again:
                look_again = time.monotonic() + _QUEUE_REFRESH_SECONDS
                place = queued(account, job)
                if place != told_queued:
                    told_queued = place
                    yield gen.JobEvent(cursor=cursor, queued=place)
            if open_up is not None:
                await open_up()
                open_up = None
            wait = max(0.0, look_again - time.monotonic()) if waits else _WELCOME_SECONDS
            while progress := await subscription.wait(wait):
                for step in progress:
                    yield gen.JobEvent(cursor=cursor, progress=step)
                if time.monotonic() - asked > _WELCOME_SECONDS:
                    break


def _task_events(task: Task, told_started: set[int]) -> list[gen.JobEvent]:
    """What a watcher hears of a task's newest state; Started always comes before the picture."""
    events = []
    begun = task.state in (TaskState.RUNNING, TaskState.RELEASING, TaskState.DONE)
    if begun and task.index not in told_started:
        told_started.add(task.index)
        started = gen.Started(index=task.index, card=task.card_name)
        # A picture may follow under the same revision: a client whose stream breaks between the
        # two must come back with a cursor that still shows it the picture.
        before = task.revision - 1 if task.state is TaskState.DONE else task.revision
        events.append(gen.JobEvent(cursor=before, started=started))
    if task.state is TaskState.DONE and task.picture is not None:
        events.append(gen.JobEvent(cursor=task.revision, picture=task_picture(task)))
    elif task.state in TASK_ENDED:
        state = gen.TaskState.Value(f"TASK_STATE_{task.state.name}")
        why = task.reason if task.state is not TaskState.DONE else _SWEPT
        over = gen.TaskEnded(index=task.index, state=state, reason=why)
        events.append(gen.JobEvent(cursor=task.revision, task_ended=over))
    elif task.state is TaskState.QUEUED:
        told_started.discard(task.index)  # it will start again, maybe elsewhere
    return events


def queued(account: Account, job: Job) -> gen.Queued:
    """Where a job stands: what goes before it, and when it may be done."""
    opened = account.pool.jobs.get(job.job_id)
    if opened is None:
        return gen.Queued(waiting_for="" if account.planned else "a broker to plan for this pool")
    return account.place(opened)


async def upload(
    account: Account, header: gen.UploadHeader, chunks: AsyncIterator[bytes]
) -> gen.UploadResponse:
    if not 1 <= header.size <= limits.UPLOAD_BYTES:
        raise invalid("size", f"size is {header.size} bytes", f"1 to {limits.UPLOAD_BYTES}")
    if header.media_type not in _MEDIA_TYPES:
        raise invalid("media_type", "media_type is unknown", " or ".join(_MEDIA_TYPES))
    if not re.fullmatch(r"[0-9a-f]{64}", header.sha256):
        raise invalid("sha256", "sha256 is no hash", "64 hex digits in lower case")
    try:
        timers = account.timers
        sha256, size = await account.blobs.put(
            paced(chunks, stalled=timers.transfer_stalled, whole=timers.transfer),
            limit=header.size,
            expect_sha256=header.sha256,
            expect_size=header.size,
        )
    except BlobStalled as error:
        raise Problem(Reason.UNAVAILABLE, str(error)) from None
    except (BlobTooBig, BlobMismatch) as error:
        allowed = "the size and sha256 of the bytes that follow"
        raise invalid("sha256", str(error), allowed) from None
    account.metrics.received(size)
    upload_id = "up_" + random_id(20)
    await account.store.add_upload(
        Upload(account.account_id, upload_id, sha256, size, header.media_type, now_ms())
    )
    return gen.UploadResponse(upload_id=upload_id)


async def download(
    account: Account, member: Member, request: gen.DownloadRequest
) -> AsyncIterator[gen.DownloadChunk]:
    """A picture's bytes, asked for by the job that made it, or an upload's by its id."""
    if request.WhichOneof("what") == "upload_id":
        found = None
        if request.upload_id.isprintable():
            found = await account.store.upload(account.account_id, request.upload_id)
        if found is None:
            raise not_found("upload", request.upload_id)
        sha256, size = found.sha256, found.size
    else:
        job_id, index = request.picture.job_id, request.picture.index
        job = await find(account, member, job_id)
        task = job.tasks[index] if 0 <= index < len(job.tasks) else None
        if task is None or (task.picture is None and task.state is not TaskState.DONE):
            raise not_found("picture", f"{job_id}/{index}")
        if task.picture is None:
            seed = gen.ImageRequest.FromString(job.request).seed + index
            raise swept(f"{job_id}/{index}", seed)
        sha256, size = task.picture.sha256, task.picture.size
    first = True
    try:
        async for data in account.blobs.read(sha256):
            for start in range(0, len(data), limits.CHUNK_BYTES):
                chunk = gen.DownloadChunk(chunk=data[start : start + limits.CHUNK_BYTES])
                if first:
                    chunk.total, chunk.sha256, first = size, sha256, False
                yield chunk
    except BlobMissing:
        log.error("the blob %s is gone from the broker's folder", sha256)
        raise Problem(
            Reason.NOT_FOUND,
            "The broker knows this picture, but its bytes are gone from the broker's disk: "
            "submit the same request and seed again.",
        ) from None
