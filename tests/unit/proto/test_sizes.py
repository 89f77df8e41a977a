"""Classes of picture sizes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from foxden_proto import limits
from foxden_proto.sizes import SIZE_CLASSES, size_class

LARGEST = limits.SIDE_PIXELS[1] ** 2


@given(st.integers(0, LARGEST))
def test_class_is_the_smallest_that_holds_the_picture(pixels: int) -> None:
    found = size_class(pixels)
    assert found in SIZE_CLASSES
    assert pixels <= found
    assert all(other < pixels for other in SIZE_CLASSES if other < found)


@given(st.integers(256 * 256, LARGEST))
def test_class_is_never_more_than_a_quarter_larger(pixels: int) -> None:
    assert size_class(pixels) <= 1.25 * pixels


def test_usual_sizes_are_classes_of_their_own_and_there_are_few() -> None:
    assert {side * side for side in (256, 512, 1024, 2048, 4096)} <= set(SIZE_CLASSES)
    assert list(SIZE_CLASSES) == sorted(set(SIZE_CLASSES))
    assert len(SIZE_CLASSES) < 40
