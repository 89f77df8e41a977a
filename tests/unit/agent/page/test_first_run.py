"""The first run, step by step: what follows by itself, what fails and can be done again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from foxden_agent.doctor.judging import Finding, Level
from foxden_agent.engine_errors import EngineFailed
from foxden_agent.page.first_run import FirstRun, WrongStep
from foxden_agent.page.plugs import (
    CannotFetch,
    CannotInstall,
    CannotJoin,
    Membership,
    Offer,
    Part,
    Progress,
    Terms,
)
from foxden_proto.address import parse

MEMBER = Membership(parse("foxden://127.0.0.1:1"), "fxd_secret")
GIB = 2**30


class World:
    """What the steps meet; each thing can be made to fail."""

    def __init__(self) -> None:
        self.refuses = ""
        self.findings: list[Finding] = [Finding("card", Level.GOOD, "A card.")]
        self.has_engine = True
        self.breaks = ""
        self.draws = True
        self.has_models = True
        self.away = ""  # why the hub offers nothing
        self.asked: list[str] = []
        self.by_command: list[Membership] = []
        self.go_on = asyncio.Event()
        self.go_on.set()

    def memberships(self) -> Sequence[Membership]:
        return list(self.by_command)

    async def look(self, link: str) -> Terms:
        self.asked.append(f"look {link}")
        if self.refuses:
            raise CannotJoin(self.refuses)
        return Terms("ann", "127.0.0.1:1")

    async def join(self, link: str, name: str) -> Membership:
        self.asked.append(f"join {link} {name}")
        if self.refuses:
            raise CannotJoin(self.refuses)
        return MEMBER

    def ready(self) -> bool:
        return self.has_engine

    async def plan(self) -> tuple[Part, ...]:
        return (Part("torch", 2 * GIB), Part("the rest", GIB, "cannot be checked here"))

    async def install(self, tell: Callable[[Progress], None]) -> None:
        tell(Progress("fetching torch", GIB, 3 * GIB))
        await self.go_on.wait()
        if self.breaks:
            raise CannotInstall(self.breaks)
        self.has_engine = True

    def present(self) -> bool:
        return self.has_models

    async def offers(self) -> tuple[Offer, ...]:
        self.asked.append("offers")
        if self.away:
            raise CannotFetch(self.away)
        gone = Offer("a/gone", "Gone", "None.", "MIT", GIB, True, problem="It is gone.")
        return (Offer("a/big", "Big", "Big pictures.", "MIT", 8 * GIB, True, 3 * GIB), gone)

    async def fetch(self, offer_id: str, tell: Callable[[Progress], None]) -> None:
        self.asked.append(f"fetch {offer_id}")
        tell(Progress("fetching unet", GIB, 3 * GIB))
        await self.go_on.wait()
        if self.breaks:
            raise CannotFetch(self.breaks)

    async def check(self, membership: Membership) -> Sequence[Finding]:
        return list(self.findings)

    async def draw(self, tell: Callable[[int, int], None]) -> bytes:
        tell(3, 20)
        if not self.draws:
            raise EngineFailed("the engine died (SIGKILL)")
        return b"\x89PNG"

    def begin(self) -> FirstRun:
        return FirstRun(self, self, self, self.check, self.draw)


def states(run: FirstRun) -> dict[str, str]:
    return {step["step"]: step["state"] for step in run.state()}


def told(run: FirstRun, name: str) -> dict[str, object]:
    return next(step for step in run.state() if step["step"] == name)


async def settled(run: FirstRun) -> None:
    assert run._doing is not None
    await run._doing


async def joined(world: World) -> FirstRun:
    run = world.begin()
    await run.look(" the link ")
    run.join("the link", "den")
    await settled(run)
    return run


async def test_all_well_x_from_the_link_to_online_with_two_words_of_the_owner() -> None:
    world = World()
    run = world.begin()
    assert states(run)["join"] == "ready"
    await run.look(" the link ")
    assert told(run, "join")["told"]["terms"]["account"] == "ann"  # type: ignore[index]
    run.join("the link", " den ")
    await settled(run)
    assert world.asked == ["look the link", "join the link den"]
    assert list(states(run).values()) == ["done", "done", "skipped", "skipped", "done", "ready"]
    assert run.picture.startswith(b"\x89PNG")
    assert not run.membership.done()
    run.online()
    assert run.membership.result() is MEMBER
    run.went_online()
    assert states(run)["online"] == "done"


async def test_join_before_the_terms_were_seen_x_refused() -> None:
    run = World().begin()
    with pytest.raises(WrongStep, match="terms"):
        run.join("the link", "")
    assert "done" not in states(run).values()


@pytest.mark.parametrize("action", ["check", "install", "no_model", "draw", "online"])
async def test_step_out_of_turn_x_refused(action: str) -> None:
    run = World().begin()
    with pytest.raises(WrongStep):
        getattr(run, action)()


async def test_link_refused_x_says_why_and_another_can_be_tried() -> None:
    world = World()
    world.refuses = "This link was used once already: ask for another."
    run = world.begin()
    await run.look("old")
    assert told(run, "join")["problem"] == world.refuses
    assert states(run)["join"] == "failed"
    world.refuses = ""
    await run.look("new")
    world.refuses = "The administrator said no."
    run.join("new", "")
    await settled(run)
    assert told(run, "join")["problem"] == "The administrator said no."
    world.refuses = ""
    run.join("new", "")
    await settled(run)
    assert states(run)["join"] == "done"


async def test_hardware_problem_x_stops_there_until_mended_or_left() -> None:
    world = World()
    world.findings = [Finding("disk", Level.PROBLEM, "The disk is full.", "Make space.")]
    run = await joined(world)
    assert states(run)["check"] == "failed"
    assert states(run)["engine"] == "waiting"
    run.check()
    await settled(run)
    assert states(run)["check"] == "failed"
    run.go_on_anyway()
    await settled(run)
    assert states(run)["online"] == "ready"


async def test_no_engine_yet_x_is_no_problem_of_the_check_but_sizes_to_agree_to() -> None:
    world = World()
    world.has_engine = False
    world.findings.append(Finding("engine", Level.PROBLEM, "The engine cannot start."))
    run = await joined(world)
    assert states(run)["check"] == "done"
    assert states(run)["engine"] == "ready"
    parts = told(run, "engine")["told"]["parts"]  # type: ignore[index]
    assert sum(part["size"] for part in parts) == 3 * GIB
    world.go_on.clear()
    run.install()
    await asyncio.sleep(0)
    assert told(run, "engine")["told"]["progress"]["done"] == GIB  # type: ignore[index]
    with pytest.raises(WrongStep):
        run.install()
    world.go_on.set()
    await settled(run)
    assert states(run)["online"] == "ready"


async def test_joined_by_installer_x_looks_at_the_hardware_and_goes_online_after_the_engine() -> (
    None
):
    world = World()
    world.has_engine, world.by_command = False, [MEMBER]
    run = world.begin()
    await settled(run)
    assert list(states(run).values()) == ["skipped", "done", "ready", *["waiting"] * 3]
    run.install()
    await settled(run)
    assert list(states(run).values()) == ["skipped", "done", "done", "skipped", "done", "busy"]
    assert world.asked == []
    assert run.membership.result() is MEMBER


async def test_joined_and_engine_by_command_meanwhile_x_online_without_a_click() -> None:
    world = World()
    world.has_engine = False
    run = world.begin()
    run.notice()
    assert states(run)["join"] == "ready"
    world.by_command = [MEMBER]
    run.notice()
    await settled(run)
    assert states(run)["engine"] == "ready"
    world.has_engine = True
    run.notice()
    assert list(states(run).values()) == ["skipped", "done", *["skipped"] * 3, "busy"]
    assert run.membership.result() is MEMBER


UNATTENDED = replace(MEMBER, fetch_engine=True)


async def unattended(world: World) -> FirstRun:
    """Looked at by itself, and about to fetch its engine."""
    world.has_engine, world.by_command = False, [UNATTENDED]
    run = world.begin()
    await settled(run)
    return run


async def test_unattended_pc_x_fetches_its_engine_while_nobody_plays_and_goes_online() -> None:
    world = World()
    world.go_on.clear()
    run = await unattended(world)
    run.notice(in_use=True)
    assert states(run)["engine"] == "ready"
    run.notice()
    await asyncio.sleep(0)
    assert told(run, "engine")["told"]["progress"]["done"] == GIB  # type: ignore[index]
    run.notice(in_use=True)
    await asyncio.gather(settled(run), return_exceptions=True)
    assert states(run)["engine"] == "ready"
    world.go_on.set()
    run.notice()
    await settled(run)
    run.notice()
    assert run.membership.result() is UNATTENDED
    assert states(run)["picture"] == "skipped"


async def test_unattended_pc_whose_fetch_fails_x_tried_again_after_a_pause_and_not_at_once() -> (
    None
):
    world = World()
    world.breaks = "The network is gone: try again."
    run = await unattended(world)
    run._pauses = iter([0.05])
    run.notice()
    await settled(run)
    assert told(run, "engine")["problem"] == world.breaks
    world.breaks = ""
    run.notice()
    assert states(run)["engine"] == "failed"
    await asyncio.sleep(0.1)
    run.notice()
    await settled(run)
    run.notice()
    assert run.membership.done()


async def test_fetch_that_the_owner_has_asked_for_x_is_not_broken_off_by_his_game() -> None:
    world = World()
    world.has_engine = False
    world.go_on.clear()
    run = await joined(world)
    run.install()
    await asyncio.sleep(0)
    run.notice(in_use=True)
    world.go_on.set()
    await settled(run)
    assert states(run)["online"] == "ready"


async def test_unattended_pc_with_a_problem_x_goes_online_all_the_same() -> None:
    world = World()
    world.findings = [Finding("disk", Level.PROBLEM, "The disk is full.", "Make space.")]
    run = await unattended(world)
    assert states(run)["check"] == "failed"
    run.notice()
    await settled(run)
    run.notice()
    await settled(run)
    run.notice()
    assert run.membership.result() is UNATTENDED


async def test_engine_by_command_while_the_owner_joins_here_x_picture_and_his_word_follow() -> None:
    world = World()
    world.has_engine = False
    run = await joined(world)
    world.has_engine = True
    run.notice()
    await settled(run)
    assert states(run)["engine"] == "skipped"
    assert states(run)["online"] == "ready"
    run.notice()
    assert not run.membership.done()


async def test_refused_by_its_pool_x_only_another_membership_counts() -> None:
    world = World()
    world.by_command = [MEMBER]
    run = FirstRun(world, world, world, world.check, world.draw, refused=[MEMBER])
    run.notice()
    assert states(run)["join"] == "ready"
    again = replace(MEMBER, key_id="another")
    world.by_command = [MEMBER, again]
    run.notice()
    assert run.membership.result() is again


async def test_step_that_is_busy_x_nothing_is_noticed_beside_it() -> None:
    world = World()
    world.has_engine = False
    run = await joined(world)
    world.go_on.clear()
    run.install()
    await asyncio.sleep(0)
    world.has_engine = True
    run.notice()
    assert states(run)["engine"] == "busy"
    world.go_on.set()
    await settled(run)


async def test_install_breaks_x_says_why_and_goes_on_when_asked_again() -> None:
    world = World()
    world.has_engine, world.breaks = False, "The network is gone: try again."
    run = await joined(world)
    run.install()
    await settled(run)
    assert told(run, "engine")["problem"] == "The network is gone: try again."
    world.breaks = ""
    run.install()
    await settled(run)
    assert states(run)["online"] == "ready"


async def without_models(world: World) -> FirstRun:
    world.has_models = False
    return await joined(world)


async def test_no_model_yet_x_offers_with_sizes_wait_for_the_owner_who_takes_one() -> None:
    world = World()
    run = await without_models(world)
    assert states(run)["model"] == "ready"
    assert states(run)["picture"] == "waiting"
    (big, gone) = told(run, "model")["told"]["offers"]  # type: ignore[index]
    assert (big["size"], big["licence"], gone["problem"]) == (3 * GIB, "MIT", "It is gone.")
    world.go_on.clear()
    run.fetch("a/big")
    await asyncio.sleep(0)
    assert told(run, "model")["told"]["progress"]["done"] == GIB  # type: ignore[index]
    run.notice()
    assert states(run)["model"] == "busy"
    world.go_on.set()
    await settled(run)
    assert told(run, "model")["told"] == {"fetched": "Big"}
    assert states(run)["online"] == "ready"


@pytest.mark.parametrize("other", ["a/gone", "a/nobody", ""])
async def test_model_that_was_not_offered_x_refused_and_nothing_is_fetched(other: str) -> None:
    world = World()
    run = await without_models(world)
    with pytest.raises(WrongStep, match="that are shown"):
        run.fetch(other)
    assert states(run)["model"] == "ready"
    assert world.asked[-1] == "offers"


async def test_demo_model_alone_x_goes_on_to_the_picture() -> None:
    world = World()
    run = await without_models(world)
    run.notice()
    assert states(run)["model"] == "ready"
    run.no_model()
    await settled(run)
    assert (states(run)["model"], states(run)["online"]) == ("skipped", "ready")


async def test_hub_away_x_says_why_and_is_asked_again_or_left() -> None:
    world = World()
    world.away = "The hub does not answer: try again."
    run = await without_models(world)
    assert told(run, "model")["problem"] == world.away
    run.fetch("")
    await settled(run)
    assert states(run)["model"] == "failed"
    run.no_model()
    await settled(run)
    assert told(run, "model")["problem"] == ""
    assert states(run)["online"] == "ready"


async def test_fetch_of_a_model_breaks_x_says_why_and_any_can_be_tried_again() -> None:
    world = World()
    run = await without_models(world)
    world.breaks = "The disk is full."
    run.fetch("a/big")
    await settled(run)
    assert told(run, "model")["problem"] == world.breaks
    assert len(told(run, "model")["told"]["offers"]) == 2  # type: ignore[index]
    world.breaks = ""
    run.fetch("a/big")
    await settled(run)
    assert world.asked[-2:] == ["fetch a/big", "fetch a/big"]
    assert states(run)["online"] == "ready"


async def test_joined_by_installer_without_models_x_no_hub_is_asked() -> None:
    world = World()
    world.has_engine, world.has_models, world.by_command = False, False, [MEMBER]
    run = world.begin()
    await settled(run)
    run.install()
    await settled(run)
    assert (states(run)["model"], states(run)["online"]) == ("skipped", "busy")
    assert world.asked == []


async def test_test_picture_fails_x_says_why_and_online_has_to_wait() -> None:
    world = World()
    world.draws = False
    run = await joined(world)
    assert "SIGKILL" in str(told(run, "picture")["problem"])
    with pytest.raises(WrongStep):
        run.online()
    world.draws = True
    run.draw()
    await settled(run)
    assert states(run)["online"] == "ready"


async def test_look_that_meets_the_unforeseen_x_a_failed_step_and_another_try() -> None:
    world = World()

    async def look(link: str) -> Terms:
        raise KeyError("x")

    world.look = look  # type: ignore[method-assign]
    run = world.begin()
    await run.look("the link")
    assert states(run)["join"] == "failed"
    del world.look  # type: ignore[method-assign]
    await run.look("the link")
    assert states(run)["join"] == "ready"


async def test_unforeseen_error_x_is_a_failed_step_and_no_busy_one() -> None:
    world = World()

    async def check(membership: Membership) -> Sequence[Finding]:
        raise KeyError("x")

    world.check = check  # type: ignore[method-assign]
    run = await joined(world)
    assert "busy" not in states(run).values()
    assert "failed" in states(run).values()
