"""The loop that throws away what has been kept for long enough, in small portions.

Ended jobs leave the hot tables after an hour. Their pictures are forgotten after a set time, or
when there are more bytes than may be kept, oldest first; then their bytes go. A blob is deleted
only when nothing refers to it and it was put some time ago: an image is PUT before anything
refers to it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from foxden_broker.account import Account, now_ms
from foxden_broker.blobs import Kept
from foxden_broker.client_calls import KEY_WINDOW_MS
from foxden_broker.settings import BrokerSettings
from foxden_broker.store.base import StoreError
from foxden_proto import logs

log = logging.getLogger(__name__)

_PORTION = 200  # jobs in one transaction: others wait for the writer meanwhile
_MOST_PORTIONS = 50  # in one round
_MOST_YOUNG = 10_000  # blobs remembered from round to round
_PAUSE = 0.05  # seconds between portions, for everybody else
_DAY_MS = 86_400_000


@dataclass(frozen=True)
class Keep:
    """For how long, and how much. None: for ever."""

    results_ms: int | None
    history_ms: int | None
    most_bytes: int  # 0: no limit

    @classmethod
    def of(cls, settings: BrokerSettings) -> Keep:
        def span(days: float) -> int | None:
            return int(days * _DAY_MS) if days else None

        return cls(
            span(settings.keep_results_days), span(settings.keep_history_days), settings.keep_bytes
        )


async def run(account: Account, keep: Keep) -> None:
    """Sweep in rounds, until cancelled."""
    timers = account.timers
    young: set[str] = set()
    looked = time.monotonic() - timers.look  # the first round looks at every blob
    while True:
        await asyncio.sleep(timers.sweep)
        try:
            await account.load_quotas()  # what was used today, as the store counts it
            async with account.sweeping:
                await sweep(account, keep, young)
                if time.monotonic() - looked >= timers.look:
                    await look_at_all(account)
                    looked = time.monotonic()
        except StoreError as error:
            log.error("sweeping again later: %s", error)


async def sweep(account: Account, keep: Keep, young: set[str]) -> None:
    """One round of what is due by its age or by the space it takes. `young` remembers, from round
    to round, blobs that may go but were put too short a time ago."""
    store, account_id, now = account.store, account.account_id, now_ms()
    settled_ms = int(account.timers.archive * 1000)
    if keep.results_ms is not None:  # results are swept out of history alone
        settled_ms = min(settled_ms, keep.results_ms)
    for _ in range(_MOST_PORTIONS):
        moved = await store.archive(account_id, now - settled_ms, _PORTION)
        account.metrics.swept("jobs_archived", moved)
        if moved < _PORTION:
            break
        await asyncio.sleep(_PAUSE)
    keys = await store.sweep_keys(account_id, now - KEY_WINDOW_MS, _PORTION * 10)
    account.metrics.swept("keys", keys)
    for _ in range(_MOST_PORTIONS if keep.results_ms is not None or keep.most_bytes else 0):
        loose = await store.sweep_results(
            account_id,
            ended_before_ms=now - keep.results_ms if keep.results_ms is not None else 0,
            most_bytes=keep.most_bytes,
            limit=_PORTION,
            now_ms=now,
        )
        young.update(loose[: max(0, _MOST_YOUNG - len(young))])  # a look finds the others
        if not loose:
            break
        log.info(
            *("%d pictures were kept for long enough and go", len(loose)),
            extra=logs.fields(account=account_id),
        )
        await asyncio.sleep(_PAUSE)
    account.metrics.swept("checkpoints", await _delete_checkpoints(account))
    account.metrics.swept("blobs", await _delete_unreferred(account, sorted(young), young))
    if keep.history_ms is not None:
        gone = await store.forget_history(account_id, now - keep.history_ms, _PORTION * 10)
        account.metrics.swept("jobs_forgotten", gone)


async def look_at_all(account: Account) -> None:
    """Every blob: count them, and delete what nobody has referred to for a while, such as the
    picture of a lease that was lost after the PUT."""
    before_ms = now_ms() - int(account.timers.blob_grace * 1000)
    blobs = size = 0
    old: list[Kept] = []
    async for kept in account.blobs.kept():
        blobs, size = blobs + 1, size + kept.size
        if kept.put_ms < before_ms:
            old.append(kept)
        if len(old) >= _PORTION:
            deleted, old = await _delete_unreferred(account, [k.sha256 for k in old]), []
            account.metrics.swept("orphans", deleted)
            await asyncio.sleep(_PAUSE)
    deleted = await _delete_unreferred(account, [k.sha256 for k in old])
    account.metrics.swept("orphans", deleted)
    await account.blobs.tidy(before_ms)
    account.metrics.kept(blobs, size)


async def _delete_checkpoints(account: Account) -> int:
    """Those that were replaced, or whose image has ended, after a minute: a running image leaves
    one every few seconds. An agent that lost its link may still be about to tell of one."""
    timers, stored = account.timers, account.checkpoints.stored
    grace = timers.lease_lost + timers.silent + timers.release
    before_ms = now_ms() - int(grace * 1000)
    names = [sha256 for sha256, put_ms in stored.items() if put_ms < before_ms]
    referred: set[str] = set()
    for at in range(0, len(names), _PORTION):
        referred |= await account.store.referred(account.account_id, names[at : at + _PORTION])
    loose = [sha256 for sha256 in names if sha256 not in referred]
    young = set(loose)
    deleted = await _delete_unreferred(account, loose, young, grace=grace)
    for sha256 in loose:
        if sha256 not in young:
            stored.pop(sha256, None)
    return deleted


async def _delete_unreferred(
    account: Account,
    names: Sequence[str],
    young: set[str] | None = None,
    *,
    grace: float | None = None,
) -> int:
    """Delete those of the blobs that nothing refers to and that were not put a short time ago
    (`grace`, else `timers.blob_grace`): whoever put them is about to refer to them. What is done
    with leaves `young`."""
    grace = account.timers.blob_grace if grace is None else grace
    before_ms = now_ms() - int(grace * 1000)
    deleted = 0
    for at in range(0, len(names), _PORTION):
        portion = names[at : at + _PORTION]
        referred = await account.store.referred(account.account_id, portion)
        for name in portion:
            if name not in referred and await account.blobs.delete(name, put_before_ms=before_ms):
                deleted += 1
            elif name not in referred and await account.blobs.size(name) is not None:
                continue  # too young
            if young is not None:
                young.discard(name)
    return deleted
