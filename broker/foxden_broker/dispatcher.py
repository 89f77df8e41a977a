"""The loop that hands out work: ask the scheduler, write it down, send."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence

from foxden_broker import doubts
from foxden_broker.account import Account, now_ms
from foxden_broker.pool_parts import Held
from foxden_broker.pool_scheduled import real
from foxden_broker.scheduler.facts import Action, Expire, Give, Image, Preempt
from foxden_broker.scheduler.planning import plan
from foxden_broker.scheduler.prefetch import next_model
from foxden_broker.store.base import Assign, Change, StoreError
from foxden_broker.uploads import checkpoint_path, upload_path
from foxden_proto.batches import batches
from foxden_proto.link import LeaseKey
from foxden_proto.states import TaskEvent
from foxden_proto.v1 import link_pb2 as pb

log = logging.getLogger(__name__)


async def run(account: Account) -> None:
    """Plan whenever something changed, and when the plan says so, until cancelled."""
    again = 0.0
    while True:
        await _woken(account, again)
        try:
            again = await dispatch(account)
        except StoreError as error:
            # A full disk ends when somebody frees space.
            log.error("nothing can be handed out, trying again: %s", error)
            await asyncio.sleep(account.timers.heartbeat / 5)
            account.wake.set()


async def _woken(account: Account, at: float) -> None:
    """Until something changed, or the monotonic moment `at`."""
    if not account.wake.is_set() and at > time.monotonic():
        try:
            async with asyncio.timeout_at(_loop_time(at)):
                await account.wake.wait()
        except TimeoutError:
            pass
    account.wake.clear()


def _loop_time(at: float) -> float | None:
    if math.isinf(at):
        return None
    return asyncio.get_running_loop().time() + at - time.monotonic()


async def dispatch(account: Account) -> float:
    """Hand out all that can go out now, in rounds; each leases what one plan says in one
    transaction, then sends it. Answers when to plan again if nothing happens before."""
    while True:
        if account.doubts:
            await doubts.settle(account)
        account.pool.scheduler.room = account.room()
        with account.metrics.planning():
            todo = plan(account.pool.scheduler, time.monotonic())
        if todo.wants_allotments:
            account.plan_ahead()
        for preempt in todo.preempts:
            _preempt(account, preempt)
        if not todo.actions:
            return todo.wake_at
        # All of it before anything is awaited: the plan holds for this moment.
        expired = _set_aside(account, todo.actions)
        gives = [account.pool.reserve(give) for give in _deliverable(account, todo.actions)]
        try:
            if gives:
                await _hand_out(account, gives)
        finally:
            await _expire(account, expired)


def _deliverable(account: Account, actions: Sequence[Action]) -> list[Give]:
    """The gives whose agents take work this very moment: a link may have fallen silent since its
    clock was looked at last."""
    gives = []
    for action in actions:
        if isinstance(action, Give):
            session = account.sessions.get(account.pool.cards[action.card_id].agent_id)
            if session is not None and account.refresh(session):
                gives.append(action)
    return gives


def _preempt(account: Account, preempt: Preempt) -> None:
    """Ask a card to give back what it draws; it does so at its next step, with checkpoints."""
    held = account.pool.preempting(preempt)
    for one in held:
        session = account.sessions.get(one.agent_id)
        if session is not None and not one.releasing:
            session.link.preempt(one.lease, preempt.reason)
            session.flush()
    what = ", ".join(f"{one.lease.job_id}/{one.lease.index}" for one in held)
    log.info("card %s is asked to give back %s: %s", preempt.card_id, what, preempt.reason)


async def _hand_out(account: Account, gives: Sequence[Give]) -> None:
    """Lease what is reserved, and send it."""
    pool = account.pool
    assigns = {image: _assign(account, give, image) for give in gives for image in give.images}
    granted: dict[Image, Change] = {}
    failure: StoreError | None = None
    try:
        wanted = list(assigns.values())
        for change in await account.store.assign(account.account_id, wanted, now_ms()):
            granted[change.task.job_id, change.task.index] = change
    except StoreError as error:
        failure = error
    for give in gives:
        _hold(account, give, granted)
    for job_id, index in assigns.keys() - granted.keys():
        # Nothing was written, or the image was not queued any more, or it is leased and the answer
        # got lost. Put back without asking: a store that cannot write may not be able to answer
        # either, and nobody would touch this image again.
        pool.unreserve(job_id, index, waits=True)
        account.doubt(job_id, index)
    if failure is not None:
        raise failure
    for give in gives:
        try:
            await _send(account, give, [granted[i].task.lease for i in give.images if i in granted])
        except StoreError as error:  # the others are leased by now and must be sent
            failure = error
    if failure is not None:
        raise failure


def _assign(account: Account, give: Give, image: Image) -> Assign:
    card = account.pool.cards[give.card_id]
    return Assign(*image, give.card_id, card.info.name, card.agent_id, batch=len(give.images))


def _hold(account: Account, give: Give, granted: Mapping[Image, Change]) -> None:
    deadline = account.deadline(give.card_id)
    for image in give.images:
        if (change := granted.get(image)) is not None:
            task = change.task
            ids = (task.lease, task.card_id, task.agent_id)
            shared = len(give.images)
            account.pool.hold(Held(*ids, False, deadline, task=task, batch=shared))
            account.hub.changed(task.job_id, change)


async def _send(account: Account, give: Give, leases: Sequence[LeaseKey]) -> None:
    """One assignment, with all images of the batch that were leased and are wanted still."""
    pool = account.pool
    held = [pool.held[lease] for lease in leases if lease in pool.held]
    if not held:
        return
    session = account.sessions.get(held[0].agent_id)
    if session is None or not session.link.up:
        # The link broke while the lease was being written; nobody has seen it yet.
        for one in held:
            why = "the link broke before it was sent"
            await account.end_lease(one.lease, TaskEvent.REFUSE, why)
        return
    card = pool.cards.get(give.card_id)  # its agent may have said meanwhile that it is gone
    together = card.info.most_together if card is not None else 1
    tasks = [_task(account, one) for one in held]
    # One batch, unless long prompts make the frame too big, or a checkpoint is another than was
    # planned with.
    for part in batches(
        tasks, lambda task: task.request, together, lambda task: int(task.resume.step)
    ):
        assignment = pb.Assignment(card_id=give.card_id, tasks=part)
        session.link.assign(assignment, time.monotonic())
    for one in held:
        if pool.jobs[one.lease.job_id].cancelled:
            session.link.stop(one.lease)  # the cancel came while the lease was being written
    if (model := next_model(pool.scheduler, give.card_id, time.monotonic())) is not None:
        session.link.prefetch(give.card_id, model)
    session.flush()


def _task(account: Account, held: Held) -> pb.AssignedTask:
    lease = held.lease
    path = checkpoint_path(account.account_id, lease)
    resume = None
    if held.task is not None and (kept := held.task.checkpoint) is not None:
        resume = pb.Checkpoint(sha256=kept.sha256, size=kept.size, step=kept.step, path=path)
    return pb.AssignedTask(
        lease=lease.message(),
        request=account.pool.jobs[lease.job_id].image_request(lease.index),
        upload_path=upload_path(account.account_id, lease),
        upload_token=account.signer.upload_token(account.account_id, lease),
        deadline=held.deadline - time.monotonic(),
        resume=resume,
        checkpoint_path=path,
    )


def _set_aside(account: Account, actions: Sequence[Action]) -> dict[str, list[Image]]:
    """What cannot be done by its deadline any more, by reason; nobody hands it out from now on."""
    by_reason: defaultdict[str, list[Image]] = defaultdict(list)
    for action in actions:
        if isinstance(action, Expire):
            image = real((action.job_id, action.index))
            by_reason[action.reason].append(image)
            account.pool.set_aside(*image)
    return by_reason


async def _expire(account: Account, by_reason: Mapping[str, list[Image]]) -> None:
    """End what was set aside; where the store cannot, it waits on."""
    try:
        for reason, images in by_reason.items():
            await account.end_queued(images, TaskEvent.EXPIRE, reason)
    finally:
        for images in by_reason.values():
            for job_id, index in images:
                account.pool.take_back(job_id, index)
