"""Pools of real processes for the system tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from real_pool import Pool


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    """An empty pool of its own, for tests that break things."""
    made = Pool(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="session")
def calm_pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    """One broker and one agent that every test which breaks nothing shares."""
    made = Pool(tmp_path_factory.mktemp("calm"))
    made.start_broker()
    made.start_agent("one")
    yield made
    made.close()
