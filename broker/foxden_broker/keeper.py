"""The loop that watches the clock: silent agents, leases that last too long, passed deadlines."""

from __future__ import annotations

import asyncio
import logging
import time

from foxden_broker import agent_calls
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
        for event in session.link.tick(now):
            await agent_calls.handle(account, session, event)
        if session.link.state is LinkState.CONNECTING and not account.pool.leases_of(
            session.agent_id
        ):
            account.sessions.pop(session.agent_id, None)
    for held in [h for h in account.pool.held.values() if now >= h.deadline]:
        lease = held.lease
        if held.releasing:
            await account.end_lease(lease, TaskEvent.RELEASED, "its checkpoint did not come")
            continue
        holder = account.sessions.get(held.agent_id)
        if holder is not None:
            holder.link.stop(lease)
            holder.flush()
        decide = after_failure(account.capable_ids(lease.job_id))
        why = "it took far longer than such an image should"
        await account.end_lease(lease, decide, why, blame=True)
    passed = [
        (job.job_id, index)
        for job in account.pool.jobs.values()
        if job.deadline_ms and job.deadline_ms <= now_ms()
        for index in job.waiting
    ]
    if passed:
        why = "its deadline passed before a card was free"
        await account.end_queued(passed, TaskEvent.EXPIRE, why)
