"""The loop that hands images out: wait for a reason to plan, plan, write it down, send."""

from __future__ import annotations

import asyncio
import logging
import time

from foxden_broker import doubts
from foxden_broker.account import Account, now_ms
from foxden_broker.pool import Held
from foxden_broker.scheduler import Give, plan
from foxden_broker.store.base import Assign, Change, StoreError
from foxden_broker.uploads import upload_path
from foxden_proto.link import LeaseKey
from foxden_proto.states import TaskEvent
from foxden_proto.v1 import link_pb2 as pb

log = logging.getLogger(__name__)


async def run(account: Account) -> None:
    """Plan whenever something changed, until cancelled."""
    while True:
        await account.wake.wait()
        account.wake.clear()
        try:
            await dispatch(account)
        except StoreError as error:
            # A full disk ends when somebody frees space.
            log.error("nothing can be handed out, trying again: %s", error)
            await asyncio.sleep(account.timers.heartbeat / 5)
            account.wake.set()


async def dispatch(account: Account) -> None:
    """One round: lease what the plan says in one transaction, then send it."""
    if account.doubts:
        await doubts.settle(account)
    now = time.monotonic()
    accepting = {a for a, session in account.sessions.items() if session.link.accepts_work(now)}
    pool = account.pool
    gives = plan(pool.waiting_jobs(), pool.open_cards(accepting))
    if not gives:
        return
    assigns = [_assign(account, give) for give in gives]
    for assign in assigns:
        pool.reserve(assign)
    granted: dict[tuple[str, int], Change] = {}
    failure: StoreError | None = None
    try:
        changes = await account.store.assign(account.account_id, assigns, now_ms())
        granted = {(change.task.job_id, change.task.index): change for change in changes}
    except StoreError as error:
        failure = error
    for assign in assigns:
        if (change := granted.get((assign.job_id, assign.index))) is not None:
            _hold(account, assign, change)
        else:
            # Nothing was written, or the image was not queued any more, or it is leased and the
            # answer got lost. Put back without asking: a store that cannot write may not be able
            # to answer either, and nobody would touch this image again.
            pool.requeue(assign.job_id, assign.index)
            account.doubt(assign.job_id, assign.index)
        pool.unreserve(assign)
    if failure is not None:
        raise failure
    for assign in assigns:
        try:
            if (change := granted.get((assign.job_id, assign.index))) is not None:
                await _send(account, assign, change.task.lease)
        except StoreError as error:  # the others are leased by now and must be sent
            failure = error
    if failure is not None:
        raise failure


def _assign(account: Account, give: Give) -> Assign:
    card = account.pool.cards[give.card_id]
    return Assign(give.job_id, give.index, give.card_id, card.info.name, card.agent_id)


def _hold(account: Account, assign: Assign, change: Change) -> None:
    job = account.pool.jobs[assign.job_id]
    deadline = account.deadline(job.request, assign.card_id)
    lease = change.task.lease
    account.pool.hold(Held(lease, assign.card_id, assign.agent_id, False, deadline))
    account.hub.changed(assign.job_id)


async def _send(account: Account, assign: Assign, lease: LeaseKey) -> None:
    session = account.sessions.get(assign.agent_id)
    job = account.pool.jobs.get(assign.job_id)
    held = account.pool.held.get(lease)
    if job is None or held is None:
        return
    if session is None or not session.link.up:
        # The link broke while the lease was being written; nobody has seen it yet.
        await account.end_lease(lease, TaskEvent.REFUSE, "the link broke before it was sent")
        return
    task = pb.AssignedTask(
        lease=lease.message(),
        request=job.image_request(assign.index),
        upload_path=upload_path(account.account_id, lease),
        upload_token=account.signer.upload_token(account.account_id, lease),
        deadline=held.deadline - time.monotonic(),
    )
    assignment = pb.Assignment(card_id=assign.card_id, tasks=[task])
    session.link.assign(assignment, time.monotonic())
    if job.cancelled:
        session.link.stop(lease)  # the cancel came while the lease was being written
    session.flush()
