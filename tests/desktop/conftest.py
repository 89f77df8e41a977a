"""A pool of real processes for the tests of the tray."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from real_pool import Pool


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    made = Pool(tmp_path)
    yield made
    made.close()
