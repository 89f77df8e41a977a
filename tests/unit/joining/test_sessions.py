"""Joined machines at work with a real broker: proofs, approval, revocation, leaving."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import threading
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from machine import Machine, card_info
from websockets.asyncio.client import ClientConnection, connect

import foxden
from foxden_agent import identity, joined_pools, joining
from foxden_agent.joined_pools import IdentityChanged
from foxden_agent.joining import keys
from foxden_agent.joining.pools import say_now, write
from foxden_agent.link_driver import LinkRefused
from foxden_agent.pictures import PictureRefused, PictureSender
from foxden_proto import limits, proofs, trust
from foxden_proto.address import CERTIFICATE_NAME
from foxden_proto.v1 import link_pb2 as pb

Den = Any  # of conftest.py
SIZE = {"width": 64, "height": 64, "steps": 4}


async def online(machine: Machine, seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        await machine.online.wait()


@asynccontextmanager
async def dialled(den: Den, authorization: str) -> Any:
    """A bare WebSocket to the broker, for those who do what no agent does."""
    context = await asyncio.to_thread(trust.tls_context, den.address)
    assert isinstance(context, ssl.SSLContext)
    async with connect(
        f"{den.address.http_url.replace('http', 'ws', 1)}/v1/link",
        additional_headers={"Authorization": authorization},
        ssl=context,
        server_hostname=CERTIFICATE_NAME,
        proxy=None,
    ) as connection:
        yield connection


async def heard(connection: ClientConnection) -> pb.BrokerFrame:
    async with asyncio.timeout(10):
        data = await connection.recv()
    assert isinstance(data, bytes)
    return pb.BrokerFrame.FromString(data)


async def say(connection: ClientConnection, **frame: Any) -> None:
    await connection.send(pb.AgentFrame(**frame).SerializeToString())


async def test_joined_machine_is_online_by_its_key_and_gets_work(den: Den, eventually: Any) -> None:
    pc = den.machine()
    await pc.join(await den.link())
    async with pc.serving():
        await online(pc)
        (agent,) = await den.admin().agents()
        assert agent.state == "online"
        await den.admin().submit("a red cube", **SIZE)
        await eventually(lambda: pc.worker.images)
        (pool,) = joining.pools(pc.folder)
        assert pool.state == "online"
    (pool,) = joining.pools(pc.folder)
    assert pool.state == ""


async def test_agent_whose_id_changes_when_it_joins_starts_again_with_it(den: Den) -> None:
    """Its home was copied from a machine that has joined."""
    first, copy = den.machine("first"), den.machine("copy")
    link = await den.link(uses=2)
    await first.join(link)
    copy.folder.mkdir(parents=True)
    shutil.copy(first.folder / "agent.json", copy.folder)
    async with copy.serving() as running:
        joined_as = (await copy.join(link)).pool.agent_id
        with pytest.raises(IdentityChanged, match=joined_as):
            async with asyncio.timeout(10):
                await running
    async with copy.serving(), first.serving():
        await online(copy)
        await online(first)


async def test_machine_that_joins_while_its_agent_runs_is_online_by_itself(den: Den) -> None:
    pc = den.machine()
    async with pc.serving():
        await pc.join(await den.link())
        await online(pc)


async def test_machine_waits_for_a_yes_says_so_and_is_online_soon_after_it(
    den: Den, eventually: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pc = den.machine()
    joined = await pc.join(await den.link(approve=True), name="kitchen")
    assert joined.pending
    async with pc.serving():
        await eventually(lambda: joining.pools(pc.folder)[0].state == "waits")
        assert "foxden agents approve" in joining.pools(pc.folder)[0].state_reason
        (agent,) = await den.admin().agents()
        assert agent.state == "waits for approval"
        # It stays for longer than an agent bears silence: it is told again and again.
        assert pc.links is not None
        handle, told = pc.links.handle, []
        monkeypatch.setattr(pc.links, "handle", lambda *said: told.append(said) or handle(*said))
        await eventually(lambda: len(told) * pc.timers.heartbeat > 1.2 * pc.timers.silent)
        assert all(isinstance(event, pb.Pending) for _, event in told)
        assert joining.pools(pc.folder)[0].state == "waits"
        assert not pc.online.is_set()
        assert await den.admin().cards() == []
        await den.admin().approve_agent("kitch")
        await online(pc, 5)


async def test_machine_that_waits_is_revoked_instead(den: Den) -> None:
    pc = den.machine()
    await pc.join(await den.link(approve=True), name="kitchen")
    async with pc.serving(alone=True) as running:
        await den.admin().revoke_agent("kitchen")
        with pytest.raises(LinkRefused, match="shut out"):
            async with asyncio.timeout(10):
                await running
    with pytest.raises(foxden.InvalidRequest, match="a new join link"):
        await den.admin().approve_agent("kitchen")


async def test_revocation_closes_the_link_at_once_and_its_images_go_elsewhere(
    den: Den, eventually: Any
) -> None:
    link = await den.link(uses=2)
    bad, good = den.machine("bad"), den.machine("good")
    await bad.join(link, name="bad")
    await good.join(link, name="good")
    async with bad.serving(alone=True) as running:
        await online(bad)
        job = await den.admin().submit("a red cube", **SIZE)
        await eventually(lambda: bad.worker.images)
        ((key, task),) = bad.worker.images.items()
        begun = asyncio.get_running_loop().time()
        await den.admin().revoke_agent("bad")
        with pytest.raises(LinkRefused, match="shut out"):
            async with asyncio.timeout(5):
                await running
        assert asyncio.get_running_loop().time() - begun < 5
        assert bad.worker.dropped == [key]
        assert await den.admin().cards() == []
        # What it still sends is refused: its lease is over.
        tls = await asyncio.to_thread(trust.tls_context, den.address)
        sender = PictureSender(den.address, lambda: tls)
        with pytest.raises(PictureRefused) as refused:
            await sender.put(task.upload_path, task.upload_token, b"late", lambda: True)
        assert refused.value.stale
        await sender.close()
    async with good.serving():
        await eventually(lambda: good.worker.images)
        assert {k.job_id for k in good.worker.images} == {job.id}
    states = {agent.name: agent.state for agent in await den.admin().agents()}
    assert states == {"bad": "revoked", "good": "offline"}


async def test_machine_that_leaves_while_its_agent_runs_goes_offline_and_its_image_is_free(
    den: Den, eventually: Any
) -> None:
    pc, other = den.machine("pc"), den.machine("other")
    link = await den.link(uses=2)
    await pc.join(link)
    await other.join(link)
    async with pc.serving():
        await online(pc)
        await den.admin().submit("a red cube", **SIZE)
        await eventually(lambda: pc.worker.images)
        left = await joining.leave(pc.folder, keystore=pc.keystore)
        assert left.broker_told
        await eventually(lambda: pc.worker.dropped)
        async with other.serving():
            await eventually(lambda: other.worker.images)
    assert len(await den.admin().agents()) == 1


async def test_broker_that_restarts_knows_its_agents(den: Den, eventually: Any) -> None:
    pc = den.machine()
    await pc.join(await den.link())
    async with pc.serving():
        await online(pc)
        await den.stop()
        pc.online.clear()
        await den.start()

        async def is_back() -> bool:
            return [one.state for one in await den.admin().agents()] == ["online"]

        await eventually(is_back)


async def test_pool_is_shown_as_offline_while_its_broker_is_away(den: Den, eventually: Any) -> None:
    pc = den.machine()
    await pc.join(await den.link())

    def state() -> str:
        return str(joining.pools(pc.folder)[0].state)

    async with pc.serving():
        await eventually(lambda: state() == "online")
        await den.stop()
        await eventually(lambda: state() == "offline")
        assert joining.pools(pc.folder)[0].state_reason
        await den.start()
        await eventually(lambda: state() == "online")


async def test_state_that_cannot_be_written_is_said_once_and_ends_nothing(
    den: Den, eventually: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[None] = []
    monkeypatch.setattr(
        *(joined_pools, "say_now", lambda *said: tried.append(None) or say_now(*said))
    )
    monkeypatch.setattr(joined_pools, "_LOOK", 0.1)
    pc = den.machine()
    await pc.join(await den.link())
    (pc.folder / "pools-now.json").mkdir()
    async with pc.serving(alone=True) as running:
        await online(pc)
        await eventually(lambda: len(tried) > 3)
        assert not running.done()
        assert caplog.text.count("cannot be written") == 1
        (pc.folder / "pools-now.json").rmdir()
        await eventually(lambda: joining.pools(pc.folder)[0].state == "online")


async def test_slow_disk_holds_up_no_link(den: Den, monkeypatch: pytest.MonkeyPatch) -> None:
    done = threading.Event()
    held_up: list[bool] = []
    monkeypatch.setattr(joined_pools, "say_now", lambda *_: held_up.append(not done.wait(5)))
    pc = den.machine()
    await pc.join(await den.link())
    async with pc.serving():
        await online(pc)
        done.set()
    assert held_up
    assert not any(held_up)


class Ring:
    """A keyring in memory, that may be locked."""

    def __init__(self) -> None:
        self.kept: dict[str, str] = {}
        self.locked = False

    def _open(self) -> None:
        if self.locked:
            raise RuntimeError("locked")

    def set_password(self, _service: str, username: str, password: str, /) -> None:
        self._open()
        self.kept[username] = password

    def get_password(self, _service: str, username: str, /) -> str | None:
        self._open()
        return self.kept.get(username)

    def delete_password(self, _service: str, username: str, /) -> None:
        self._open()
        del self.kept[username]


async def test_keyring_that_is_locked_when_the_agent_starts_is_waited_for(
    den: Den, eventually: Any
) -> None:
    pc, ring = den.machine(), Ring()
    pc.keystore = joining.KeyStore(pc.folder, library=lambda: ring)
    await pc.join(await den.link())
    ring.locked = True
    async with pc.serving(alone=True):
        await eventually(lambda: joining.pools(pc.folder)[0].state == "no_key")
        assert "unlock the keyring" in joining.pools(pc.folder)[0].state_reason
        ring.locked = False
        await online(pc)


async def test_key_that_is_gone_when_the_agent_starts_ends_it_with_what_to_do(den: Den) -> None:
    pc, ring = den.machine(), Ring()
    pc.keystore = joining.KeyStore(pc.folder, library=lambda: ring)
    await pc.join(await den.link())
    ring.kept.clear()
    async with pc.serving(alone=True) as running:
        with pytest.raises(LinkRefused, match="ask for a new link"):
            async with asyncio.timeout(10):
                await running


async def test_broker_with_another_certificate_is_told_nothing_and_tried_again(
    den: Den, eventually: Any
) -> None:
    pc = den.machine()
    await pc.join(await den.link())
    await den.stop()
    await den.start("anew")  # at the same address
    async with pc.serving(alone=True) as running:
        await eventually(lambda: joining.pools(pc.folder)[0].state == "wrong_broker")
        assert "current address" in joining.pools(pc.folder)[0].state_reason
        await den.stop()
        await den.start()  # the right one is back
        await online(pc)
        assert not running.done()


async def test_pool_that_was_set_up_anew_with_its_old_account_is_served_beside_the_old_entry(
    den: Den, eventually: Any
) -> None:
    pc = den.machine()
    await pc.join(await den.link())
    await den.stop()
    await den.start("anew")  # at the same address
    await pc.join(await den.link())
    first, second = joining.pools(pc.folder)
    old, new = (first, second) if den.address.pin in second.url else (second, first)
    write(pc.folder, [replace(old, account_id=new.account_id), new])
    async with pc.serving(alone=True) as running:
        states = {old.key_id: "wrong_broker", new.key_id: "online"}
        await eventually(
            lambda: {one.key_id: one.state for one in joining.pools(pc.folder)} == states
        )
        await den.admin().submit("a red cube", **SIZE)
        await eventually(lambda: pc.worker.images)
        assert not running.done()


async def test_agent_that_waits_holds_one_connection_and_no_more(den: Den) -> None:
    pc = den.machine()
    pool = (await pc.join(await den.link(approve=True))).pool
    secret = await pc.keystore.load(pool.key_id, pool.key_in)
    header = proofs.authorization(pool.account_id, pool.agent_id)
    async with dialled(den, header) as first, dialled(den, header) as second:
        for connection in (first, second):
            nonce = (await heard(connection)).challenge.nonce
            await say(connection, proof=pb.Proof(signature=signed(secret, nonce, pool)))
            assert (await heard(connection)).WhichOneof("frame") == "pending"
        while (frame := await heard(first)).WhichOneof("frame") == "pending":
            pass
        assert "another connection" in frame.rejected.reason


# What no agent does


async def joined(den: Den, name: str = "pc") -> tuple[joining.Pool, bytes]:
    pc = den.machine(name)
    pool = (await pc.join(await den.link())).pool
    return pool, await pc.keystore.load(pool.key_id, pool.key_in)


def signed(secret: bytes, nonce: bytes, pool: joining.Pool, **other: str) -> bytes:
    values = {"account": pool.account_id, "agent": pool.agent_id, "broker": pool.audience} | other
    ids = (values["account"], values["agent"], values["broker"])
    return keys.sign(secret, proofs.link_statement(nonce, *ids))


async def test_proof_that_is_none_gets_nobody_in(den: Den) -> None:
    pool, secret = await joined(den)
    ids = (pool.account_id, pool.agent_id, pool.audience)
    wrong: dict[str, Callable[[bytes], bytes]] = {
        "another key": lambda nonce: signed(keys.new_key(), nonce, pool),
        "another nonce": lambda _: signed(secret, b"n" * 32, pool),
        "another broker": lambda nonce: signed(secret, nonce, pool, broker="pin:" + "0" * 64),
        "another agent": lambda nonce: signed(secret, nonce, pool, agent="agent-2"),
        "to leave": lambda nonce: keys.sign(secret, proofs.leave_statement(nonce, *ids)),
        "nothing": lambda _: b"\x00" * 64,
    }
    for how, proof in wrong.items():
        async with dialled(den, proofs.authorization(pool.account_id, pool.agent_id)) as connection:
            nonce = (await heard(connection)).challenge.nonce
            assert len(nonce) == proofs.NONCE_BYTES
            await say(connection, proof=pb.Proof(signature=proof(nonce)))
            told = await heard(connection)
        assert told.rejected.final, how
        assert "does not know this agent's key" in told.rejected.reason


async def test_unknown_agent_hears_the_same_as_one_with_a_wrong_key(den: Den) -> None:
    pool, _ = await joined(den)
    reasons = set()
    for account, agent in [
        (pool.account_id, pool.agent_id),
        (pool.account_id, "agent-nobody"),
        ("elsewhere", pool.agent_id),
        (pool.account_id, "x" * 200),
    ]:
        async with dialled(den, proofs.authorization(account, agent)) as connection:
            assert len((await heard(connection)).challenge.nonce) == 32
            await say(connection, proof=pb.Proof(signature=b"\x01" * 64))
            reasons.add((await heard(connection)).rejected.reason)
    assert len(reasons) == 1


async def test_proof_of_another_connection_is_worth_nothing(den: Den) -> None:
    pool, secret = await joined(den)
    header = proofs.authorization(pool.account_id, pool.agent_id)
    async with dialled(den, header) as first, dialled(den, header) as second:
        one, other = [(await heard(c)).challenge.nonce for c in (first, second)]
        assert one != other
        await say(second, proof=pb.Proof(signature=signed(secret, one, pool)))
        assert (await heard(second)).rejected.final
        await say(first, proof=pb.Proof(signature=signed(secret, one, pool)))
        assert (await heard(first)).WhichOneof("frame") == "admitted"


async def test_who_says_something_else_than_a_proof_or_nothing_is_turned_away(den: Den) -> None:
    pool, _ = await joined(den)
    frames: list[dict[str, Any]] = [{"hello": pb.Hello()}, {"proof": pb.Proof(signature=b"s")}, {}]
    for frame in frames:
        async with dialled(den, proofs.authorization(pool.account_id, pool.agent_id)) as connection:
            await heard(connection)
            if frame:
                await say(connection, **frame)
            assert (await heard(connection)).WhichOneof("frame") == "rejected"


async def test_agent_with_a_key_is_nobody_else(den: Den) -> None:
    pool, secret = await joined(den)
    async with dialled(den, proofs.authorization(pool.account_id, pool.agent_id)) as connection:
        nonce = (await heard(connection)).challenge.nonce
        await say(connection, proof=pb.Proof(signature=signed(secret, nonce, pool)))
        await heard(connection)
        hello = pb.Hello(protocol=limits.LINK_PROTOCOL, agent_id="agent-another")
        await say(connection, hello=hello)
        told = (await heard(connection)).rejected
    assert told.final
    assert "agent-another" in told.reason


async def test_token_does_not_get_anybody_into_the_place_of_an_agent_with_a_key(den: Den) -> None:
    pool, _ = await joined(den)
    token = (await den.admin().create_token("agents", ["agent"])).secret
    for agent_id, frame in ((pool.agent_id, "rejected"), ("agent-with-token", "welcome")):
        async with dialled(den, f"Bearer {token}") as connection:
            hello = pb.Hello(protocol=limits.LINK_PROTOCOL, agent_id=agent_id)
            await say(connection, hello=hello)
            assert (await heard(connection)).WhichOneof("frame") == frame


async def test_link_does_not_get_anybody_into_the_place_of_an_agent_with_a_token(den: Den) -> None:
    token = (await den.admin().create_token("agents", ["agent"])).secret
    pc, link = den.machine(), await den.link(approve=True)
    agent_id = identity.agent_id(pc.folder)
    async with dialled(den, f"Bearer {token}") as connection:
        cards = [card_info(f"{agent_id}.cpu")]
        hello = pb.Hello(protocol=limits.LINK_PROTOCOL, agent_id=agent_id, cards=cards)
        await say(connection, hello=hello)
        assert (await heard(connection)).WhichOneof("frame") == "welcome"
        joined = await pc.join(link)
        assert joined.pool.agent_id != agent_id
        assert (await joining.leave(pc.folder, keystore=pc.keystore)).broker_told
        assert [card.id for card in await den.admin().cards()] == [cards[0].card_id]


async def test_enrolment_by_hand_shows_that_the_broker_keeps_no_private_key(den: Den) -> None:
    _, secret = await joined(den)
    database = (den._folder / "broker" / "broker").rglob("foxden.db*")
    for path in database:
        assert secret not in path.read_bytes()


async def test_only_pool_that_is_left_while_its_agent_runs_ends_it_not(
    den: Den, eventually: Any
) -> None:
    pc = den.machine()
    await pc.join(await den.link())
    async with pc.serving(alone=True) as running:
        await online(pc)
        await joining.leave(pc.folder, keystore=pc.keystore)
        pc.online.clear()
        await pc.join(await den.link())
        await online(pc)
        assert not running.done()


async def test_agent_that_is_revoked_between_its_proof_and_its_hello_is_not_let_in(
    den: Den,
) -> None:
    pool, secret = await joined(den)
    async with dialled(den, proofs.authorization(pool.account_id, pool.agent_id)) as connection:
        nonce = (await heard(connection)).challenge.nonce
        await say(connection, proof=pb.Proof(signature=signed(secret, nonce, pool)))
        await heard(connection)
        await den.admin().revoke_agent(pool.agent_id)
        hello = pb.Hello(protocol=limits.LINK_PROTOCOL, agent_id=pool.agent_id)
        await say(connection, hello=hello)
        assert "shut out" in (await heard(connection)).rejected.reason
