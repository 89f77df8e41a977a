"""Which torch a machine gets: every generation of card, with drivers old and new."""

from __future__ import annotations

import json
import platform

import pytest

from foxden_agent.doctor.judging import CardFacts
from foxden_agent.installing import torch_builds
from foxden_agent.installing.environment import LOCK
from foxden_agent.installing.torch_builds import Build, Machine, Refusal, choose

OLD, MIDDLE, NEW = "470.256.02", "550.120", "580.95.05"
GTX_680 = CardFacts("NVIDIA GeForce GTX 680", "3.0")
GTX_960 = CardFacts("NVIDIA GeForce GTX 960", "5.2")
GTX_1080 = CardFacts("NVIDIA GeForce GTX 1080", "6.1")
TITAN_V = CardFacts("NVIDIA TITAN V", "7.0")
RTX_2080 = CardFacts("NVIDIA GeForce RTX 2080", "7.5")
RTX_3060 = CardFacts("NVIDIA GeForce RTX 3060", "8.6")
RTX_4090 = CardFacts("NVIDIA GeForce RTX 4090", "8.9")
H100 = CardFacts("NVIDIA H100", "9.0")
RTX_5090 = CardFacts("NVIDIA GeForce RTX 5090", "12.0")
NEXT = CardFacts("NVIDIA of 2028", "14.0")
REFUSED = "refused"


@pytest.mark.parametrize(
    ("system", "driver", "cards", "label"),
    [
        ("Linux", NEW, [GTX_960], "cu126"),
        ("Linux", NEW, [GTX_1080], "cu126"),
        ("Linux", MIDDLE, [GTX_1080], "cu126"),
        ("Linux", OLD, [GTX_1080], REFUSED),
        ("Linux", NEW, [TITAN_V], "cu126"),
        ("Linux", NEW, [RTX_2080], "cu130"),
        ("Linux", MIDDLE, [RTX_2080], "cu126"),
        ("Linux", NEW, [RTX_3060], "cu130"),
        ("Linux", MIDDLE, [RTX_3060], "cu126"),
        ("Linux", NEW, [RTX_4090], "cu130"),
        ("Linux", "525.60.13", [RTX_4090], "cu126"),
        ("Linux", "525.60.12", [RTX_4090], REFUSED),
        ("Linux", NEW, [H100], "cu130"),
        ("Linux", NEW, [RTX_5090], "cu130"),
        ("Linux", "575.57.08", [RTX_5090], REFUSED),  # it needs CUDA 13's driver
        ("Linux", NEW, [NEXT], "cu130"),  # by PTX, compiled when it starts
        ("Windows", "581.15", [NEXT], REFUSED),  # where no PTX is
        ("Windows", "581.15", [GTX_1080], "cu126"),
        ("Windows", "581.15", [RTX_4090], "cu130"),
        ("Windows", "560.94", [RTX_4090], "cu126"),
        ("Windows", "527.41", [RTX_4090], REFUSED),
        ("Windows", "572.16", [RTX_5090], REFUSED),
        ("Linux", NEW, [RTX_4090, RTX_5090], "cu130"),
        ("Linux", NEW, [GTX_1080, RTX_4090], "cu126"),  # the one that both can use
        ("Linux", NEW, [GTX_1080, RTX_5090], "cu130"),  # none has code for both
        ("Linux", MIDDLE, [GTX_1080, RTX_5090], "cu126"),  # and the driver serves the old one
        ("Linux", NEW, [GTX_680], "cpu"),
        ("Linux", "", [], "cpu"),  # none, or AMD's or Intel's
        ("Windows", "", [], "cpu"),
    ],
)
def test_card_and_driver_give_the_newest_build_that_runs(
    system: str, driver: str, cards: list[CardFacts], label: str
) -> None:
    processor = "AMD64" if system == "Windows" else "x86_64"
    found = choose(Machine(system, processor, driver, tuple(cards)))
    assert (REFUSED if isinstance(found, Refusal) else found.label) == label
    assert found.reason.endswith((".", "!"))


def test_old_driver_is_refused_with_the_one_that_is_needed_and_a_way_on() -> None:
    found = choose(Machine("Windows", "AMD64", "572.16", (RTX_5090,)))
    assert isinstance(found, Refusal)
    assert "RTX 5090" in found.reason
    assert "572.16" in found.reason
    assert "580" in found.advice
    assert "--cpu" in found.advice


def test_processor_can_be_asked_for_beside_any_card() -> None:
    found = choose(Machine("Windows", "AMD64", "572.16", (RTX_5090,)), processor_only=True)
    assert isinstance(found, Build)
    assert found.label == "cpu"


def test_card_that_the_build_cannot_use_is_named() -> None:
    found = choose(Machine("Linux", "x86_64", NEW, (GTX_1080, RTX_5090)))
    assert isinstance(found, Build)
    assert found.left_out == (GTX_1080.name,)
    assert GTX_1080.name in found.reason


@pytest.mark.parametrize(
    ("system", "processor", "label"),
    [
        ("Darwin", "arm64", "cpu"),
        ("Darwin", "x86_64", REFUSED),
        ("Windows", "ARM64", REFUSED),
        ("Linux", "i686", REFUSED),
        ("Linux", "aarch64", "cpu"),
        ("FreeBSD", "amd64", REFUSED),
    ],
)
def test_system_decides_what_there_is_at_all(system: str, processor: str, label: str) -> None:
    found = choose(Machine(system, processor))
    assert (REFUSED if isinstance(found, Refusal) else found.label) == label


def test_arm_server_gets_builds_with_code_for_its_own_cards() -> None:
    hopper = choose(Machine("Linux", "aarch64", MIDDLE, (H100,)))
    turing = choose(Machine("Linux", "aarch64", NEW, (RTX_2080,)))
    assert isinstance(hopper, Build)
    assert hopper.label == "cu126"
    assert isinstance(turing, Refusal)


@pytest.mark.parametrize(
    ("system", "processor", "cards", "index"),
    [
        ("Linux", "x86_64", (RTX_4090,), ""),  # PyPI's own
        ("Linux", "x86_64", (GTX_1080,), "https://download.pytorch.org/whl/cu126"),
        ("Linux", "x86_64", (), "https://download.pytorch.org/whl/cpu"),
        ("Windows", "AMD64", (), ""),
        ("Windows", "AMD64", (RTX_4090,), "https://download.pytorch.org/whl/cu130"),
        ("Darwin", "arm64", (), ""),
    ],
)
def test_what_pypi_has_comes_from_there_and_is_locked(
    system: str, processor: str, cards: tuple[CardFacts, ...], index: str
) -> None:
    found = choose(Machine(system, processor, NEW, cards))
    assert isinstance(found, Build)
    assert (found.index, found.locked) == (index, not index)
    assert found.locked != ("+" in found.version)


@pytest.mark.parametrize("system", ["Linux x86_64", "Windows x86_64", "Darwin arm64"])
def test_sizes_that_are_called_exact_are_those_of_the_lock(system: str) -> None:
    name, _, processor = system.partition(" ")
    sizes = json.loads((LOCK / "sizes.json").read_text())[system]
    cards = (RTX_4090,) if name == "Linux" else ()
    found = choose(Machine(name, processor, NEW, cards))
    assert isinstance(found, Build)
    assert found.exact
    assert found.download == pytest.approx(sizes["torch.txt"], rel=0.02)


def test_lock_names_the_version_that_is_chosen() -> None:
    assert f"\ntorch=={torch_builds.TORCH}" in (LOCK / "torch.txt").read_text()


def test_this_machine_gets_something() -> None:
    assert isinstance(choose(Machine(platform.system(), platform.machine())), Build)
