"""Several links with one card: who hears what, and the owner's own broker first."""

from __future__ import annotations

from typing import Any

import pytest
from machine import Worker, card_info

from foxden_agent.links import Links, Served
from foxden_proto import limits
from foxden_proto.link import AgentLink, LeaseKey, LeasesExpired
from foxden_proto.timers import Timers
from foxden_proto.v1 import link_pb2 as pb
from foxden_proto.v1 import pool_pb2

CARD = "agent-1.cpu"
READY, PAUSED = pool_pb2.MODE_READY, pool_pb2.MODE_PAUSED


class Desk:
    """Links on a clock of the test's own; each broker is what the link's end hears and says."""

    def __init__(self) -> None:
        self.now = 100.0
        self.mode = pb.CardMode(card_id=CARD, mode=READY)
        hello = pb.Hello(protocol=limits.LINK_PROTOCOL, agent_id="agent-1", cards=[card_info(CARD)])
        self.worker = Worker(lambda: self.links)
        workers: Any = {CARD: self.worker}
        self.links = Links(Timers(), hello, workers, lambda: [self.mode], lambda: self.now)
        self.number = 0
        self.states: list[tuple[str, str]] = []

    def add(self, name: str, *, own: bool = False) -> Served:
        link = AgentLink(Timers(), self.links.hello(f"agent-{name}"), self.now)
        sender: Any = Sender(name)
        served = Served(name, own, link, sender, lambda *said: self.states.append(said))
        self.links.add(served)
        link.opened(self.now)
        self.hear(served, welcome=pb.Welcome())
        link.outgoing()
        return served

    def hear(self, served: Served, **frame: Any) -> None:
        data = pb.BrokerFrame(**frame).SerializeToString()
        for event in served.link.receive(data, self.now):
            self.links.handle(served, event)

    def give(self, served: Served, images: int = 1, card: str = CARD) -> list[LeaseKey]:
        self.number += 1
        keys = [LeaseKey(f"job-{self.number}", index, 1) for index in range(images)]
        tasks = [
            pb.AssignedTask(lease=key.message(), upload_token=f"{served.name} {key.job_id}")
            for key in keys
        ]
        self.hear(served, assignment=pb.Assignment(card_id=card, tasks=tasks))
        return keys

    def settle(self, served: Served, key: LeaseKey) -> None:
        self.hear(served, settled=pb.Settled(lease=key.message(), accepted=True))

    @staticmethod
    def said(served: Served) -> list[tuple[str, Any]]:
        frames = [pb.AgentFrame.FromString(data) for data in served.link.outgoing()]
        return [(name, getattr(f, name)) for f in frames if (name := f.WhichOneof("frame"))]

    def modes(self, served: Served) -> list[tuple[int, list[str]]]:
        """The modes that it was told since the last look."""
        return [
            (said.mode.mode, list(said.mode.reasons))
            for name, said in self.said(served)
            if name == "mode_changed"
        ]


class Sender:
    def __init__(self, name: str) -> None:
        self.name = name
        self.paths: list[str] = []

    async def put(self, path: str, *_: object) -> Any:
        self.paths.append(path)
        return self.name

    async def get(self, path: str, *_: object, **__: object) -> Any:
        self.paths.append(path)
        return b"bytes"


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_assignment_for_a_card_that_is_gone_is_refused_and_held_no_longer(desk: Desk) -> None:
    served = desk.add("a")
    keys = desk.give(served, card="gone")
    ((name, refused),) = desk.said(served)
    assert name == "refused"
    assert [LeaseKey.of(lease) for lease in refused.leases] == keys
    assert not served.link.held


def test_each_link_opens_with_its_own_agent_id_and_the_card(desk: Desk) -> None:
    for name in ("a", "b"):
        identity = desk.add(name).link.identity
        assert identity.agent_id == f"agent-{name}"
        assert [card.card_id for card in identity.cards] == [CARD]
        assert [mode.mode for mode in identity.modes] == [READY]


def test_what_is_said_of_an_image_goes_to_the_broker_that_gave_it(desk: Desk) -> None:
    own, pool = desk.add("own", own=True), desk.add("pool")
    (key,) = desk.give(own)
    desk.links.progress(key, 1, 2)
    desk.worker.end(key, pb.TaskFailed(reason="no"))
    assert [name for name, _ in desk.said(own)] == ["acknowledged", "started", "progress", "failed"]
    assert {name for name, _ in desk.said(pool)} == {"mode_changed"}


def test_owners_job_pre_empts_the_pools_with_its_checkpoint_and_shuts_it_out(desk: Desk) -> None:
    own, pool = desk.add("own", own=True), desk.add("pool")
    theirs = desk.give(pool, 2)
    desk.said(pool)
    (mine,) = desk.give(own)
    assert desk.worker.preempted == theirs
    assert set(desk.worker.images) == {mine}
    told = desk.said(pool)
    # The mode first: an agent that gives back and says that it is ready would be blamed.
    assert [name for name, _ in told] == ["mode_changed", "released", "released"]
    assert told[0][1].mode.mode == PAUSED
    assert "owner's own pictures" in told[0][1].mode.reasons[0]
    assert [mode.mode for mode in pool.link.identity.modes] == [PAUSED]
    assert [mode.mode for mode in desk.links.modes_for(own)] == [READY]


def test_pool_gets_the_card_back_a_moment_after_the_owners_last_image(desk: Desk) -> None:
    own, pool = desk.add("own", own=True), desk.add("pool")
    (mine,) = desk.give(own)
    assert desk.modes(pool)[-1][0] == PAUSED
    desk.worker.end(mine, pb.TaskStopped())
    desk.settle(own, mine)
    desk.links.tell_standings()
    assert desk.modes(pool) == []
    assert desk.links.wake_at(desk.now) == desk.now + 2.0
    desk.now += 2.0
    desk.links.tell_standings()
    assert desk.modes(pool) == [(READY, [])]


def test_image_that_takes_its_time_to_leave_keeps_the_card_from_nobody_else(desk: Desk) -> None:
    own, pool = desk.add("own", own=True), desk.add("pool")
    desk.worker.keeps_preempted = True
    (theirs,) = desk.give(pool)
    (mine,) = desk.give(own)
    releasing = pb.TaskReleased(releasing=True, reason="more urgent")
    desk.links.outcome(theirs, releasing)
    desk.worker.end(mine, pb.TaskStopped())
    desk.now += 3
    assert [mode.mode for mode in desk.links.modes_for(pool)] == [READY]


def test_what_a_pool_gives_while_the_owner_draws_is_refused_without_blame(desk: Desk) -> None:
    own, pool = desk.add("own", own=True), desk.add("pool")
    desk.give(own)
    desk.said(pool)
    desk.give(pool)
    ((name, refused),) = desk.said(pool)
    assert (name, refused.not_ready) == ("refused", True)
    assert len(desk.worker.images) == 1


def test_two_pools_take_turns(desk: Desk) -> None:
    a, b = desk.add("a"), desk.add("b")
    (key,) = desk.give(a)
    assert desk.modes(b) == [(PAUSED, ["paused: another pool's pictures are drawn on it"])]
    desk.now += 61
    desk.links.tell_standings()
    assert desk.modes(a) == [(PAUSED, ["paused: it is another pool's turn"])]
    desk.worker.end(key, pb.TaskStopped())
    assert desk.modes(b) == [(READY, [])]
    desk.give(b)
    assert len(desk.worker.images) == 1


def test_owner_who_pauses_is_told_to_everybody_in_his_words(desk: Desk) -> None:
    own, pool = desk.add("own", own=True), desk.add("pool")
    desk.give(own)
    desk.mode = pb.CardMode(card_id=CARD, mode=pool_pb2.MODE_GAMING, reasons=["gaming: chess"])
    desk.modes(own), desk.modes(pool)
    desk.links.mode_changed(desk.mode)
    assert desk.modes(own) == desk.modes(pool) == [(pool_pb2.MODE_GAMING, ["gaming: chess"])]


def test_single_broker_is_told_no_modes_but_the_owners(desk: Desk) -> None:
    served = desk.add("a")
    (key,) = desk.give(served)
    desk.worker.end(key, pb.TaskStopped())
    desk.now += 1000
    desk.links.tell_standings()
    assert desk.modes(served) == []


def test_pool_that_is_left_takes_its_images_along_and_shuts_nobody_out(desk: Desk) -> None:
    a, b = desk.add("a"), desk.add("b")
    (key,) = desk.give(a)
    desk.modes(b)
    desk.links.remove(a)
    assert desk.worker.dropped == [key]
    assert desk.modes(b) == [(READY, [])]
    desk.links.remove(a)


def test_leases_that_expired_are_drawn_no_more(desk: Desk) -> None:
    a = desk.add("a")
    keys = desk.give(a, 2)
    desk.links.handle(a, LeasesExpired(tuple(keys)))
    assert desk.worker.dropped == keys
    assert desk.give(a)


async def test_bytes_go_to_the_broker_whose_token_they_carry(desk: Desk) -> None:
    own, pool = desk.add("own", own=True), desk.add("pool")
    desk.give(pool)
    theirs = "pool job-1"
    assert await desk.links.put("/p", theirs, b"", lambda: True) == "pool"  # type: ignore[comparison-overlap]
    (mine,) = desk.give(own)
    assert await desk.links.put("/q", "own job-2", b"", lambda: True) == "own"  # type: ignore[comparison-overlap]
    assert await desk.links.put("/r", "nobody's", b"", lambda: True) is None
    # What was released may still send its checkpoint, until the broker has settled it.
    assert await desk.links.put("/c", theirs, b"", lambda: True) == "pool"  # type: ignore[comparison-overlap]
    desk.settle(pool, LeaseKey("job-1", 0, 1))
    assert await desk.links.put("/c", theirs, b"", lambda: True) is None
    assert mine in desk.worker.images


def test_hints_of_a_broker_that_is_shut_out_are_passed_over(desk: Desk) -> None:
    own, pool = desk.add("own", own=True), desk.add("pool")
    desk.give(own)
    desk.hear(pool, prefetch=pb.Prefetch(card_id=CARD, model_sha256="x"))
    desk.hear(own, prefetch=pb.Prefetch(card_id=CARD, model_sha256="y"))
    assert desk.worker.prefetched == ["y"]


def test_wait_for_approval_and_welcome_are_told_to_who_shows_them(desk: Desk) -> None:
    served = desk.add("a")
    assert desk.states == [("online", "")]
    desk.links.handle(served, pb.Pending(reason="say yes"))
    assert desk.states[-1] == ("waits", "say yes")


def test_broker_that_names_another_ones_image_decides_nothing_over_it(desk: Desk) -> None:
    one, other = desk.add("one"), desk.add("other")
    (key,) = desk.give(one)
    desk.hear(other, stop_task=pb.StopTask(lease=key.message()))
    desk.settle(other, key)
    assert key in desk.worker.images
