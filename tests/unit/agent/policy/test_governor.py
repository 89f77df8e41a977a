"""All cards of a machine under one policy: when a change is told, and to whom."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from evening import CARD, NOON, PC

from foxden_agent.policy import owner_files
from foxden_agent.policy.governor import Governor
from foxden_agent.policy.owner_files import OwnerFiles
from foxden_agent.policy.values import Decision, EngineUse
from foxden_agent.policy.wishes import Kind, Wish
from foxden_proto.v1.pool_pb2 import MODE_DUTY_CYCLED, MODE_GAMING, MODE_PAUSED, MODE_READY


class Machine:
    """Two cards, and all that was told of them."""

    def __init__(self, folder: Path) -> None:
        files = OwnerFiles(folder, owner_files.begin_run(folder))
        self.told: list[tuple[str, Decision]] = []
        self.governor = Governor(files.look, lambda *change: self.told.append(change))
        self.at = 0.0

    def read(self, device: str, full_screen: str = "", **card) -> Decision:
        self.at += 0.5
        return self.governor.read(
            replace(CARD, device=device, at=self.at, **card),
            replace(PC, at=self.at, wall=NOON + self.at, full_screen=full_screen),
            EngineUse(),
        )

    def modes(self) -> list[tuple[str, int]]:
        return [(device, decision.mode) for device, decision in self.told]


def test_first_reading_of_each_card_is_told_and_the_same_again_is_not(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    assert not machine.governor.decisions
    for _ in range(5):
        machine.read("cuda:0")
        machine.read("cuda:1")
    assert machine.modes() == [("cuda:0", MODE_READY), ("cuda:1", MODE_READY)]


def test_one_card_gets_warm_x_the_other_hears_nothing(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    for _ in range(3):
        machine.read("cuda:0", temperature=84.0)
        machine.read("cuda:1")
    assert ("cuda:1", MODE_DUTY_CYCLED) not in machine.modes()
    assert machine.modes()[-1] == ("cuda:0", MODE_DUTY_CYCLED)
    assert machine.governor.decisions["cuda:1"].mode == MODE_READY


def test_game_x_both_cards_are_told_once_while_it_lasts(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    for _ in range(10):
        machine.read("cuda:0", "witcher3.exe")
        machine.read("cuda:1", "witcher3.exe")
    assert machine.modes() == [("cuda:0", MODE_GAMING), ("cuda:1", MODE_GAMING)]


def test_hot_card_cools_x_passing_degrees_are_in_the_decision_and_not_told(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.read("cuda:0", temperature=88.0)
    machine.read("cuda:0", temperature=82.0)
    assert len(machine.told) == 1
    assert dict(machine.governor.decisions["cuda:0"].reasons[0].facts)["temperature"] == 82.0


def test_owner_pauses_and_resumes_x_next_reading_follows(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.read("cuda:0")
    owner_files.write_wish(tmp_path, Wish("w", Kind.FOREVER, NOON))
    machine.read("cuda:0")
    owner_files.write_wish(tmp_path, None)
    machine.read("cuda:0")
    assert [mode for _, mode in machine.modes()] == [MODE_READY, MODE_PAUSED, MODE_READY]


def test_policy_changes_x_next_reading_follows_and_watching_gets_the_list(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    assert machine.read("cuda:0", "witcher3.exe").mode == MODE_GAMING
    owner_files.set_policy(tmp_path, "full_screen", False)
    owner_files.set_policy(tmp_path, "hold", 0)
    owner_files.set_policy(tmp_path, "programs", ["doom.exe"])
    assert machine.read("cuda:0", "witcher3.exe").mode == MODE_READY
    assert machine.governor.policy.programs == ("doom.exe",)
    (tmp_path / owner_files.POLICY).write_text("{")
    machine.read("cuda:0")
    assert machine.governor.policy.programs == ("doom.exe",)
    assert "no JSON" in machine.governor.problems[0]


def test_forgotten_card_x_comes_back_begins_anew(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.read("cuda:0", temperature=90.0)
    machine.governor.forget("cuda:0")
    assert "cuda:0" not in machine.governor.decisions
    assert machine.read("cuda:0").mode == MODE_READY
    assert len(machine.told) == 2
