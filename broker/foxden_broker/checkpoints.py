"""Checkpoints: what an agent PUTs of an image that runs, so that another card can go on with it.

The bytes come and go over HTTP: a PUT with the token of the lease, answered with a receipt of its
own sort, and a GET of exactly what the lease was given to go on from. That one is stored is told
over the link, and written down here, those of a moment together. An image has one checkpoint: a
later one replaces it, and with the image's end it is forgotten. The sweeper deletes the bytes.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from foxden_broker.blobs import BlobMismatch, BlobMissing, BlobStalled, BlobTooBig, paced
from foxden_broker.store.base import Checkpoint, Lease, StorageFull, StoreError, Task
from foxden_proto import limits
from foxden_proto.states import TASK_HELD

if TYPE_CHECKING:
    from foxden_broker.account import Account

log = logging.getLogger(__name__)

_MOST_AT_ONCE = 4  # PUTs of one lease within `timers.checkpoint`; an honest agent has one or two
_MOST_LEASES = 5000  # whose PUTs are counted
_MOST_STORED = 20_000  # remembered for the sweeper; a look at all blobs finds the others


@dataclass
class Checkpoints:
    """Of one account, while this broker runs."""

    stored: dict[str, int] = field(default_factory=dict)  # sha256 -> Unix ms; to sweep some day
    told: dict[Lease, Checkpoint] = field(default_factory=dict)  # not written down yet
    _writing: bool = False
    _puts: dict[Lease, deque[float]] = field(default_factory=dict)

    def remember(self, sha256: str, now_ms: int) -> None:
        """These bytes are here, and nobody may need them any more some day."""
        self.stored.pop(sha256, None)
        if len(self.stored) >= _MOST_STORED:
            del self.stored[next(iter(self.stored))]
        self.stored[sha256] = now_ms

    def may_put(self, lease: Lease, now: float, window: float) -> bool:
        """Whether one more PUT of this lease is taken now; counts it."""
        if lease not in self._puts:
            if len(self._puts) >= _MOST_LEASES:
                del self._puts[next(iter(self._puts))]
            self._puts[lease] = deque(maxlen=_MOST_AT_ONCE)
        puts = self._puts[lease]
        if len(puts) == _MOST_AT_ONCE and now - puts[0] < window:
            return False
        puts.append(now)
        return True

    def forget(self, lease: Lease) -> Checkpoint | None:
        """The lease is over. What was told of it and is not written down yet."""
        self._puts.pop(lease, None)
        return self.told.pop(lease, None)

    async def tell(self, account: Account, lease: Lease, checkpoint: Checkpoint) -> None:
        """Write it down, with all that is told meanwhile. Where the store cannot, the next one
        will say more: nothing depends on this one."""
        self.told[lease] = checkpoint
        if self._writing:
            return
        self._writing = True
        try:
            while self.told:
                some, self.told = self.told, {}
                await account.store.keep_checkpoints(account.account_id, list(some.items()))
        except StoreError as error:
            log.warning("checkpoints could not be written down: %s", error)
        finally:
            self._writing = False


async def put(account: Account, lease: Lease, request: Request) -> JSONResponse:
    """Store the body of a PUT, and answer with the receipt for it."""
    try:
        task = await _held_task(account, lease)
    except StoreError as error:
        return _error(503, str(error))
    if task is None:
        return _error(410, "this image is not yours any more")
    sha256 = request.headers.get("x-foxden-sha256", "")
    if not sha256:
        return _error(422, "say what it must be: send X-Foxden-Sha256 with the checkpoint")
    timers = account.timers
    if not account.checkpoints.may_put(lease, time.monotonic(), timers.checkpoint):
        return _error(429, f"{_MOST_AT_ONCE} checkpoints within {timers.checkpoint:g} s are enough")
    try:
        sha256, size = await account.blobs.put(
            paced(request.stream(), stalled=timers.transfer_stalled, whole=timers.transfer),
            limit=limits.CHECKPOINT_BYTES,
            expect_sha256=sha256,
            expect_size=None,
        )
    except BlobTooBig as error:
        return _error(413, str(error))
    except (BlobMismatch, ValueError) as error:
        return _error(422, str(error))
    except StorageFull as error:
        return _error(507, str(error))
    except (BlobStalled, StoreError) as error:
        log.warning("a checkpoint could not be stored: %s", error)
        return _error(503, str(error))
    except ClientDisconnect:
        return _error(400, "the checkpoint did not arrive whole")  # nobody hears it
    account.checkpoints.remember(sha256, int(time.time() * 1000))
    receipt = account.signer.checkpoint_receipt(account.account_id, lease, sha256, size)
    return JSONResponse({"sha256": sha256, "size": size, "receipt": receipt})


async def get(account: Account, lease: Lease) -> Response:
    """The bytes that this lease was given to go on from, and no others."""
    try:
        task = await _held_task(account, lease)
        if task is None:
            return _error(410, "this image is not yours any more")
        if task.checkpoint is None:
            return _error(404, "this image begins from the beginning")
        data = b"".join([chunk async for chunk in account.blobs.read(task.checkpoint.sha256)])
    except BlobMissing:
        return _error(404, "this checkpoint is not kept any more: draw it from the beginning")
    except StoreError as error:
        return _error(503, str(error))
    return Response(data, media_type="application/octet-stream")


async def _held_task(account: Account, lease: Lease) -> Task | None:
    """The image of a lease that is not over, as it was when it was leased; None where it is. The
    mirror says it without a query; another broker may have the mirror, and the store says then
    what the lease had or has stored itself since."""
    held = account.pool.held.get(lease)
    if held is not None and held.task is not None:
        return held.task
    job = await account.store.job(account.account_id, lease.job_id)
    task = job.tasks[lease.index] if job and 0 <= lease.index < len(job.tasks) else None
    return task if task and task.lease == lease and task.state in TASK_HELD else None


def _error(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": message}, status)
