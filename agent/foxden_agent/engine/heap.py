"""The C library's heap, told to keep what a step frees for the next one.

glibc takes each large block from the system and hands it back with the last use. A network on a CPU
asks for the same gigabytes in every step (oneDNN lays each convolution's weights out anew), and the
system clears each page again: half of the processor time of a step of a full-size model. Kept,
blocks go from layer to layer, from step to step, and from a model that leaves to one that comes.

What is kept is memory that the owner lacks. So it is given back at the end of each load and of each
batch; between an unload and the load that follows it stays, and counts as free (`spare`).

Elsewhere than on Linux with glibc 2.33 or newer nothing here does anything.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

# malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_NEVER = -1
# Larger than any tensor of the models that a CPU draws with in this life.
_MMAP_FROM = 1024**3


class _Mallinfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


_libc: Any = None  # once it keeps what is freed
_given_back = 0  # free in the heap, but not in memory any more


def keep() -> bool:
    """From now on what is freed stays in this process until `give_back`. False: it can't be done
    here. Before other threads run: heaps of their own, which they would make, stay small."""
    global _libc
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None)
    if not all(hasattr(libc, name) for name in ("mallopt", "malloc_trim", "mallinfo2")):
        return False  # musl, or too old
    libc.mallinfo2.restype = _Mallinfo2
    options = ((_M_ARENA_MAX, 1), (_M_MMAP_THRESHOLD, _MMAP_FROM), (_M_TRIM_THRESHOLD, _NEVER))
    if not all(libc.mallopt(option, value) for option, value in options):
        return False
    _libc = libc
    return True


def give_back() -> None:
    """Hand what is not used to the system."""
    global _given_back
    if _libc is not None:
        _libc.malloc_trim(0)
        _given_back = _libc.mallinfo2().fordblks


def spare() -> int:
    """Bytes that this process holds and nothing in it uses; rather too few than too many: what was
    given back and is used again meanwhile is taken off."""
    if _libc is None:
        return 0
    return max(0, int(_libc.mallinfo2().fordblks) - _given_back)
