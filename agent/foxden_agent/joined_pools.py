"""Serves the pools that this machine has joined: a link for each, from the moment it joins.

The files that `foxden join` and `foxden leave` write are looked at once a second. What a pool's
broker says to a dial is shown by the state in `pools-now.json`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import Callable
from pathlib import Path

from foxden_agent import clock, identity
from foxden_agent.joining import keys
from foxden_agent.joining.errors import KeyLost, KeyUnavailable
from foxden_agent.joining.keystore import KeyStore
from foxden_agent.joining.pools import FILE, Pool, pools, say_now
from foxden_agent.link_driver import LinkDriver, LinkRefused
from foxden_agent.links import Links, Served
from foxden_agent.owner_first import OwnerFirst
from foxden_agent.pictures import PictureSender
from foxden_proto import proofs
from foxden_proto.address import Address
from foxden_proto.link import AgentLink
from foxden_proto.programs import watched
from foxden_proto.trust import WrongBroker, tls_context

log = logging.getLogger(__name__)

_LOOK = 1.0  # seconds between two looks at the files


class IdentityChanged(Exception):
    """This installation has another id since it joined: all has to start again with it."""


class JoinedPools:
    """All pools of an agent. `alone`: there is nobody else to serve; then the last pool's refusal
    ends the program."""

    def __init__(
        self,
        folder: Path,
        agent_id: str,
        links: Links,
        owner: OwnerFirst,
        *,
        alone: bool,
        online: Callable[[], None] = lambda: None,
        keystore: KeyStore | None = None,
    ) -> None:
        self._folder = folder
        self._agent_id = agent_id
        self._links = links
        self._owner = owner
        self._alone = alone
        self._online = online
        self._keystore = keystore or KeyStore(folder)
        self._serving: dict[str, tuple[Pool, asyncio.Task[None]]] = {}  # by key_id
        self._states: dict[str, tuple[str, str]] = {}
        self._refused: dict[str, LinkRefused] = {}  # by key_id
        self._news = asyncio.Event()  # of the states
        self._unwritten = False
        self._over = False

    async def run(self) -> None:
        """Serve whatever there is, until cancelled. Raises IdentityChanged, and LinkRefused where
        no pool is left that wants this machine, and nobody else."""
        seen: object = None
        telling = asyncio.create_task(self._tell(), name="what pools say")
        try:
            while True:
                stamp = _stamp(self._folder / FILE)
                if stamp != seen:
                    seen = stamp
                    await self._follow(await asyncio.to_thread(pools, self._folder))
                for task in (telling, *(task for _, task in self._serving.values())):
                    if task.done():
                        task.result()  # what is unforeseen ends the program
                wanted = any(not task.done() for _, task in self._serving.values())
                if self._refused and self._alone and not wanted:
                    raise next(iter(self._refused.values()))
                if self._unwritten:
                    self._news.set()
                await asyncio.sleep(_LOOK)
        finally:
            await self._stop(list(self._serving))
            self._states.clear()
            self._over = True
            self._news.set()
            await telling

    async def _follow(self, joined: list[Pool]) -> None:
        """Serve what has been joined; serve no more what was left or joined anew."""
        wanted = {pool.key_id: pool for pool in joined if pool.enrolled}
        gone = [
            key_id
            for key_id, (pool, _) in self._serving.items()
            if key_id not in wanted or wanted[key_id].url != pool.url
        ]
        await self._stop(gone)
        for key_id, pool in wanted.items():
            if key_id in self._serving:
                continue
            # Its id was another machine's, and was changed when it joined. The cards are named
            # for it: all of it starts again.
            if pool.agent_id == identity.agent_id(self._folder) != self._agent_id:
                raise IdentityChanged(f"this machine is {pool.agent_id} since it joined")
            serving = self._serve(pool)
            self._serving[key_id] = (pool, asyncio.create_task(serving, name=f"pool {pool.title}"))
        self._news.set()

    async def _stop(self, key_ids: list[str]) -> None:
        tasks = [self._serving.pop(key_id)[1] for key_id in key_ids]
        for key_id in key_ids:
            self._states.pop(key_id, None)
            self._refused.pop(key_id, None)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, pool: Pool) -> None:
        """One pool's link, for as long as the pool wants it."""
        await self._owner.first.wait()  # nobody knows before whether the owner plays
        if pool.key_remark:
            log.warning("%s: its key is in a file: the keyring %s", pool.title, pool.key_remark)
        secret = await self._key(pool)
        while secret is not None:
            try:
                await self._link(pool, secret)
            except LinkRefused as error:
                self._say(pool, "refused", str(error))
                # `foxden leave` tells the broker first: its refusal comes before the entry is gone.
                await asyncio.sleep(_LOOK)
                self._refused[pool.key_id] = error
                return
            except WrongBroker as error:
                # Maybe a network that looks into everything, and another one tomorrow: nothing
                # was said to it, and nothing will be.
                self._say(pool, "wrong_broker", f"{error}; it is tried again now and then")
                await asyncio.sleep(self._links.timers.reconnect_most)

    async def _key(self, pool: Pool) -> bytes | None:
        while True:
            try:
                return await self._keystore.load(pool.key_id, pool.key_in)
            except KeyLost as error:
                self._refused[pool.key_id] = LinkRefused(str(error))
                self._say(pool, "refused", str(error))
                return None
            except KeyUnavailable as error:
                self._say(pool, "no_key", str(error))
                await asyncio.sleep(self._links.timers.reconnect_most)

    async def _link(self, pool: Pool, secret: bytes) -> None:
        def prove(nonce: bytes) -> bytes:
            ids = (pool.account_id, pool.agent_id, pool.audience)
            return keys.sign(secret, proofs.link_statement(nonce, *ids))

        hello = self._links.hello(pool.agent_id)
        link = AgentLink(self._links.timers, hello, clock.now(), prove)
        tls = tls_once(pool.address)
        sender = PictureSender(pool.address, tls)

        def changed(state: str, reason: str) -> None:
            self._say(pool, state, reason)
            if state == "online":
                self._online()

        # A broker that was set up anew has the old one's account and address.
        name = f"{pool.title} ({pool.account_id}, key {pool.key_id})"
        served = Served(name, False, link, sender, changed)
        driver = LinkDriver(
            link,
            pool.address,
            "",
            on_event=lambda event: self._links.handle(served, event),
            readings=lambda: (self._owner.told(), self._links.modes_for(served)),
            tls=tls,
            authorization=proofs.authorization(pool.account_id, pool.agent_id),
            on_lost=lambda why: changed("offline", f"its broker is not reached ({why})"),
        )
        served.driver = driver
        self._links.add(served)
        try:
            async with watched([("link", driver.run()), ("clock", driver.keep_time())]) as failed:
                await failed
        finally:
            self._links.remove(served)
            await sender.close()

    def _say(self, pool: Pool, state: str, reason: str) -> None:
        if self._states.get(pool.key_id) == (state, reason):
            return
        self._states[pool.key_id] = (state, reason)
        told = f": {reason}" if reason else ""
        if state != "offline":  # of that the link's driver has told more
            (log.info if state == "online" else log.warning)("%s: %s%s", pool.title, state, told)
        self._news.set()

    async def _tell(self) -> None:
        """Write down what the pools say, on a thread: a disk that is slow must not hold up the
        links, nor a full one end them."""
        over = False
        while not over:
            await self._news.wait()
            self._news.clear()
            over = self._over
            try:
                await asyncio.to_thread(say_now, self._folder, dict(self._states))
                self._unwritten = False
            except OSError as error:
                if not self._unwritten:
                    log.warning(
                        "what the pools say cannot be written into %s (%s): see that it can be "
                        "written and has space; all pools are served, and it is tried again",
                        *(self._folder, error.strerror or error),
                    )
                self._unwritten = True


def tls_once(address: Address) -> Callable[[], ssl.SSLContext | None]:
    """The TLS settings, made when first needed (the pinned CA is fetched) and kept."""
    kept: list[ssl.SSLContext | None] = []

    def tls() -> ssl.SSLContext | None:
        if not kept:
            kept.append(tls_context(address))
        return kept[0]

    return tls


def _stamp(path: Path) -> object:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_ino, found.st_size)
