"""Where agents PUT their pictures: each is checked against what its lease was to be, and kept."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from foxden_broker.account import Account
from foxden_broker.blobs import BlobMismatch, BlobStalled, BlobTooBig, paced
from foxden_broker.images import PNG_HEADER_BYTES, png_size
from foxden_broker.metrics import Metrics
from foxden_broker.store.base import Lease, StorageFull, StoreError
from foxden_proto import limits
from foxden_proto.states import TASK_HELD
from foxden_proto.v1.generation_pb2 import ImageRequest

log = logging.getLogger(__name__)

_PICTURE_ROUTE = "/v1/pictures/{account_id}/{job_id}/{index}/{lease_no}"
_PICTURE = re.compile(r"/v1/pictures/([^/]+)/([^/]+)/([0-9]{1,9})/([0-9]{1,18})")
_MOST_PUTS = 3  # different pictures that are stored for one lease
_MOST_LEASES = 2000  # remembered of those that another broker planned
_COMING = "coming"  # in the place of the sha256 of one that is on its way


class PictureDoor:
    """Answers the PUT of a picture itself and passes everything else on: for the one request that
    every image makes, middleware and the search for a route are time that storing could have."""

    def __init__(
        self,
        put: Callable[[str, Lease, Request], Awaitable[JSONResponse]],
        others: ASGIApp,
        metrics: Metrics,
    ) -> None:
        self._put, self._others, self._metrics = put, others, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = None
        if scope["type"] == "http" and scope["method"] == "PUT":
            found = _PICTURE.fullmatch(scope["path"])
        if found is None:
            await self._others(scope, receive, send)
            return
        account_id, job_id, index, lease_no = found.groups()
        lease = Lease(job_id, int(index), int(lease_no))
        answer = await self._put(account_id, lease, Request(scope, receive))
        self._metrics.answered("PUT", _PICTURE_ROUTE, answer.status_code)
        await answer(scope, receive, send)


async def _expected(account: Account, lease: Lease) -> tuple[ImageRequest, list[str]] | None:
    """What the picture of this lease was to be, and what was PUT for it here; None where the
    lease is over. The mirror says it without a query; another broker may have the mirror."""
    opened, held = account.pool.jobs.get(lease.job_id), account.pool.held.get(lease)
    if opened is not None and held is not None:
        return opened.request, held.puts
    job = await account.store.job(account.account_id, lease.job_id)
    task = job.tasks[lease.index] if job and 0 <= lease.index < len(job.tasks) else None
    if job is None or task is None or task.lease != lease or task.state not in TASK_HELD:
        return None
    while len(account.puts_elsewhere) >= _MOST_LEASES:  # the oldest are over by now
        del account.puts_elsewhere[next(iter(account.puts_elsewhere))]
    puts = account.puts_elsewhere.setdefault(lease, [])
    return ImageRequest.FromString(job.request), puts


async def store_picture(account: Account, lease: Lease, request: Request) -> JSONResponse:
    """Keep the picture of a lease whose token the request has, and answer with its receipt."""
    try:
        expected = await _expected(account, lease)
    except StoreError as error:
        log.error("a picture could not be looked up: %s", error)
        return refusal(503, str(error))
    if expected is None:
        return refusal(410, "this image is not yours any more")
    image, puts = expected
    # A picture that was stored, but whose receipt got lost on its way, may always come again.
    if request.headers.get("x-foxden-sha256", "") in puts:
        return (await _take_picture(account, lease, image, request))[0]
    if len(puts) >= _MOST_PUTS:
        return refusal(429, f"{_MOST_PUTS} pictures were sent for this image: no more are taken")
    puts.append(_COMING)
    kept = ""
    try:
        answer, kept = await _take_picture(account, lease, image, request)
    finally:
        puts.remove(_COMING)
        if kept and kept not in puts:
            puts.append(kept)
    return answer


async def _take_picture(
    account: Account, lease: Lease, image: ImageRequest, request: Request
) -> tuple[JSONResponse, str]:
    """The answer, and the sha256 of what was kept; empty where nothing was."""
    timers = account.timers
    head = bytearray()
    small: list[bytes] = []  # the whole picture, where it is small enough for its watchers
    arrived = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal arrived
        async for chunk in request.stream():
            if len(head) < PNG_HEADER_BYTES:
                head.extend(chunk[:PNG_HEADER_BYTES])
            arrived += len(chunk)
            if arrived <= limits.INLINE_PICTURE_BYTES:
                small.append(chunk)
            else:
                small.clear()
            yield chunk

    try:
        sha256, size = await account.blobs.put(
            paced(body(), stalled=timers.transfer_stalled, whole=timers.transfer),
            limit=limits.PICTURE_BYTES,
            expect_sha256=request.headers.get("x-foxden-sha256"),
            expect_size=None,
        )
    except BlobTooBig as error:
        return refusal(413, str(error)), ""
    except BlobStalled as error:
        return refusal(503, str(error)), ""  # its agent sends it again
    except (BlobMismatch, ValueError) as error:
        return refusal(422, str(error)), ""
    except StorageFull as error:
        return refusal(507, str(error)), ""
    except StoreError as error:
        log.error("a picture could not be stored: %s", error)
        return refusal(503, str(error)), ""
    except ClientDisconnect:
        return refusal(400, "the picture did not arrive whole"), ""  # nobody hears it
    account.metrics.received(size)
    if png_size(bytes(head)) != (image.width, image.height):
        what = f"the picture is not {image.width}x{image.height}"
        return refusal(422, what), sha256
    if small:
        account.recent.keep(sha256, b"".join(small))
    receipt = account.signer.receipt(account.account_id, lease, sha256, size)
    return JSONResponse({"sha256": sha256, "size": size, "receipt": receipt}), sha256


def refusal(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": message}, status)
