"""Classes of picture sizes: what a card's memory is asked about. Pure.

What a picture takes of a card's memory goes by its pixels, whichever way up it is. A pool must not
keep a queue, and the agent a measurement, for each of thousands of sizes, so both count in the
same few classes; each is named by the largest picture in it.
"""

from __future__ import annotations

from bisect import bisect_left

from foxden_proto import limits

_SMALLEST = 256 * 256  # what is smaller is no easier: weights are what counts there
_LARGEST = limits.SIDE_PIXELS[1] ** 2


def _bounds() -> tuple[int, ...]:
    found = []
    octave = _SMALLEST
    while octave < _LARGEST:
        found += [octave, octave * 5 // 4, octave * 3 // 2, octave * 7 // 4]
        octave *= 2
    return (*found, _LARGEST)


SIZE_CLASSES = _bounds()  # pixels, ascending; 512 x 512, 1024 x 1024 and 2048 x 2048 among them


def size_class(pixels: int) -> int:
    """Pixels of the largest picture that counts like one of so many.

    >>> size_class(64 * 64), size_class(512 * 512), size_class(832 * 1216)
    (65536, 262144, 1048576)
    """
    return SIZE_CLASSES[min(bisect_left(SIZE_CLASSES, pixels), len(SIZE_CLASSES) - 1)]
