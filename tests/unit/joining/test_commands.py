"""The commands of administrator and owner against a real broker: words in, words and codes out."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from foxden import config
from foxden.cli import main
from foxden_agent import joining
from foxden_agent.joining import keystore
from foxden_agent.joining.pools import write as write_pools
from foxden_proto import join_links
from foxden_proto.address import Address

Den = Any  # of conftest.py
Run = Callable[..., Awaitable[tuple[int, Any]]]


@pytest.fixture
def foxden(
    den: Den,
    tmp_path: Any,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    """Run a command, logged in as the administrator; exit code, and what it told."""
    home = tmp_path / "home"
    monkeypatch.setenv("FOXDEN_HOME", str(home))
    for name in ("FOXDEN_URL", "FOXDEN_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(keystore.KeyStore.__init__, "__kwdefaults__", _no_keyring())
    config.write(None, str(den.address), den.running.token)

    async def run(*words: str, as_json: bool = True) -> tuple[int, Any]:
        more = ["--json"] if as_json else []
        code = await asyncio.to_thread(main.main, [*words, *more])
        told = capsys.readouterr()
        return code, json.loads(told.out) if as_json else told.out + told.err

    return run


def _no_keyring() -> dict[str, Any]:
    def library() -> Any:
        raise ModuleNotFoundError("keyring")  # this system may have one, and it would be asked

    return {"library": library, "seconds": 5.0}


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Somebody sits at the terminal and says this."""

    def says(word: str) -> None:
        monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
        monkeypatch.setattr("builtins.input", lambda _: word)

    return says


async def test_link_is_made_with_its_terms_and_listed_without_its_secret(foxden: Run) -> None:
    code, text = await foxden("join-link", "--uses", "3", "--approve", as_json=False)
    assert code == 0
    link = join_links.read(text.split()[2])
    assert "3 machines" in text
    assert "foxden agents approve" in text
    assert "this machine alone" in text  # it is `localhost`
    code, told = await foxden("join-link", "list")
    (listed,) = told["links"]
    assert (listed["uses"], listed["used"], listed["approve"]) == (3, 0, True)
    assert link.secret not in json.dumps(told)
    code, text = await foxden("join-link", "list", as_json=False)
    assert "0 of 3" in text
    code, told = await foxden("join-link", "revoke", link.link_id)
    assert (code, told["id"]) == (0, link.link_id)
    assert "revoked" in (await foxden("join-link", "list", as_json=False))[1]


async def test_link_with_another_address_is_for_that_one(foxden: Run) -> None:
    _, told = await foxden("join-link", "--address", "foxden://pool.example:9000")
    assert join_links.read(told["text"]).address == Address("pool.example", 9000)


async def test_link_that_cannot_be_is_a_wrong_call(foxden: Run) -> None:
    for words in (
        ["--uses", "0"],
        ["--uses", "10001"],
        ["--uses", "x"],
        ["--expires", "0"],
        ["--expires", "900d"],
        ["--address", "https://x"],
        ["revoke"],
        ["revoke", "nope"],
        ["list", "what"],
    ):
        code, told = await foxden("join-link", *words)
        assert code == 2, told
        assert told["error"]["message"]


async def test_owner_sees_the_terms_and_may_say_no(
    foxden: Run, terminal: Callable[[str], None], den: Den
) -> None:
    link = await den.link(approve=True)
    terminal("n")
    code, text = await foxden("join", link, "--name", "kitchen", as_json=False)
    assert code == 1
    for part in ("main", den.address.grpc_target, "kitchen", "may do", "can't", "say yes"):
        assert part in text
    assert "not used up" in text
    assert await den.admin().agents() == []
    terminal("y")
    code, text = await foxden("join", link, as_json=False)
    assert code == 0
    assert "waits for its administrator" in text
    assert "key is in a file" in text  # said aloud, and why
    assert "not installed" in text
    assert join_links.read(link).secret not in text


async def test_agents_are_listed_approved_and_revoked_by_name_or_id(foxden: Run, den: Den) -> None:
    link = await den.link(uses=3, approve=True)
    for name in ("attic", "attic-2", "cellar"):
        await den.machine(name).join(link, name=name, cards=["RTX 4090"])
    code, text = await foxden("agents", "list", as_json=False)
    assert code == 0
    assert text.count("waits for approval") == 3
    assert "RTX 4090" in text
    code, told = await foxden("agents", "approve", "attic")  # exactly this one
    assert (code, told["name"]) == (0, "attic")
    code, told = await foxden("agents", "approve", "at")
    assert code == 2
    assert "several agents fit" in told["error"]["message"]
    code, told = await foxden("agents", "revoke", "cel")
    assert (code, told["name"]) == (0, "cellar")
    assert (await foxden("agents", "approve", "cel"))[0] == 2
    for name in ("nobody", ""):
        assert (await foxden("agents", "revoke", name))[0] == 2
    _, told = await foxden("agents", "list")
    states = {one["name"]: one["state"] for one in told["agents"]}
    assert states == {"attic": "offline", "attic-2": "waits for approval", "cellar": "revoked"}


async def test_revoking_names_the_link_while_it_lets_others_in_and_ends_it_if_told_to(
    foxden: Run, den: Den
) -> None:
    link = await den.link(uses=3)
    link_id = join_links.read(link).link_id
    for name in ("attic", "cellar"):
        await den.machine(name).join(link, name=name)
    code, text = await foxden("agents", "revoke", "attic", as_json=False)
    assert code == 0
    assert "lets in 1 more" in text
    assert f"foxden join-link revoke {link_id}" in text
    code, told = await foxden("agents", "revoke", "cellar", "--with-link")
    assert (code, told["name"], told["came_by"]["id"]) == (0, "cellar", link_id)
    assert told["came_by"]["revoked"]
    text = (await foxden("agents", "revoke", "attic", as_json=False))[1]
    assert f"by link {link_id}, which lets nobody in" in text


async def test_who_is_no_administrator_makes_no_links_and_sees_no_agents(
    foxden: Run, den: Den
) -> None:
    token = (await den.admin().create_token("ann", ["generate"])).secret
    config.write(None, str(den.address), token)
    for words in (["join-link"], ["join-link", "list"], ["agents", "list"]):
        code, told = await foxden(*words)
        assert (code, told["error"]["type"]) == (4, "PermissionDenied")


async def test_script_that_may_not_ask_has_to_agree_itself(foxden: Run, den: Den) -> None:
    link = await den.link()
    code, told = await foxden("join", link)
    assert (code, told["error"]["type"]) == (2, "NotAsked")
    code, told = await foxden("join", link, "--yes", "--name", "attic")
    assert (code, told["pending"], told["again"]) == (0, False, False)
    assert (await foxden("join", link))[1]["again"]
    code, told = await foxden("leave")
    assert (code, told["broker_told"]) == (0, True)
    code, told = await foxden("leave")
    assert (code, told["error"]["type"]) == (2, "NoSuchPool")


async def test_link_is_read_from_standard_input_and_is_shown_nowhere(
    foxden: Run, den: Den, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = await den.link()
    for said, code, kind in (
        ("", 2, "BadLink"),
        ("x" * 20_000, 2, "BadLink"),
        (f"{link}\nmore\n", 2, "NotAsked"),
    ):
        monkeypatch.setattr(sys, "stdin", io.StringIO(said))
        got, told = await foxden("join", "-")
        assert (got, told["error"]["type"]) == (code, kind)
    monkeypatch.setattr(sys, "stdin", io.StringIO(f" {link} "))
    code, text = await foxden("join", "-", "--yes", as_json=False)
    assert code == 0
    assert join_links.read(link).secret not in text


async def test_each_refusal_has_its_exit_code(foxden: Run, den: Den) -> None:
    link = await den.link()
    assert (await foxden("join", link[:-1], "--yes"))[0] == 2
    await den.machine().join(link)
    code, told = await foxden("join", link, "--yes")
    assert (code, told["error"]["type"]) == (4, "LinkRefused")
    other = await den.link()
    await den.stop()
    code, told = await foxden("join", other, "--yes")
    assert (code, told["error"]["type"]) == (3, "BrokerUnreachable")


async def test_leaving_without_a_broker_says_what_is_left_to_do(foxden: Run, den: Den) -> None:
    await foxden("join", await den.link(), "--yes")
    await den.stop()
    code, text = await foxden("leave", as_json=False)
    assert code == 0
    assert "has left" in text
    assert "foxden agents revoke" in text


async def test_leaving_all_x_each_pool_is_left_also_one_whose_broker_is_away(
    foxden: Run, den: Den, tmp_path: Any
) -> None:
    await foxden("join", await den.link(), "--yes")
    (pool,) = joining.pools(folder := tmp_path / "home" / "agent")
    away = replace(pool, account_id="club", url="foxden://127.0.0.1:1", key_id="ab")
    write_pools(folder, [pool, away])
    assert (await foxden("leave"))[0] == 2, "which of the two?"
    assert (await foxden("leave", "club", "--all"))[0] == 2
    code, told = await foxden("leave", "--all")
    assert code == 0
    assert {one["pool"]["account_id"]: one["broker_told"] for one in told["left"]} == {
        pool.account_id: True,
        "club": False,
    }
    assert not (folder / "keys").exists()
    assert await foxden("leave", "--all") == (0, {"left": []})
    assert [one.state for one in await den.admin().agents()] == []


async def test_agent_without_pool_and_page_says_how_to_join_one(
    foxden: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foxden_proto.logs.set_up", lambda *_, **__: None)  # it is the tests' own
    code, text = await foxden("agent", "--no-page", as_json=False)
    assert code == 1
    assert "foxden join LINK" in text


def test_terms_promise_what_the_owner_is_promised() -> None:
    assert any("foxden pause" in line for line in joining.NEVER)
    assert all(line.endswith(".") for line in (*joining.MAY, *joining.NEVER))
