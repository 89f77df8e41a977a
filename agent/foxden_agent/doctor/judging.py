"""What the facts of a machine mean for an agent. Pure: facts in, findings out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

_MIB, _GIB = 1024**2, 1024**3

# Less and nothing works; less than the second and the next model may not fit.
_DISK_LEAST, _DISK_LOW = 500 * _MIB, 5 * _GIB
_RAM_FOR_MODEL = 1.5  # a model is read into RAM once, with buffers, before it is in VRAM
# Windows commits memory before it is used: CUDA and the weights together want this much of RAM and
# page file. Too little ends the engine with exit codes like 3221225477.
_COMMIT_LEAST = 24 * _GIB
_CLOCK_ODD, _CLOCK_WRONG = 30.0, 300.0  # seconds
_SLOW_ANSWER = 1.0  # seconds

# The oldest drivers for any release of a CUDA generation ("minor version compatibility" in NVIDIA's
# CUDA toolkit release notes): Linux, Windows.
_DRIVERS = {11: ("450.80.02", "452.39"), 12: ("525.60.13", "528.33"), 13: ("580.65.06", "580")}


class Level(Enum):
    """How much a finding matters; the worst decides the exit code."""

    GOOD = "good"
    ADVICE = "advice"  # works, and could be better
    PROBLEM = "problem"  # does not work


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: what was found, and what to do about it."""

    subject: str
    level: Level
    found: str  # one sentence
    advice: str = ""  # what to do; empty where nothing is to be done


@dataclass(frozen=True)
class TorchFacts:
    """What the engine's Python says of torch. `error` is empty where it could be imported."""

    error: str = ""
    version: str = ""  # e.g. "2.13.0+cu130"
    cuda: str = ""  # e.g. "13.0"; empty: a build for the processor
    architectures: tuple[str, ...] = ()  # e.g. ("sm_80", "sm_90", "compute_90")
    usable_cards: int = 0  # that torch itself can use now
    diffusers: str = ""
    missing: bool = False  # the installed program has no engine yet


@dataclass(frozen=True)
class CardFacts:
    """An NVIDIA card, as the driver describes it."""

    name: str
    compute_capability: str = ""  # "8.9"
    memory_total: int = 0  # bytes


@dataclass(frozen=True)
class DriverFacts:
    """NVIDIA's driver. `error`: why it cannot be asked; `absent`: there is none at all."""

    absent: bool = False
    error: str = ""
    version: str = ""  # "580.95.05"
    cards: tuple[CardFacts, ...] = ()


@dataclass(frozen=True)
class DiskFacts:
    """A folder that the agent needs."""

    what: str  # "home folder", "model folder"
    path: str
    free: int = 0  # bytes
    error: str = ""  # why it cannot be written (or read)


@dataclass(frozen=True)
class BrokerFacts:
    """What came of calling the broker. `errors`: one sentence per door that did not open."""

    address: str
    errors: tuple[str, ...] = ()
    seconds: float = 0.0  # until its HTTP door answered
    clock_off: float | None = None  # seconds that this PC is ahead of it; None: not told
    wrong: str = ""  # it is not the broker that the address names


@dataclass(frozen=True)
class Facts:
    """Everything that is judged."""

    system: str = "Linux"  # platform.system()
    torch: TorchFacts = field(default_factory=TorchFacts)
    driver: DriverFacts = field(default_factory=DriverFacts)
    disks: tuple[DiskFacts, ...] = ()
    memory_total: int = 0  # bytes of RAM
    swap_total: int = 0  # bytes of page file or swap
    models: int = 0  # besides the demo model
    largest_model: int = 0  # bytes
    left_out: tuple[str, ...] = ()  # what lies in the model folder and can't be used, with why
    brokers: tuple[BrokerFacts, ...] = ()  # that was named, or those of the pools it has joined
    agent_runs: bool = False  # from this home folder


def judge(facts: Facts) -> list[Finding]:
    """The findings in the order in which a person would mend them."""
    return [
        *_driver(facts),
        *_torch(facts),
        *_disks(facts),
        *_memory(facts),
        *_models(facts),
        *_brokers(facts),
        *_agent(facts),
    ]


def worst(findings: Sequence[Finding]) -> Level:
    """GOOD where there is nothing."""
    order = list(Level)
    return max((one.level for one in findings), key=order.index, default=Level.GOOD)


def supports(architectures: Sequence[str], compute_capability: str) -> bool:
    """Whether a torch build runs on a card. Code for sm_XY runs on cards of the same major version
    and the same or a later minor one; compute_XY (PTX) on every later card.

    >>> supports(["sm_80", "sm_86"], "8.9"), supports(["sm_80", "sm_90"], "12.0")
    (True, False)
    """
    major, minor = _capability(compute_capability)
    for name in architectures:
        found = re.fullmatch(r"(sm|compute)_(\d+)(\d)[a-z]?", name)
        if not found:
            continue
        of, least = int(found[2]), int(found[3])
        if of == major and least <= minor:
            return True
        if found[1] == "compute" and (of, least) <= (major, minor):
            return True
    return False


def driver_suffices(version: str, cuda: str, system: str) -> bool:
    """Whether a driver runs programs built with this CUDA. Unknown versions are taken to do."""
    least = least_driver(cuda, system)
    if not least or not version:
        return True
    return _numbers(version) >= _numbers(least)


def _driver(facts: Facts) -> Iterator[Finding]:
    driver = facts.driver
    if driver.absent:
        yield Finding(
            "card",
            Level.ADVICE,
            "No NVIDIA driver is installed: pictures are drawn on the processor, minutes each.",
            "If this PC has an NVIDIA card, install its driver from nvidia.com and start again.",
        )
        return
    if driver.error:
        yield Finding(
            "card",
            Level.PROBLEM,
            f"The NVIDIA driver does not answer ({driver.error}).",
            "Restart the PC; if that does not help, install the driver again.",
        )
        return
    for card in driver.cards:
        memory = f"{card.memory_total / _GIB:.0f} GiB"
        yield Finding("card", Level.GOOD, f"{card.name}, {memory}, driver {driver.version}.")


def _torch(facts: Facts) -> Iterator[Finding]:
    torch, cards = facts.torch, facts.driver.cards
    if torch.missing:
        yield Finding(
            "engine",
            Level.PROBLEM,
            "The engine isn't installed yet: nothing can be drawn.",
            "Run: foxden engine install.",
        )
        return
    if torch.error:
        yield Finding(
            "engine",
            Level.PROBLEM,
            f"The engine cannot start: {torch.error}.",
            "Install what it needs: pip install 'foxden[engine]'.",
        )
        return
    if cards and not torch.cuda:
        yield Finding(
            "engine",
            Level.PROBLEM,
            f"torch {torch.version} is a build for the processor: it cannot use {cards[0].name}.",
            "Install a CUDA build of torch: see pytorch.org/get-started for the command.",
        )
        return
    if cards and not driver_suffices(facts.driver.version, torch.cuda, facts.system):
        least = least_driver(torch.cuda, facts.system)
        yield Finding(
            "engine",
            Level.PROBLEM,
            f"torch {torch.version} needs driver {least} or newer; "
            f"{facts.driver.version} is installed.",
            "Update the NVIDIA driver and restart the PC.",
        )
        return
    unfit = [c for c in cards if not _runs_on(torch, c)]
    for card in unfit:
        yield Finding(
            "engine",
            Level.PROBLEM,
            f"torch {torch.version} has no code for {card.name} "
            f"(compute capability {card.compute_capability}).",
            "Install a build of torch that has: newer cards need a newer one, cards older than "
            "about eight years an older one.",
        )
    if cards and torch.cuda and not unfit and torch.usable_cards < len(cards):
        yield Finding(
            "engine",
            Level.ADVICE,
            f"torch sees {torch.usable_cards} of {len(cards)} cards.",
            "Look whether CUDA_VISIBLE_DEVICES hides one; after a driver update restart the PC.",
        )
    elif not unfit:
        what = f"torch {torch.version}, diffusers {torch.diffusers}"
        yield Finding("engine", Level.GOOD, f"{what} can be loaded.")


def _runs_on(torch: TorchFacts, card: CardFacts) -> bool:
    if not card.compute_capability or not torch.architectures:
        return True  # nobody says: drawing will tell
    return supports(torch.architectures, card.compute_capability)


def _disks(facts: Facts) -> Iterator[Finding]:
    for disk in facts.disks:
        if disk.error:
            yield Finding(
                "disk",
                Level.PROBLEM,
                f"The {disk.what} {disk.path} cannot be used ({disk.error}).",
                "Give yourself the right to it, or choose another folder.",
            )
            continue
        free = f"{disk.free / _GIB:.1f} GiB"
        if disk.free < _DISK_LEAST:
            level, advice = Level.PROBLEM, "Make space: models are several GiB each."
        elif disk.free < max(_DISK_LOW, facts.largest_model):
            level, advice = Level.ADVICE, "Make space: the next model may not fit."
        else:
            level, advice = Level.GOOD, ""
        yield Finding("disk", level, f"The {disk.what} {disk.path} has {free} left.", advice)


def _memory(facts: Facts) -> Iterator[Finding]:
    ram = f"{facts.memory_total / _GIB:.0f} GiB of RAM"
    if facts.memory_total < _RAM_FOR_MODEL * facts.largest_model:
        size = facts.largest_model / _GIB
        yield Finding(
            "memory",
            Level.ADVICE,
            f"The largest model has {size:.1f} GiB, and this PC {ram}: loading it will be slow.",
            "Offer smaller models, or a half-precision file of this one.",
        )
    elif facts.system == "Windows" and facts.memory_total + facts.swap_total < _COMMIT_LEAST:
        page = f"a page file of {facts.swap_total / _GIB:.0f} GiB"
        yield Finding(
            "memory",
            Level.ADVICE,
            f"{ram} with {page}: loading a large model can end the engine without a word.",
            "Let Windows manage the page file's size, on a disk with space (System, Advanced).",
        )
    else:
        yield Finding("memory", Level.GOOD, f"{ram}.")


def _models(facts: Facts) -> Iterator[Finding]:
    for line in facts.left_out:
        advice = "Mend it, or take it out of the model folder."
        yield Finding("models", Level.ADVICE, f"Left out: {line}.", advice)
    if not facts.models:
        yield Finding(
            "models",
            Level.ADVICE,
            "Only the built-in demo model is here: it draws simple shapes of 64 pixels.",
            "`foxden fetch-model` shows models to begin with. Or put one into the model folder: a "
            "diffusers folder, or a .safetensors file with its configuration.",
        )
    else:
        yield Finding("models", Level.GOOD, f"{facts.models} besides the demo model.")


def _brokers(facts: Facts) -> Iterator[Finding]:
    if not facts.brokers:
        text = "No broker was named and no pool was joined, so none was called."
        yield Finding("broker", Level.ADVICE, text, "Give its address: foxden doctor --broker URL.")
    for broker in facts.brokers:
        yield from _broker(broker)


def _broker(broker: BrokerFacts) -> Iterator[Finding]:
    if broker.wrong:
        yield Finding("broker", Level.PROBLEM, f"{_sentence(broker.wrong)}")
        return
    for error in broker.errors:
        yield Finding(
            "broker",
            Level.PROBLEM,
            _sentence(error),
            "See that the broker runs, that the address is right, and that no firewall or proxy "
            "stands between.",
        )
    if broker.errors:
        return
    slow = broker.seconds > _SLOW_ANSWER
    text = f"{broker.address} answers after {broker.seconds * 1000:.0f} ms."
    level = Level.ADVICE if slow else Level.GOOD
    yield Finding("broker", level, text, "A slow network makes pictures late." if slow else "")
    yield from _clock(broker.clock_off)


def _clock(off: float | None) -> Iterator[Finding]:
    if off is None:
        return
    if abs(off) < _CLOCK_ODD:
        yield Finding("clock", Level.GOOD, "This PC's clock agrees with the broker's.")
        return
    way = "ahead of" if off > 0 else "behind"
    yield Finding(
        "clock",
        Level.PROBLEM if abs(off) >= _CLOCK_WRONG else Level.ADVICE,
        f"This PC's clock is {abs(off):.0f} s {way} the broker's.",
        "Let the system set the time by itself: certificates and quiet hours go by it.",
    )


def _agent(facts: Facts) -> Iterator[Finding]:
    text = "An agent runs from this home folder." if facts.agent_runs else "No agent runs."
    yield Finding("agent", Level.GOOD, text)


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith(".") else f"{text}."


def least_driver(cuda: str, system: str) -> str:
    """The oldest driver that runs programs built with this CUDA; empty where nobody knows."""
    major = int(cuda.partition(".")[0]) if cuda.partition(".")[0].isdecimal() else 0
    linux, windows = _DRIVERS.get(major, ("", ""))
    return windows if system == "Windows" else linux


def _capability(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return int(major), int(minor or 0)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))
