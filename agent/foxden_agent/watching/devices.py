"""Which of the driver's cards is torch's "cuda:N". Pure.

NVML counts cards by their place on the PCI bus. CUDA counts the ones it may see, by default the
fastest first, and nobody else can tell which it takes for the fastest. So in this order:

1. by UUID or PCI bus id, where the engine tells one;
2. by CUDA_VISIBLE_DEVICES, where that names UUIDs;
3. by the bus order, where CUDA_DEVICE_ORDER=PCI_BUS_ID (CUDA_VISIBLE_DEVICES may pick from it);
4. by name and memory, where the engine tells them. Cards that are alike go in bus order, which is
   a guess; so does what is left.

A MIG slice is not matched: the driver tells temperature and the like of the whole card alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CudaDevice:
    """A card as the engine knows it; what it does not tell is empty or None."""

    device: str  # "cuda:0"
    name: str = ""  # "NVIDIA GeForce RTX 4070"
    memory_total: int | None = None  # bytes; torch tells a little less than the driver
    uuid: str = ""  # with or without "GPU-"
    pci: str = ""  # "00000000:01:00.0"; the domain and the function may be left out


@dataclass(frozen=True, slots=True)
class DriverCard:
    """A card as the driver lists it."""

    index: int  # in bus order
    uuid: str
    pci: str
    name: str = ""
    memory_total: int | None = None  # bytes


def match(
    devices: Sequence[CudaDevice], cards: Sequence[DriverCard], environ: Mapping[str, str]
) -> dict[str, DriverCard]:
    """The driver's card of each device; devices for which there is none are left out."""
    free = list(cards)
    found: dict[str, DriverCard] = {}

    def take(device: CudaDevice, card: DriverCard | None) -> None:
        if card is not None and card in free:
            found[device.device] = card
            free.remove(card)

    for device in devices:
        if device.uuid or device.pci:
            take(device, _by_identity(device, free))
    rest = [device for device in devices if not (device.uuid or device.pci)]
    visible = _visible(environ)
    if visible is not None and all(entry.lower().startswith("gpu-") for entry in visible):
        for device in rest:
            number = _number(device)
            prefix = _plain(visible[number]) if number < len(visible) else "none"
            take(device, next((c for c in free if _plain(c.uuid).startswith(prefix)), None))
        return found
    if environ.get("CUDA_DEVICE_ORDER", "").upper() == "PCI_BUS_ID":
        for device in rest:
            index = _bus_index(_number(device), visible)
            take(device, next((card for card in free if card.index == index), None))
        return found
    if visible is not None and any(not entry.isdigit() for entry in visible):
        return found  # MIG slices, or nothing at all
    for device in rest:
        take(device, _alike(device, free))
    for device in rest:
        if device.device not in found and not device.name:
            take(device, free[0] if free else None)
    return found


def _by_identity(device: CudaDevice, cards: Sequence[DriverCard]) -> DriverCard | None:
    for card in cards:
        if device.uuid:
            if _plain(device.uuid) == _plain(card.uuid):
                return card
        elif _bus(device.pci) == _bus(card.pci):
            return card
    return None


def _alike(device: CudaDevice, cards: Sequence[DriverCard]) -> DriverCard | None:
    """The first card of that name; of several, the one whose memory is nearest."""
    named = [card for card in cards if device.name and card.name == device.name]

    def difference(card: DriverCard) -> int:
        return abs((card.memory_total or 0) - (device.memory_total or 0))

    return min(named, key=difference, default=None)


def _visible(environ: Mapping[str, str]) -> list[str] | None:
    """The entries of CUDA_VISIBLE_DEVICES; None: all cards are visible."""
    text = environ.get("CUDA_VISIBLE_DEVICES")
    if text is None:
        return None
    return [entry.strip() for entry in text.split(",")] if text.strip() else ["-1"]


def _bus_index(number: int, visible: Sequence[str] | None) -> int | None:
    if visible is None:
        return number
    if number < len(visible) and visible[number].isdigit():
        return int(visible[number])
    return None


def _number(device: CudaDevice) -> int:
    return int(device.device.partition(":")[2] or 0)


def _plain(uuid: str) -> str:
    return uuid.lower().removeprefix("gpu-")


def _bus(pci: str) -> tuple[int, ...]:
    """Domain, bus and device as numbers: "0000:01:00.0" and "00000000:01:00.0" are one card."""
    parts = [int(part, 16) for part in pci.split(".")[0].split(":")]
    return (0,) * (3 - len(parts)) + tuple(parts)
