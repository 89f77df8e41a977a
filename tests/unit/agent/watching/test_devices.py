"""Which of the driver's cards is torch's "cuda:N"."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foxden_agent.watching.devices import CudaDevice, DriverCard, match

GIB = 1024**3
OLD = DriverCard(0, "GPU-aa11", "00000000:01:00.0", "RTX 3060", 12 * GIB)
FAST = DriverCard(1, "GPU-bb22", "00000000:02:00.0", "RTX 4090", 24 * GIB)
TWIN = DriverCard(2, "GPU-cc33", "00000000:41:00.0", "RTX 4090", 24 * GIB)
ALL = [OLD, FAST, TWIN]


def matched(*devices: CudaDevice, **environ: str) -> list[int | None]:
    found = match(devices, ALL, environ)
    return [found[d.device].index if d.device in found else None for d in devices]


def test_uuid_decides_whatever_the_environment_says() -> None:
    devices = CudaDevice("cuda:0", uuid="CC33"), CudaDevice("cuda:1", uuid="GPU-aa11")
    assert matched(*devices, CUDA_VISIBLE_DEVICES="1,0") == [2, 0]


@pytest.mark.parametrize("pci", ["0000:41:00.0", "00000000:41:00.0", "41:00", "0:41:0.0"])
def test_bus_id_decides_in_any_spelling(pci: str) -> None:
    assert matched(CudaDevice("cuda:0", pci=pci)) == [2]


def test_visible_devices_by_uuid_give_the_order() -> None:
    devices = CudaDevice("cuda:0"), CudaDevice("cuda:1"), CudaDevice("cuda:2")
    assert matched(*devices, CUDA_VISIBLE_DEVICES="GPU-cc, GPU-aa11") == [2, 0, None]


def test_bus_order_is_the_drivers_order() -> None:
    devices = CudaDevice("cuda:0"), CudaDevice("cuda:1")
    assert matched(*devices, CUDA_DEVICE_ORDER="PCI_BUS_ID") == [0, 1]
    order = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "2,0"}
    assert matched(*devices, **order) == [2, 0]


def test_fastest_first_is_told_apart_by_name_and_twins_go_in_bus_order() -> None:
    devices = [
        CudaDevice("cuda:0", "RTX 4090", 24 * GIB - 5000),
        CudaDevice("cuda:1", "RTX 4090", 24 * GIB - 5000),
        CudaDevice("cuda:2", "RTX 3060", 12 * GIB - 5000),
    ]
    assert matched(*devices) == [1, 2, 0]


def test_one_name_with_two_sizes_is_told_apart_by_memory() -> None:
    small = replace(OLD, index=3, uuid="GPU-dd44", memory_total=8 * GIB)
    found = match([CudaDevice("cuda:0", "RTX 3060", 8 * GIB)], [OLD, small], {})
    assert found["cuda:0"].index == 3


def test_engine_that_tells_nothing_gets_the_bus_order() -> None:
    assert matched(CudaDevice("cuda:0"), CudaDevice("cuda:1")) == [0, 1]


@pytest.mark.parametrize("visible", ["MIG-1234", "", "-1", "0,MIG-1234"])
def test_slices_and_hidden_cards_are_not_matched(visible: str) -> None:
    assert matched(CudaDevice("cuda:0"), CUDA_VISIBLE_DEVICES=visible) == [None]


def test_card_of_another_name_does_not_stand_in() -> None:
    assert matched(CudaDevice("cuda:0", "RTX 5090", 32 * GIB)) == [None]


devices = st.builds(
    CudaDevice,
    st.integers(0, 4).map("cuda:{}".format),
    st.sampled_from(["", "RTX 4090", "RTX 3060", "another"]),
    st.none() | st.integers(0, 32 * GIB),
    st.sampled_from(["", "bb22", "none"]),
)


@given(
    st.lists(devices, max_size=4, unique_by=lambda device: device.device),
    st.fixed_dictionaries(
        {},
        optional={
            "CUDA_DEVICE_ORDER": st.sampled_from(["PCI_BUS_ID", "FASTEST_FIRST"]),
            "CUDA_VISIBLE_DEVICES": st.text("012,GPU-abc", max_size=9),
        },
    ),
)
def test_no_card_is_given_to_two_devices(asked: list[CudaDevice], environ: dict[str, str]) -> None:
    found = match(asked, ALL, environ)
    assert set(found) <= {device.device for device in asked}
    assert len({card.index for card in found.values()}) == len(found)
