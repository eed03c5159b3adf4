"""Laws of the checks of suspicious boxes, images and names: hand-worked cases, and overlaps against torchvision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import box_iou

from pipeline.formats.checks import check_boxes, find_contradictions, iou_matrix, name_pairs
from pipeline.formats.records import Box, RawBox

SIDES = st.floats(0.5, 50)


def box(number: int, xywh: Box, image_id: int = 1, category: str = "cell", **more: Any) -> RawBox:
    return RawBox(number, image_id, category, xywh, record=f"object {number}", **more)


def found(*boxes: RawBox, smallest_px: float = 3, duplicate_iou: float = 0.9) -> list[tuple[str, int | None, str]]:
    sizes = {1: (100, 50), 2: (100, 50)}
    rows = check_boxes(boxes, sizes, smallest_px=smallest_px, duplicate_iou=duplicate_iou)
    return [(row.check, row.box_id, row.reason) for row in rows]


def test_side_under_the_limit_is_small() -> None:
    assert found(box(1, (0, 0, 3, 3)), box(2, (0, 9, 2.9, 40))) == [("small", 2, "a side under 3 px")]
    # of 8 px only 2 lie inside the picture
    assert found(box(1, (98, 0, 8, 9))) == [("small", 1, "a side under 3 px")]
    assert found(box(1, (0, 0, 1, 1)), smallest_px=0) == []


def test_box_of_the_whole_picture() -> None:
    assert found(box(1, (0, 0, 100, 50))) == [("whole_picture", 1, "covers the whole picture")]
    assert found(box(1, (-9, -9, 200, 200))) == [("whole_picture", 1, "covers the whole picture")]
    assert found(box(1, (0, 0, 98, 50))) == []
    assert found(box(1, (0, 0, 100, 50), iscrowd=1)) == []


def test_second_box_of_an_object_is_a_duplicate() -> None:
    # 10 x 10 against 10 x 9.5: IoU .95
    first, second = box(1, (10, 10, 10, 10)), box(2, (10, 10, 10, 9.5))
    assert found(first, second) == [("duplicate", 2, "duplicate of object 1, IoU 0.950")]
    assert found(first, second, duplicate_iou=0.96) == []
    assert found(first, box(2, (10, 10, 10, 9.5), category="virus")) == []
    assert found(first, box(2, (10, 10, 10, 9.5), image_id=2)) == []
    assert found(first, box(2, (10, 10, 10, 9.5), iscrowd=1)) == []


def test_duplicates_are_of_a_box_that_stays() -> None:
    """A chain: 2 repeats 1, and 3 repeats 2 but not 1, so 3 stays."""
    boxes = [box(1, (0, 0, 10, 10)), box(2, (1, 0, 10, 10)), box(3, (2, 0, 10, 10))]
    assert found(*boxes, duplicate_iou=0.8) == [("duplicate", 2, "duplicate of object 1, IoU 0.818")]


@given(st.lists(st.tuples(SIDES, SIDES, SIDES, SIDES), min_size=1, max_size=8))
def test_overlaps_are_those_of_torchvision(boxes: list[Box]) -> None:
    xyxy = torch.tensor([(x, y, x + w, y + h) for x, y, w, h in boxes], dtype=torch.float64)
    assert torch.from_numpy(iou_matrix(boxes)).numpy() == pytest.approx(box_iou(xyxy, xyxy).numpy(), abs=1e-12)


def test_one_picture_with_two_truths_is_a_contradiction() -> None:
    digests, paths = {1: "a", 2: "a", 3: "a", 4: "b"}, {1: "a.png", 2: "copy.png", 3: "other.png", 4: "b.png"}
    boxes = [box(1, (0, 0, 5, 5), 1), box(2, (0, 0, 5, 5), 2), box(3, (0, 0, 5, 6), 3), box(4, (0, 0, 5, 5), 4)]
    rows = list(find_contradictions(digests, boxes, paths))
    assert [(row.image_id, row.box_id, row.reason) for row in rows] == [
        (3, None, "the same picture as a.png, with other boxes")
    ]


def test_names_that_differ_by_case_and_blanks() -> None:
    names = ["Traffic light", "car", "traffic_light", "Car", "bus", "traffic  Light"]
    assert name_pairs(names) == [
        ("Traffic light", "traffic_light"),
        ("car", "Car"),
        ("Traffic light", "traffic  Light"),
    ]
