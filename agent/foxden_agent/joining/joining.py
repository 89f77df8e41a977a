"""Joining a pool, and leaving it: each step can be broken off and done again.

The key is kept, and the pool noted, before the broker hears of either. Where its answer is lost,
the next try finds the same key, and the broker the same agent: no second use of the link is taken.
"""

from __future__ import annotations

import asyncio
import logging
import platform
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from foxden_agent import identity
from foxden_agent.joining import keys
from foxden_agent.joining.calls import Calls, calls
from foxden_agent.joining.errors import BadLink, JoinError, KeyLost, LinkRefused, NoSuchPool
from foxden_agent.joining.keystore import KeyStore
from foxden_agent.joining.pools import Pool, forget, keep, pools, same
from foxden_agent.joining.terms import Terms
from foxden_proto import join_links, proofs
from foxden_proto.join_links import JoinLink, JoinLinkError, Refusal
from foxden_proto.v1 import join_pb2 as pb

log = logging.getLogger(__name__)

_KEYS = 4  # tried for one enrolment: one that was lost, one that was revoked, a taken id


@dataclass(frozen=True)
class Joined:
    """This machine is in a pool. `pending`: its administrator has to say yes first."""

    pool: Pool
    pending: bool
    again: bool  # it was before


@dataclass(frozen=True)
class Left:
    """This machine is in a pool no more. `problems`: what could not be done, in sentences."""

    pool: Pool
    broker_told: bool
    problems: tuple[str, ...] = ()


async def look(link: str) -> Terms:
    """What a link is for. Raises BadLink, WrongBroker, BrokerUnreachable, LinkRefused."""
    read = _read(link)
    async with calls(read.address) as broker:
        told = await broker.post("/v1/join/look", pb.LookResponse, bearer=read.bearer)
    return Terms(read, told.account_id, told.account_name, told.approve, told.expires_ms)


def known(folder: Path, link: str) -> Pool | None:
    """The pool of this link, if this machine is in it or began to join it: its owner has agreed
    before. Raises BadLink."""
    read = _read(link)
    audience = proofs.audience(read.address)
    return next((one for one in pools(folder) if _is(one, read.account_id, audience)), None)


async def join(
    folder: Path,
    link: str,
    *,
    name: str = "",
    cards: Sequence[str] = (),
    fetch_engine: bool = False,
    keystore: KeyStore | None = None,
) -> Joined:
    """Enrol this machine. `name`: what people see (the machine's); `cards`: for the administrator;
    `fetch_engine`: the agent shall fetch what it draws with without asking its owner.

    Again with the same pool it is the same agent, and the link loses no use. Raises BadLink,
    WrongBroker, BrokerUnreachable, LinkRefused, KeyUnavailable, identity.HomeInUse while another
    join is under way, and OSError where the folder cannot be written.
    """
    read = _read(link)
    store = keystore or KeyStore(folder)
    with identity.only_one_joining(folder):
        async with calls(read.address) as broker:
            audience = proofs.audience(read.address)
            request = pb.EnrolRequest(
                agent_name=name or platform.node() or "a PC",
                agent_version=version("foxden"),
                cards=list(cards),
                audience=audience,
            )
            before = known(folder, link)
            pool = before or await _begin(folder, read, store)
            pool, answer = await _enrolled(broker, folder, read, request, pool, store)
        joined = replace(
            pool,
            account_name=answer.account_name,
            url=str(read.address),  # the same broker may be dialled elsewhere by now
            joined_ms=pool.joined_ms or int(time.time() * 1000),
            name=name or pool.name,
            fetch_engine=fetch_engine or pool.fetch_engine,
        )
        keep(folder, joined)
    again = before is not None and before.enrolled and before.key_id == pool.key_id
    return Joined(joined, answer.pending, again)


async def _enrolled(
    broker: Calls,
    folder: Path,
    read: JoinLink,
    request: pb.EnrolRequest,
    pool: Pool,
    store: KeyStore,
) -> tuple[Pool, pb.EnrolResponse]:
    """Enrol a pool's key; where that key, or this machine's id, can't be used, with another."""
    old = pool.key_id
    for _ in range(_KEYS):
        try:
            return pool, await _enrol(broker, read, request, pool, store)
        except KeyLost:
            pool = await _begin(folder, read, store)
        except LinkRefused as refused:
            if refused.why is Refusal.AGENT_REVOKED and pool.key_id == old:
                await store.delete(pool.key_id, pool.key_in)  # of no use any more
                pool = await _begin(folder, read, store)
            elif refused.why is Refusal.ID_TAKEN and _is_alone(folder, pool):
                # This home was copied from a machine that has joined, or its key was lost.
                (folder / "agent.json").unlink(missing_ok=True)
                pool = replace(pool, agent_id=identity.agent_id(folder))
                keep(folder, pool)
                log.warning("this machine's id is taken in that pool: it has a new one now")
            else:
                # Whoever is told to wait may be enrolled by a try whose answer was lost.
                if refused.why is not Refusal.TOO_MANY_TRIES:
                    await _undo(folder, pool, store)
                raise
    await _undo(folder, pool, store)
    raise LinkRefused("The broker takes none of this machine's keys: ask its administrator.")


async def leave(folder: Path, name: str = "", *, keystore: KeyStore | None = None) -> Left:
    """Leave a pool: named by account or broker, or the only one there is. What is here is deleted
    also where the broker cannot be told. Raises NoSuchPool, identity.HomeInUse while another join
    or leave is under way, and OSError where the folder cannot be written."""
    _chosen(folder, name)  # where nothing was joined, no lock is left behind either
    with identity.only_one_joining(folder):
        return await _left(folder, _chosen(folder, name), keystore or KeyStore(folder))


async def leave_all(folder: Path, *, keystore: KeyStore | None = None) -> list[Left]:
    """Leave every pool, and those that it began to join; all at once, since each broker that cannot
    be reached takes its time. Raises like `leave`, but that none is no error."""
    if not pools(folder):
        return []
    store = keystore or KeyStore(folder)
    with identity.only_one_joining(folder):
        return await asyncio.gather(*(_left(folder, pool, store) for pool in pools(folder)))


async def _left(folder: Path, pool: Pool, store: KeyStore) -> Left:
    problems = []
    told = False
    try:
        secret = await store.load(pool.key_id, pool.key_in)
        async with calls(pool.address) as broker:
            await _say_goodbye(broker, pool, secret)
        told = True
    except JoinError as error:
        problems.append(
            f"The broker was not told ({error}) Its administrator can remove this machine: "
            f"foxden agents revoke {pool.agent_id}"
        )
    forget(folder, pool)
    if remark := await store.delete(pool.key_id, pool.key_in):
        problems.append(f"Not all is gone: {remark}.")
    return Left(pool, told, tuple(problems))


def _read(link: str) -> JoinLink:
    try:
        return join_links.read(link)
    except JoinLinkError as error:
        raise BadLink(str(error)) from None


async def _begin(folder: Path, read: JoinLink, store: KeyStore) -> Pool:
    """A new key, kept, and noted as one that is not enrolled yet."""
    key_id = secrets.token_hex(8)
    kept = await store.keep(key_id, keys.new_key())
    agent_id = identity.agent_id(folder)
    pool = Pool(
        read.account_id,
        "",
        str(read.address),
        agent_id,
        key_id,
        kept.where,
        kept.remark,
        joined_ms=0,
    )
    keep(folder, pool)
    return pool


async def _enrol(
    broker: Calls, read: JoinLink, request: pb.EnrolRequest, pool: Pool, store: KeyStore
) -> pb.EnrolResponse:
    secret = await store.load(pool.key_id, pool.key_in)
    request.public_key = keys.public_key(secret)
    request.agent_id = pool.agent_id
    return await broker.post("/v1/join", pb.EnrolResponse, request, read.bearer)


async def _undo(folder: Path, pool: Pool, store: KeyStore) -> None:
    """A refused machine keeps nothing; one that had joined before stays as it was."""
    if not pool.enrolled:
        forget(folder, pool)
        await store.delete(pool.key_id, pool.key_in)


def _is_alone(folder: Path, pool: Pool) -> bool:
    """Whether nothing else hangs on the agent's id."""
    return not pool.enrolled and all(same(one, pool) for one in pools(folder))


def _is(pool: Pool, account_id: str, audience: str) -> bool:
    return pool.account_id == account_id and pool.audience == audience


async def _say_goodbye(broker: Calls, pool: Pool, secret: bytes) -> None:
    request = pb.LeaveRequest(account_id=pool.account_id, agent_id=pool.agent_id)
    told = await broker.post("/v1/join/leave", pb.LeaveResponse, request)
    request.nonce = told.nonce
    ids = (pool.account_id, pool.agent_id, pool.audience)
    statement = proofs.leave_statement(told.nonce, *ids)
    request.signature = keys.sign(secret, statement)
    await broker.post("/v1/join/leave", pb.LeaveResponse, request)


def _chosen(folder: Path, name: str) -> Pool:
    joined = pools(folder)
    fits = [pool for pool in joined if not name or pool.fits(name)]
    if len(fits) == 1:
        return fits[0]
    if not joined:
        raise NoSuchPool("This machine is in no pool: there is nothing to leave.")
    known = ", ".join(f"{pool.title} ({pool.account_id})" for pool in joined)
    if not fits:
        raise NoSuchPool(f"This machine is in no pool {name[:64]!r}. It is in {known}.")
    raise NoSuchPool(f"Say which pool: foxden leave ID. This machine is in {known}.")
