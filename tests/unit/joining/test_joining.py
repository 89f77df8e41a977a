"""Machines join a real broker, by real calls: situation × what the owner does → outcome."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest
from machine import Machine

import foxden
from foxden_agent import identity, joining
from foxden_agent.joining import calls as joining_calls
from foxden_agent.joining import keys
from foxden_broker.account import now_ms
from foxden_broker.joining import enrolled
from foxden_broker.joining import http as joining_http
from foxden_proto import join_links, proofs, trust
from foxden_proto.join_links import Refusal
from foxden_proto.v1 import join_pb2

Den = Any  # of conftest.py


async def agents(den: Den) -> list[foxden.pool.Agent]:
    found: list[foxden.pool.Agent] = await den.admin().agents()
    return found


async def test_looking_tells_the_terms_and_uses_up_nothing(den: Den) -> None:
    link = await den.link(approve=True)
    for _ in range(2):
        terms = await joining.look(link)
    assert (terms.account_name, terms.approve) == ("main", True)
    assert terms.broker == den.address.grpc_target
    assert den.address.pin[:16] in terms.known_by
    assert terms.may
    assert terms.never
    assert [one.used for one in await den.admin().join_links()] == [0]


async def test_joined_machine_is_listed_with_its_name_cards_and_where_it_came_from(
    den: Den,
) -> None:
    pc = den.machine()
    joined = await pc.join(await den.link(), name="kitchen\x1b[2J", cards=["RTX 4090"])
    assert (joined.pending, joined.again) == (False, False)
    (agent,) = await agents(den)
    assert (agent.name, agent.cards, agent.state) == ("kitchen[2J", ("RTX 4090",), "offline")
    assert agent.joined_from in ("127.0.0.1", "::1")
    (pool,) = joining.pools(pc.folder)
    assert (pool.account_name, pool.agent_id, pool.enrolled) == ("main", agent.id, True)
    assert pool.key_in == "file"
    assert "not installed" in pool.key_remark


async def test_no_file_but_the_key_and_no_log_holds_a_secret(
    den: Den, written: Callable[[], str]
) -> None:
    pc = den.machine()
    link = await den.link()
    await joining.look(link)
    await pc.join(link)
    secret = join_links.read(link).secret
    key = (pc.folder / "keys" / f"{joining.pools(pc.folder)[0].key_id}.key").read_text()
    for one in pc.folder.parent.parent.rglob("*"):
        if one.is_file() and one.suffix != ".key":
            data = one.read_bytes()
            assert secret.encode() not in data, one
            assert key.encode() not in data, one
    assert secret not in written()
    assert key not in written()
    assert "has joined" in written()


async def test_joining_again_is_the_same_agent_and_takes_no_use_also_when_the_link_is_over(
    den: Den,
) -> None:
    pc, link = den.machine(), await den.link()
    first = await pc.join(link)
    (made,) = await den.admin().join_links()
    await den.admin().revoke_join_link(made.id)
    again = await pc.join(link)
    assert again.again
    assert replace(again.pool, joined_ms=0) == replace(first.pool, joined_ms=0)
    assert len(await agents(den)) == 1
    assert joining.known(pc.folder, link) is not None


async def test_answer_that_was_lost_burns_no_second_use(
    den: Den, monkeypatch: pytest.MonkeyPatch
) -> None:
    pc, link = den.machine(), await den.link()
    once = joining_calls.Calls._once
    lost = 0

    async def loses_the_first_answers(self: Any, path: str, *rest: Any) -> Any:
        nonlocal lost
        answer = await once(self, path, *rest)
        if path == "/v1/join" and lost < 3:
            lost += 1
            raise httpx.ReadError("cut")
        return answer

    monkeypatch.setattr(joining_calls, "_TRIES", (0.0, 0.0, 0.0))
    monkeypatch.setattr(joining_calls.Calls, "_once", loses_the_first_answers)
    with pytest.raises(joining.BrokerUnreachable, match="Nothing is used up"):
        await pc.join(link)
    (begun,) = joining.pools(pc.folder)
    assert not begun.enrolled
    joined = await pc.join(link)
    assert (joined.pool.agent_id, joined.pool.key_id) == (begun.agent_id, begun.key_id)
    assert [one.used for one in await den.admin().join_links()] == [1]
    assert len(await agents(den)) == 1


# Links that let nobody in


async def spoil(den: Den, how: str, monkeypatch: pytest.MonkeyPatch) -> str:
    admin = den.admin()
    if how == "used up":
        link = await den.link()
        await den.machine("before").join(link)
        return link
    link = await den.link()
    (made,) = await admin.join_links()
    if how == "expired":
        monkeypatch.setattr(joining_http, "now_ms", lambda: now_ms() + 3_600_000)
    else:
        await admin.revoke_join_link(made.id)
    return link


@pytest.mark.parametrize(
    ("how", "why", "words"),
    [
        ("used up", Refusal.USED_UP, "as many machines"),
        ("expired", Refusal.EXPIRED, "expired"),
        ("revoked", Refusal.REVOKED, "revoked"),
    ],
)
async def test_link_that_is_over_is_refused_in_words_and_nothing_is_left(
    den: Den, how: str, why: Refusal, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = await spoil(den, how, monkeypatch)
    pc = den.machine()
    for do in (lambda: joining.look(link), lambda: pc.join(link)):
        with pytest.raises(joining.LinkRefused, match=words) as caught:
            await do()
        assert caught.value.why is why
        assert "ask your administrator" in str(caught.value)
    assert joining.pools(pc.folder) == []
    assert not (pc.folder / "keys").exists()


async def test_why_a_link_is_over_is_told_only_to_who_has_its_secret(
    den: Den, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = join_links.read(await spoil(den, "revoked", monkeypatch))
    other = ("b" if link.secret[0] == "a" else "a") + link.secret[1:]
    for guess in (replace(link, secret=other), replace(link, link_id="abcdefgh")):
        with pytest.raises(joining.LinkRefused, match="does not know this link") as caught:
            await joining.look(guess.text())
        assert caught.value.why is Refusal.UNKNOWN


async def test_link_for_another_broker_or_account_is_unknown_here(den: Den) -> None:
    link = join_links.read(await den.link())
    with pytest.raises(joining.LinkRefused, match="another broker's"):
        await joining.look(replace(link, account_id="elsewher").text())


async def test_who_tries_many_wrong_links_has_to_wait_and_others_do_not_notice(den: Den) -> None:
    link = join_links.read(await den.link())
    wrong = replace(link, secret="b" * 26).text()
    reasons = []
    for _ in range(12):
        with pytest.raises(joining.LinkRefused) as caught:
            await joining.look(wrong)
        reasons.append(caught.value.why)
    assert reasons[:10] == [Refusal.UNKNOWN] * 10
    assert reasons[10:] == [Refusal.TOO_MANY_TRIES] * 2
    assert 0 < caught.value.retry_after <= 60
    assert (await den.machine().join(link.text())).pool.enrolled  # from the same address
    assert len(await den.admin().models()) == 0  # the broker's other doors are open


async def test_machine_that_is_told_to_wait_keeps_its_key_for_the_next_try(
    den: Den, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier try, whose answer was lost, may have enrolled it."""
    wrong = replace(join_links.read(await den.link()), secret="b" * 26).text()
    monkeypatch.setattr(enrolled, "_REMEMBER_SECONDS", 600)
    for _ in range(11):
        with pytest.raises(joining.LinkRefused):
            await joining.look(wrong)
    pc, link = den.machine(), await den.link()  # newer than what the broker remembers
    with pytest.raises(joining.LinkRefused, match="Too many wrong links"):
        await pc.join(link)
    (begun,) = joining.pools(pc.folder)
    assert not begun.enrolled
    monkeypatch.setattr(enrolled, "_REMEMBER_SECONDS", 0)
    joined = await pc.join(link)
    assert (joined.pool.key_id, joined.pool.enrolled) == (begun.key_id, True)


async def test_thirty_uses_let_in_thirty_who_come_at_once_and_not_one_more(den: Den) -> None:
    link = await den.link(uses=6)
    come = [den.machine(f"pc{n}").join(link) for n in range(9)]
    done = await asyncio.gather(*come, return_exceptions=True)
    refused = [one for one in done if isinstance(one, joining.LinkRefused)]
    assert len(refused) == 3
    assert {one.why for one in refused} == {Refusal.USED_UP}
    assert len(await agents(den)) == 6


# Identities and keys


async def test_copied_home_joins_as_a_machine_of_its_own(den: Den) -> None:
    link = await den.link(uses=2)
    first, copy = den.machine("first"), den.machine("copy")
    first.folder.mkdir(parents=True)
    identity.agent_id(first.folder)
    shutil.copytree(first.folder, copy.folder)
    one, other = await first.join(link), await copy.join(link)
    assert one.pool.agent_id != other.pool.agent_id
    assert identity.agent_id(copy.folder) == other.pool.agent_id
    assert len(await agents(den)) == 2


async def test_machine_that_lost_its_key_joins_with_a_new_one(den: Den) -> None:
    link = await den.link(uses=2)
    pc = den.machine()
    before = await pc.join(link)
    shutil.rmtree(pc.folder / "keys")
    after = await pc.join(link)
    assert after.pool.key_id != before.pool.key_id
    assert not after.again


async def test_revoked_machine_joins_again_by_a_new_link_with_a_new_key(den: Den) -> None:
    pc = den.machine()
    before = await pc.join(await den.link())
    await den.admin().revoke_agent(before.pool.agent_id)
    after = await pc.join(await den.link())
    assert after.pool.agent_id == before.pool.agent_id
    assert after.pool.key_id != before.pool.key_id
    (agent,) = await agents(den)
    assert agent.revoked is None


async def test_revoked_machine_does_not_come_back_by_the_link_it_came_by(den: Den) -> None:
    pc, link = den.machine(), await den.link(uses=9)
    before = await pc.join(link)
    await den.admin().revoke_agent(before.pool.agent_id)
    for _ in range(2):
        with pytest.raises(joining.LinkRefused, match="shut out") as caught:
            await pc.join(link)
        assert caught.value.why is Refusal.AGENT_REVOKED
    assert not (pc.folder / "keys").exists()
    assert [one.used for one in await den.admin().join_links()] == [1]


async def test_revoked_machine_that_leaves_stays_shut_out(den: Den) -> None:
    pc, link = den.machine(), await den.link(uses=9)
    before = await pc.join(link)
    await den.admin().revoke_agent(before.pool.agent_id)
    assert (await joining.leave(pc.folder, keystore=pc.keystore)).broker_told
    with pytest.raises(joining.LinkRefused, match="shut out"):
        await pc.join(link)
    assert [one.state for one in await agents(den)] == ["revoked"]


async def test_two_who_join_from_one_home_at_once_make_one_agent(den: Den) -> None:
    pc, link = den.machine(), await den.link()
    done = await asyncio.gather(pc.join(link), pc.join(link), return_exceptions=True)
    assert sum(isinstance(one, joining.Joined) for one in done) == 1
    assert any(isinstance(one, identity.HomeInUse) for one in done)


async def test_key_of_one_pool_is_never_shown_to_a_broker_that_uses_its_account_id(
    den: Den, tmp_path: Any
) -> None:
    """A link can be made by anybody: one with a known account_id must not get that pool's key."""
    pc, link = den.machine(), await den.link()
    joined = await pc.join(link)
    await den.stop()
    den.ports = (0, 0)
    await den.start("impostor")
    made = join_links.read(await den.link())
    forged = replace(made, account_id=join_links.read(link).account_id).text()
    assert joining.known(pc.folder, forged) is None
    with pytest.raises(joining.LinkRefused):
        await pc.join(forged)
    (kept,) = joining.pools(pc.folder)
    assert kept == joined.pool


# Enrolments that no agent sends


UNUSABLE: list[dict[str, Any]] = [
    {"public_key": b"short"},
    {"public_key": b"x" * 33},
    {"agent_id": "a b"},
    {"agent_id": "x" * 65},
    {"cards": ["card"] * 17},
    {"audience": ""},
    {"audience": "x" * 301},
    {"audience": "a\nb"},
]


async def test_enrolment_with_values_that_cannot_be_is_refused_and_takes_no_use(den: Den) -> None:
    link = join_links.read(await den.link())
    usable = {"public_key": b"k" * 32, "agent_id": "agent-x", "audience": "pin:x"}
    async with joining_calls.calls(link.address) as broker:
        for change in UNUSABLE:
            request = join_pb2.EnrolRequest(**usable | change)
            with pytest.raises(joining.LinkRefused) as caught:
                await broker.post("/v1/join", join_pb2.EnrolResponse, request, link.bearer)
            assert caught.value.why is Refusal.INVALID, change
    assert [one.used for one in await den.admin().join_links()] == [0]


async def test_body_that_is_too_long_or_no_message_is_refused(den: Den) -> None:
    link = join_links.read(await den.link())
    context = await asyncio.to_thread(trust.tls_context, link.address)
    assert context is not None
    async with httpx.AsyncClient(verify=context, base_url=den.address.http_url) as client:
        for body in (b"x" * 20_000, b"\xff\xff\xff"):
            answer = await client.post(
                "/v1/join",
                content=body,
                headers={"Authorization": f"Bearer {link.bearer}"},
                extensions={"sni_hostname": "foxden-broker"},
            )
            assert answer.status_code == 400


# Leaving


async def test_machine_that_leaves_is_forgotten_on_both_sides(den: Den) -> None:
    pc = den.machine()
    await pc.join(await den.link())
    left = await joining.leave(pc.folder, keystore=pc.keystore)
    assert (left.broker_told, left.problems) == (True, ())
    assert await agents(den) == []
    assert sorted(one.name for one in pc.folder.iterdir()) == ["agent.json", "joining.lock"]
    with pytest.raises(joining.NoSuchPool, match="in no pool"):
        await joining.leave(pc.folder, keystore=pc.keystore)


async def test_machine_leaves_also_when_the_broker_is_away_and_says_what_is_left(
    den: Den, monkeypatch: pytest.MonkeyPatch
) -> None:
    pc = den.machine()
    joined = await pc.join(await den.link())
    await den.stop()
    left = await joining.leave(pc.folder, "main", keystore=pc.keystore)
    assert not left.broker_told
    assert f"foxden agents revoke {joined.pool.agent_id}" in left.problems[0]
    assert joining.pools(pc.folder) == []
    assert not (pc.folder / "keys").exists()


async def test_nobody_leaves_for_another(den: Den) -> None:
    pc = den.machine()
    pool = (await pc.join(await den.link())).pool
    request = join_pb2.LeaveRequest(account_id=pool.account_id, agent_id=pool.agent_id)
    async with joining_calls.calls(pool.address) as broker:
        nonce = (await broker.post("/v1/join/leave", join_pb2.LeaveResponse, request)).nonce
        ids = (pool.account_id, pool.agent_id, pool.audience)
        own = await pc.keystore.load(pool.key_id, pool.key_in)
        wrong = [
            (nonce, keys.sign(keys.new_key(), proofs.leave_statement(nonce, *ids))),
            (nonce, keys.sign(own, proofs.link_statement(nonce, *ids))),  # signed for another use
            (b"n" * 32, keys.sign(own, proofs.leave_statement(b"n" * 32, *ids))),
        ]
        for request.nonce, request.signature in wrong:
            with pytest.raises(joining.LinkRefused):
                await broker.post("/v1/join/leave", join_pb2.LeaveResponse, request)
    assert len(await agents(den)) == 1


async def test_several_pools_have_to_be_told_apart(den: Den) -> None:
    pc = den.machine()
    await pc.join(await den.link())
    await den.stop()
    den.ports = (0, 0)
    await den.start("second")
    await pc.join(await den.link())
    one, other = joining.pools(pc.folder)
    assert one.agent_id == other.agent_id
    with pytest.raises(joining.NoSuchPool, match="Say which"):
        await joining.leave(pc.folder, keystore=pc.keystore)
    with pytest.raises(joining.NoSuchPool, match="no pool 'nope'"):
        await joining.leave(pc.folder, "nope", keystore=pc.keystore)
    left = await joining.leave(pc.folder, other.account_id, keystore=pc.keystore)
    assert left.pool.account_id == other.account_id
    assert [pool.account_id for pool in joining.pools(pc.folder)] == [one.account_id]


async def test_who_leaves_while_another_leaves_or_joins_has_to_wait(den: Den) -> None:
    pc, link = den.machine(), await den.link()

    async def leave() -> joining.Left:
        return await joining.leave(pc.folder, keystore=pc.keystore)

    async def leave_all() -> list[joining.Left]:
        return await joining.leave_all(pc.folder, keystore=pc.keystore)

    await pc.join(link)
    for other in (leave, leave_all):
        joined, refused = await asyncio.gather(pc.join(link), other(), return_exceptions=True)
        assert isinstance(joined, joining.Joined)
        assert isinstance(refused, identity.HomeInUse)
    left, refused = await asyncio.gather(leave(), leave_all(), return_exceptions=True)
    assert isinstance(left, joining.Left)
    assert left.broker_told
    assert isinstance(refused, identity.HomeInUse)


async def test_leaving_where_nothing_was_joined_leaves_no_file_behind(den: Den) -> None:
    pc = den.machine()
    with pytest.raises(joining.NoSuchPool):
        await joining.leave(pc.folder, keystore=pc.keystore)
    assert await joining.leave_all(pc.folder, keystore=pc.keystore) == []
    assert not pc.folder.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pools": 1}', '{"pools": [1, {}, {"url": 3}]}'])
def test_damaged_file_of_pools_is_an_empty_one(den_folder: Machine, text: str) -> None:
    den_folder.folder.mkdir(parents=True)
    (den_folder.folder / "pools.json").write_text(text)
    assert joining.pools(den_folder.folder) == []


@pytest.fixture
def den_folder(tmp_path: Any) -> Machine:
    from foxden_proto.timers import Timers

    return Machine(tmp_path, Timers())


def test_entry_with_a_bad_address_is_left_out_and_the_others_are_read(den_folder: Machine) -> None:
    good = {
        "account_id": "main",
        "account_name": "Main",
        "url": "foxden://127.0.0.1:1",
        "agent_id": "a",
        "key_id": "k",
        "key_in": "file",
        "key_remark": "",
        "joined_ms": 1,
    }
    den_folder.folder.mkdir(parents=True)
    entries = [good, good | {"url": "ftp://x"}, good | {"joined_ms": "1"}]
    (den_folder.folder / "pools.json").write_text(json.dumps({"pools": entries}))
    (pool,) = joining.pools(den_folder.folder)
    assert pool.title == "Main at 127.0.0.1:1"
