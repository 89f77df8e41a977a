"""Which build of torch a machine needs. Pure: what the driver told in, a build or a refusal out.

Sources, for torch 2.12 to 2.14, which ship the same builds:
  - CUDA 12.6, 13.0 and 13.2, and the cards each has code for: PyTorch's RELEASE.md, "PyTorch CUDA
    Support Matrix", as of pytorch/pytorch#182849 (2.12) and #197555 ("2.12, 2.13 and 2.14");
    CUDA 12.8 was dropped with 2.12.
  - The oldest driver of a CUDA generation: NVIDIA's CUDA toolkit release notes, "CUDA Toolkit and
    Minimum Required Driver Version for CUDA Minor Version Compatibility" (doctor/judging.py).
  - CUDA 13.2 is not chosen: it has code for the same cards as 13.0 and needs the same driver.
  - Only Linux builds carry PTX, which cards newer than the build can run.
PyPI's own wheels are CUDA 13.0 on Linux and for the processor elsewhere: those are locked by hash.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from foxden_agent.doctor.judging import CardFacts, driver_suffices, least_driver, supports

TORCH = "2.13.0"  # packaging/lock_engine.py holds it to what constraints.txt says
_WHEELS = "https://download.pytorch.org/whl/"
_MB = 1000**2

_X86 = {
    "12.6": ("sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"),
    "13.0": ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"),
}
_ARM = {
    "12.6": ("sm_80", "sm_90"),
    "13.0": ("sm_80", "sm_90", "sm_100", "sm_110", "sm_120"),
}


@dataclass(frozen=True)
class Machine:
    """What decides: where torch is to run."""

    system: str  # platform.system(): "Linux", "Windows", "Darwin"
    processor: str  # platform.machine(), e.g. "x86_64", "AMD64", "aarch64", "arm64"
    driver: str = ""  # NVIDIA's, "580.95.05"; empty: there is none
    cards: tuple[CardFacts, ...] = ()  # NVIDIA's alone: torch uses no other ones here


@dataclass(frozen=True)
class Build:
    """A build of torch, and why it is the one."""

    label: str  # "cpu", "cu126", "cu130"
    version: str  # "2.13.0+cu126"; of PyPI's own wheels "2.13.0"
    index: str  # where its wheels are; empty: PyPI
    locked: bool  # its files' hashes are in lock/torch.txt
    download: int  # bytes of torch and what it alone needs
    disk: int  # bytes of the same, unpacked
    exact: bool  # the sizes are those of the locked files, and not of an older release
    reason: str  # one sentence for people
    left_out: tuple[str, ...] = ()  # cards that this build cannot use, by name


@dataclass(frozen=True)
class Refusal:
    """There is no build that would do. `reason` says what is wrong, `advice` what to do."""

    reason: str
    advice: str


# What is downloaded beside the common packages, and what it takes on disk. Exact: the files of
# lock/torch.txt. The others are those of torch 2.9 to 2.12 where a person wrote them down, since
# download.pytorch.org could not be asked when this was written; uv tells the true ones.
_SIZES: dict[tuple[str, str], tuple[int, int, bool]] = {
    ("Linux", "cu130"): (2_730 * _MB, 5_400 * _MB, True),
    ("Linux", "cu126"): (2_900 * _MB, 6_200 * _MB, False),
    ("Linux", "cpu"): (192 * _MB, 760 * _MB, False),
    ("Windows", "cu130"): (1_900 * _MB, 4_200 * _MB, False),
    ("Windows", "cu126"): (2_600 * _MB, 4_900 * _MB, False),
    ("Windows", "cpu"): (122 * _MB, 520 * _MB, True),
    ("Darwin", "cpu"): (111 * _MB, 430 * _MB, True),
}


def choose(machine: Machine, *, processor_only: bool = False) -> Build | Refusal:
    """The build for a machine. `processor_only`: its owner wants no card used, or can't yet.

    >>> card = CardFacts("NVIDIA GeForce GTX 1080", "6.1")
    >>> choose(Machine("Linux", "x86_64", "580.95.05", (card,))).label
    'cu126'
    """
    if (machine.system, _kind(machine.processor)) not in (
        ("Linux", "x86"),
        ("Linux", "arm"),
        ("Windows", "x86"),
        ("Darwin", "arm"),
    ):
        return Refusal(
            f"There is no torch {TORCH} for {machine.system} on {machine.processor}.",
            "Use a 64-bit PC with Windows or Linux, or a Mac with Apple's own processor.",
        )
    if processor_only:
        return _build(machine, "cpu", "It was asked for: pictures are drawn on the processor.")
    if machine.system == "Darwin":
        return _build(machine, "cpu", "On a Mac, pictures are drawn on the processor.")
    if not machine.cards:
        return _build(
            machine,
            "cpu",
            "No NVIDIA card was found: pictures are drawn on the processor, minutes each. "
            "AMD and Intel cards are not used.",
        )
    usable = [card for card in machine.cards if _modern(card)]
    if not usable:
        names = _names(machine.cards)
        return _build(
            machine,
            "cpu",
            f"No build of torch {TORCH} has code for {names}, which is older than 2014: "
            "pictures are drawn on the processor, minutes each.",
            left_out=machine.cards,
        )
    return _for_cards(machine, usable)


def _for_cards(machine: Machine, cards: Sequence[CardFacts]) -> Build | Refusal:
    """The build that uses most of the cards; of two equal ones, the newer CUDA's."""
    told = _CardsByBuild.of(machine, cards)
    fitting = [one for one in told if one.runs and one.driver_suffices]
    best = max(fitting, key=lambda one: (len(one.runs), float(one.cuda)), default=None)
    wanted = max(told, key=lambda one: (len(one.runs), float(one.cuda)))
    if not wanted.runs:
        return Refusal(
            f"torch {TORCH} has no code for {_names(cards)} yet.",
            "Update Foxden; until then the processor can draw: foxden engine install --cpu.",
        )
    if best is None:
        least = least_driver(wanted.cuda, machine.system)
        return Refusal(
            f"{_names(wanted.runs)} needs NVIDIA's driver {least} or newer, "
            f"and {machine.driver or 'an unknown one'} is installed.",
            f"Update the driver to at least {least} (nvidia.com/drivers), restart the PC, and "
            "start the installation again; until then the processor can draw: "
            "foxden engine install --cpu.",
        )
    label = "cu" + best.cuda.replace(".", "")
    unused = tuple(card for card in machine.cards if card not in best.runs)
    reason = f"{_names(best.runs)} with driver {machine.driver} runs CUDA {best.cuda}."
    if unused:
        reason += f" {_names(unused)} will not be used: no build has code for both."
    return _build(machine, label, reason, left_out=unused)


@dataclass(frozen=True)
class _CardsByBuild:
    """What one CUDA build would do here."""

    cuda: str
    runs: tuple[CardFacts, ...]
    driver_suffices: bool

    @classmethod
    def of(cls, machine: Machine, cards: Sequence[CardFacts]) -> list[_CardsByBuild]:
        table = _ARM if _kind(machine.processor) == "arm" else _X86
        found = []
        for cuda, architectures in table.items():
            if cuda == "13.0" and machine.system == "Linux":
                architectures = (*architectures, "compute_120")
            runs = tuple(c for c in cards if supports(architectures, c.compute_capability))
            enough = driver_suffices(machine.driver, cuda, machine.system)
            found.append(cls(cuda, runs, enough))
        return found


def _build(
    machine: Machine, label: str, reason: str, *, left_out: Sequence[CardFacts] = ()
) -> Build:
    pypi = "cu130" if machine.system == "Linux" else "cpu"
    locked = label == pypi
    download, disk, exact = _SIZES[machine.system, label]
    return Build(
        label,
        TORCH if locked else f"{TORCH}+{label}",
        "" if locked else _WHEELS + label,
        locked,
        download,
        disk,
        exact,
        reason,
        tuple(card.name for card in left_out),
    )


def _modern(card: CardFacts) -> bool:
    """Whether any build could have code for it; a card that does not tell is taken to be modern."""
    return not re.fullmatch(r"[0-4]\.\d", card.compute_capability)


def _names(cards: Sequence[CardFacts]) -> str:
    return " and ".join(dict.fromkeys(card.name for card in cards))


def _kind(processor: str) -> str:
    known = {"x86_64": "x86", "amd64": "x86", "aarch64": "arm", "arm64": "arm"}
    return known.get(processor.lower(), "")
