"""Several brokers on one PostgreSQL: which of them plans for which account, and the loops that
keep it so.

Every account has one `Account` object here. While this broker owns the account, that is the
mirror that its dispatcher and keeper work on; otherwise it is empty, and serves what needs the
store alone. The exchange happens in one place, `_plan`, and everything that belonged to a lost
tenure is thrown away with it.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from foxden_broker.account import Account, now_ms
from foxden_broker.owners import Owners
from foxden_broker.peers import Peers
from foxden_broker.replica_rules import is_free, pause_before_taking, term
from foxden_broker.store.base import LeaseLost, Replica, SchedulingLease, Store, StoreError
from foxden_broker.tenure import Tenure, fenced
from foxden_proto.programs import Loop, watched
from foxden_proto.timers import Timers

log = logging.getLogger(__name__)

# A submit may ask a lost database again for a while, and its job is as old as its first try.
_SUBMIT_SECONDS = 15.0

NewAccount = Callable[[str, Store], Account]
Loops = Callable[[Account], Sequence[Loop]]


class Replicas:
    """This broker among those that share its database. Its `accounts` are exchanged in place."""

    def __init__(
        self,
        replica_id: str,
        predecessor: str,
        store: Store,
        new_account: NewAccount,
        loops: Loops,
        peers: Peers,
        timers: Timers,
        account_ids: Iterable[str],
    ) -> None:
        self.me = Replica(replica_id, "", "", "", 0)
        self._predecessor = predecessor  # this broker before it was started again; empty: none
        self.peers = peers
        self.timers = timers
        self._store = store
        self._new_account = new_account
        self._loops = loops  # what runs for an account while this broker plans for it
        self.accounts = {account_id: self._follower(account_id) for account_id in account_ids}
        self.owners = Owners(self.accounts)
        self._living: dict[str, Replica] = {}
        self._pokes: dict[str, asyncio.Event] = {}
        self._unheard: dict[str, set[tuple[str, int]]] = {}  # images stored while nobody planned
        self._looking: dict[str, asyncio.Task[None]] = {}
        self._settled = asyncio.Event()
        self._stopping = False
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def advertise(self, address: str, ca_pem: str, version: str) -> None:
        """How the others reach this broker; to be said before `run`."""
        self.me = replace(self.me, address=address, ca_pem=ca_pem, version=version)

    # What the doors ask

    def poked(self, account_id: str) -> None:
        """Another broker says that there is something new for this account; empty: for all."""
        for known in [account_id] if account_id else list(self._looking):
            self._poke_of(known).set()

    def stored(self, account_id: str, job_id: str, count: int) -> None:
        """This broker has stored a job, or may have, that the owner does not know of: tell it.

        The owner may be this broker itself. A submit that waits for the database outlives the
        tenure in which it came; when it is stored at last, the next tenure may have read the
        store already, or be reading it just now.
        """
        owner, account = self.owners.of(account_id), self.accounts[account_id]
        if account.planned:
            account.doubt(job_id, *range(count))
        elif owner.replica is not None:
            _in_background(self.peers.poke(owner.replica, account_id))
        else:
            images = ((job_id, index) for index in range(count))
            self._unheard.setdefault(account_id, set()).update(images)

    async def refresh_cards(self, account_id: str) -> None:
        """What a broker that does not plan for the account checks a submit against."""
        if not self.owners.of(account_id).mine:
            await self.accounts[account_id].load_cards()

    # Loops

    async def run(self) -> None:
        """Be seen, see the others, and look after every account, until cancelled."""
        try:
            while True:
                try:
                    await self._look_around()
                except StoreError as error:
                    log.error("the other brokers cannot be seen: %s", error)
                with suppress(TimeoutError):
                    async with asyncio.timeout(self.timers.scheduling_renewal):
                        await asyncio.shield(self._failed)
        finally:
            await self.stop()

    async def settled(self) -> None:
        """Until every account there is has a broker that plans for it, or a lease's time is over:
        whoever starts the only broker finds it at work."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self.timers.scheduling_lease):
                await self._settled.wait()
                for account_id in list(self._looking):
                    await self.owners.within(account_id, self.timers.scheduling_lease)

    async def stop(self) -> None:
        """Give every account up at once, so that another broker takes over without waiting."""
        self._stopping = True
        looking, self._looking = list(self._looking.values()), {}
        if not looking:
            return
        others = [r for r in self._living.values() if r.replica_id != self.me.replica_id]
        with suppress(StoreError):  # first: nobody is to wait for this one's turn
            await self._store.forget_replica(self.me.replica_id)
        for task in looking:
            task.cancel()
        await asyncio.gather(*looking, return_exceptions=True)
        pokes = [self.peers.poke(other, "") for other in others]
        await asyncio.gather(*pokes, return_exceptions=True)

    async def _look_around(self) -> None:
        if self._stopping:
            return
        if self._predecessor:
            await self._store.forget_replica(self._predecessor)
        await self._store.save_replica(replace(self.me, seen_ms=now_ms()))
        await self._see_living()
        await self.peers.keep(list(self._living.values()))
        for account_id in await self._store.accounts():
            if account_id not in self._looking and not self._stopping:
                self.accounts.setdefault(account_id, self._follower(account_id))
                task = asyncio.create_task(self._look_after(account_id), name=f"lease {account_id}")
                task.add_done_callback(self._ended)
                self._looking[account_id] = task
        self._settled.set()

    async def _see_living(self) -> None:
        seen_after = now_ms() - int(self.timers.silent * 1000)
        living = await self._store.replicas(seen_after)
        self._living = {replica.replica_id: replica for replica in living}

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and not self._failed.done():
            self._failed.set_exception(task.exception() or RuntimeError(f"{task.get_name()} ended"))
            self._failed.exception()  # seen: the program may be stopping

    async def _look_after(self, account_id: str) -> None:
        """Take the account when it is this broker's turn, plan for it until that is lost."""
        free_since: float | None = None
        while True:
            try:
                lease = await self._store.scheduling_lease(account_id)
                if not is_free(lease, now_ms()) and not self._is_my_old(lease):
                    free_since = None
                    await self._follow(account_id, lease)
                    continue
                now = time.monotonic()
                free_since = now if free_since is None else free_since
                await self._see_living()
                turn = pause_before_taking(
                    account_id, self.me.replica_id, self._living, now - free_since, self.timers
                )
                if turn > 0 and not self._is_my_old(lease):
                    await self._follow(account_id, None, turn)
                    continue
                await self._take(account_id, lease)
            except StoreError as error:
                # Who owned it a moment ago may still: what was last known is kept.
                log.error("account %s: %s", account_id, error)
                await asyncio.sleep(self.timers.store_poll / 2)

    def _is_my_old(self, lease: SchedulingLease | None) -> bool:
        """Left by this broker before it was killed, or when the database was away."""
        mine = {self.me.replica_id, self._predecessor} - {""}
        return lease is not None and lease.replica_id in mine

    async def _follow(
        self, account_id: str, lease: SchedulingLease | None, seconds: float | None = None
    ) -> None:
        """Another plans, or nobody yet: wait for the next look, and serve who watches from the
        store meanwhile."""
        if lease is not None and lease.replica_id not in self._living:
            await self._see_living()
        if lease is not None:
            self._unheard.pop(account_id, None)  # whoever plans looks for what others store
        self._say(account_id, lease)
        pause = self.timers.scheduling_renewal if seconds is None else seconds
        if lease is not None:
            pause = min(pause, max(0.0, (lease.until_ms - now_ms()) / 1000) + 0.01)
        self.accounts[account_id].hub.all_changed()
        await self._poked(account_id, min(pause, self.timers.store_poll))

    async def _take(self, account_id: str, lease: SchedulingLease | None) -> None:
        if lease is not None and self._is_my_old(lease):
            # Not extended but taken anew: what was under way then must not be written now.
            await self._store.leave_account(account_id, lease.replica_id, lease.epoch)
        asked, asked_ms = time.monotonic(), now_ms()
        until_ms = asked_ms + int(self.timers.scheduling_lease * 1000)
        taken = await self._store.lease_account(account_id, self.me.replica_id, asked_ms, until_ms)
        if taken is not None:
            tenure = Tenure(account_id, taken.epoch, term(asked, asked_ms, self.timers))
            await self._plan(tenure, taken)

    async def _plan(self, tenure: Tenure, lease: SchedulingLease) -> None:
        """Plan for the account until the tenure ends. Returns when it is lost."""
        account_id = tenure.account_id
        account = self._account(account_id, fenced(self._store, tenure))
        before = self.accounts[account_id]
        tasks: list[asyncio.Task[Any]] = [
            asyncio.create_task(self._renew(tenure)),
            asyncio.create_task(self._work(account, tenure, lease)),
            asyncio.create_task(tenure.over.wait()),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except LeaseLost:
            tenure.end("another broker plans now")
        finally:
            tenure.end("this broker stops planning")
            account.planned = False  # for calls and links that began in time
            self.accounts[account_id] = self._follower(account_id)
            self._say(account_id, None)
            before.hub.all_changed()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            # First, so that whoever dials again finds another broker; and with an epoch of its
            # own for the next tenure, whoever has it.
            with suppress(StoreError, TimeoutError):
                async with asyncio.timeout(self.timers.scheduling_renewal):
                    await self._store.leave_account(account_id, self.me.replica_id, tenure.epoch)
            await _cut(account)
            log.info("account %s: planned for no more (%s)", account_id, tenure.why)

    async def _work(self, account: Account, tenure: Tenure, lease: SchedulingLease) -> None:
        await account.load()
        self.accounts[account.account_id] = account
        account.doubts |= self._unheard.pop(account.account_id, set())
        self._say(account.account_id, lease, tenure)
        log.info("account %s: planned for from now on", account.account_id)
        name = f"poll {account.account_id}"
        async with watched([*self._loops(account), (name, self._poll(account))]) as failed:
            await failed

    async def _renew(self, tenure: Tenure) -> None:
        """Extend the lease three times in its life. Returns when it has run out."""
        account_id = tenure.account_id
        while tenure.holds:
            await asyncio.sleep(min(self.timers.scheduling_renewal, max(0.0, tenure.seconds_left)))
            asked, asked_ms = time.monotonic(), now_ms()
            until_ms = asked_ms + int(self.timers.scheduling_lease * 1000)
            try:
                # A database that hangs must not make this broker believe in its lease for longer.
                async with asyncio.timeout(max(0.0, tenure.seconds_left)):
                    lease = await self._store.lease_account(
                        account_id, self.me.replica_id, asked_ms, until_ms
                    )
            except TimeoutError:
                break
            except StoreError as error:
                log.error("account %s: its lease was not renewed: %s", account_id, error)
                await asyncio.sleep(self.timers.scheduling_renewal / 10)
                continue
            if lease is None or lease.epoch != tenure.epoch:
                tenure.end("another broker plans now")
                return
            tenure.renewed(term(asked, asked_ms, self.timers))
        tenure.end("its lease ran out and could not be renewed")

    async def _poll(self, account: Account) -> None:
        """Find what other brokers have stored while they could not reach this one."""
        while True:
            await self._poked(account.account_id, self.timers.store_poll)
            if len(self._living) < 2:
                continue  # nobody else is there to store anything
            # Twice the lease: clocks differ.
            since = now_ms() - int((2 * self.timers.scheduling_lease + _SUBMIT_SECONDS) * 1000)
            try:
                rows = await self._store.open_tasks(account.account_id, created_after_ms=since)
            except StoreError as error:
                log.error("account %s: %s", account.account_id, error)
            else:
                account.adopt(rows)

    # Small things

    def _follower(self, account_id: str) -> Account:
        follower = self._account(account_id, self._store)
        follower.planned = False
        return follower

    def _account(self, account_id: str, store: Store) -> Account:
        account = self._new_account(account_id, store)
        account.tell_owner = functools.partial(self.stored, account_id)
        return account

    def _say(
        self, account_id: str, lease: SchedulingLease | None, tenure: Tenure | None = None
    ) -> None:
        replica = self._living.get(lease.replica_id) if lease and tenure is None else None
        self.owners.say(account_id, replica, tenure, lease.epoch if lease else 0)

    def _poke_of(self, account_id: str) -> asyncio.Event:
        return self._pokes.setdefault(account_id, asyncio.Event())

    async def _poked(self, account_id: str, seconds: float) -> None:
        """Until somebody says that there is something new, or the time is over."""
        event = self._poke_of(account_id)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()
        event.clear()


async def _cut(account: Account) -> None:
    """Close the links of an account that is planned for elsewhere now: their agents dial again
    and are led there."""
    why = "another broker plans for this account now"
    await asyncio.gather(*(session.close(why) for session in account.sessions.values()))


def _in_background(work: Coroutine[Any, Any, None]) -> None:
    task = asyncio.create_task(work)
    _UNDER_WAY.add(task)
    task.add_done_callback(_UNDER_WAY.discard)


_UNDER_WAY: set[asyncio.Task[None]] = set()  # the event loop itself does not hold on to them
