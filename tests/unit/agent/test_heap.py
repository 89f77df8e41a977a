"""What an engine frees stays for its next step, and is given back when it is told to."""

from __future__ import annotations

import subprocess
import sys

import pytest

# In a process of its own: what is told to the C library holds for the whole of it.
FREES_A_LARGE_BLOCK = """
import psutil
from foxden_agent.engine import heap

MB = 1024**2
def resident():
    return psutil.Process().memory_info().rss / MB

{first}
before = resident()
block = bytearray(b"x") * (300 * MB)
del block
print(resident() - before, heap.spare() / MB)
heap.give_back()
print(resident() - before, heap.spare() / MB)
"""


def figures(first: str) -> list[float]:
    code = FREES_A_LARGE_BLOCK.format(first=first)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return [float(word) for word in done.stdout.split()]


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone can be told")
def test_large_block_freed_stays_and_is_spare_until_it_is_given_back() -> None:
    kept, spare, given_back, left = figures("assert heap.keep()")
    assert kept > 280
    assert 280 < spare < 400
    assert given_back < 20
    assert left < 1


def test_heap_that_was_not_told_keeps_nothing_and_has_nothing_to_spare() -> None:
    kept, spare, given_back, left = figures("")
    assert kept < 20
    assert given_back < 20
    assert spare == left == 0
