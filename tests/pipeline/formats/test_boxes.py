"""Laws of the boxes that may train."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.formats.boxes import clip, find_fault

WIDTH, HEIGHT = 20, 10
sides = st.floats(-50, 50, width=32)


@given(st.tuples(sides, sides, sides, sides))
def test_box_without_fault_lies_inside_after_clipping_and_has_an_area(raw: tuple[float, float, float, float]) -> None:
    if find_fault(raw, (WIDTH, HEIGHT)) is not None:
        return
    x, y, w, h = clip(raw, (WIDTH, HEIGHT))
    assert -1e-5 <= x < x + w <= WIDTH + 1e-5
    assert -1e-5 <= y < y + h <= HEIGHT + 1e-5
    assert find_fault((x, y, w, h), (WIDTH, HEIGHT)) is None


def test_box_inside_is_not_touched_by_clipping() -> None:
    # 382.48 + 256.8 would come back as 256.79999999999995 through corners
    assert clip((382.48, 0.0, 256.8, 474.31), (640, 480)) == (382.48, 0.0, 256.8, 474.31)
