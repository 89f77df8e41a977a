"""The real pynvml on a stand-in library that is built here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from nvml_stand_in import COMPILER, OtherProcess, StandIn, card_readings

from foxden_agent.readings import CardReadings

Read = Callable[..., tuple[CardReadings, ...]]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a library that is built once."""
    if COMPILER is None:
        pytest.skip("no C compiler (cc, gcc) to build the stand-in NVML with: install gcc")
    folder = tmp_path_factory.mktemp("nvml")
    StandIn(folder).build()
    return folder


@pytest.fixture
def stand_in(library: Path, tmp_path: Path) -> StandIn:
    """One card that tells everything, not said yet (`tell`)."""
    (tmp_path / "libnvidia-ml.so.1").hardlink_to(library / "libnvidia-ml.so.1")
    return StandIn(tmp_path)


@pytest.fixture
def reading(stand_in: StandIn) -> Iterator[Callable[..., Read]]:
    """A process that reads the devices named, with `read(at, *own pids)` to make it."""
    with ExitStack() as stack:

        def start(*devices: str, **environment: str) -> Read:
            told = {**stand_in.environment, **environment}
            other = stack.enter_context(
                OtherProcess("nvml_reading.py", "read", *devices, environment=told)
            )

            def read(at: float, *own: int) -> tuple[CardReadings, ...]:
                stand_in.tell()
                return tuple(map(card_readings, other.ask({"at": at, "own": own})))

            return read

        yield start
