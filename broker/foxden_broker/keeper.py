"""The loop that watches the clock: silent agents, leases that last too long, passed deadlines."""

from __future__ import annotations

import asyncio
import logging
import time

from foxden_broker import admin_calls, agent_calls
from foxden_broker.account import Account, now_ms
from foxden_broker.retries import after_failure
from foxden_broker.store.base import StoreError
from foxden_proto.states import LinkState, TaskEvent

log = logging.getLogger(__name__)


async def run(account: Account) -> None:
    """Look at everything that time alone changes, five times per heartbeat, until cancelled."""
    while True:
        await asyncio.sleep(account.timers.heartbeat / 5)
        try:
            await look(account)
        except StoreError as error:
            log.error("waiting for the store: %s", error)


async def look(account: Account) -> None:
    now = time.monotonic()
    for session in list(account.sessions.values()):
        try:
            for event in session.link.tick(now):
                await agent_calls.handle(account, session, event)
            account.refresh(session)
        except StoreError as error:
            # The link says it once. What its agent has, its next hello will tell.
            log.error("agent %s: %s", session.agent_id, error)
            await session.close("the broker cannot store anything just now")
        if session.link.state is LinkState.CONNECTING and not account.pool.leases_of(
            session.agent_id
        ):
            account.sessions.pop(session.agent_id, None)
    for held in list(account.pool.held.values()):
        holder = account.sessions.get(held.agent_id)
        if holder is None or holder.link.state is LinkState.CONNECTING:
            await account.lose(held, "the link to its agent was gone for too long")
    for held in [h for h in account.pool.held.values() if now >= h.deadline]:
        lease = held.lease
        if held.releasing:
            await account.lose(held, "its checkpoint did not come")
            continue
        holder = account.sessions.get(held.agent_id)
        if holder is not None:
            holder.link.stop(lease)
            holder.flush()
        decide = after_failure(account.capable_ids(lease.job_id))
        why = "it took far longer than such an image should"
        await account.end_lease(lease, decide, why, blame=True)
    # What has a model is expired by the scheduler, which knows how long it would take.
    passed = [
        (job.job_id, index)
        for job in map(account.pool.jobs.__getitem__, account.pool.unresolved)
        if job.deadline_ms and job.deadline_ms <= now_ms()
        for index in sorted(job.waiting)
    ]
    if passed:
        why = "its deadline passed before a card was free"
        await account.end_queued(passed, TaskEvent.EXPIRE, why)
    await admin_calls.give_back(account)
    await account.resolve_waiting()
