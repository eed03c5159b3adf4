"""Laws of the boxes of COCO segmentations, against hand-worked masks and pycocotools."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as pycocotools_mask

from pipeline.formats.segmentation import enclose_segmentation

# Numbered along the columns from 0, the pixels of 1 are 5, 6 and 8, 9, 10.
PIXELS = np.array([[0, 0, 1, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]], dtype=np.uint8)


@pytest.mark.parametrize(
    ("segmentation", "expected"),
    [
        ([[4, 1, 9, 5.5, 6, 7]], (4, 1, 5, 6)),
        ([[4, 1, 9, 5.5, 6, 7], [1, 2, 3, 2, 3, 8.5]], (1, 1, 8, 7.5)),  # both parts: x 1..9, y 1..8.5
        # The mask above, in columns 0000 | 0110 | 1110 | 0000: 5 pixels of 0, 2 of 1 (5, 6), 1 of 0, 3 of 1 (8, 9, 10),
        # 5 of 0. Columns 1 and 2, rows 0 to 2: x 1, y 0, width 2, height 3.
        ({"size": [4, 4], "counts": [5, 2, 1, 3, 5]}, (1, 0, 2, 3)),
        # One run over the end of a column (pixels 6 to 9) reaches its lowest row and the next column's topmost.
        ({"size": [4, 4], "counts": [6, 4, 6]}, (1, 0, 2, 4)),
        ({"size": [4, 4], "counts": [0, 1, 15]}, (0, 0, 1, 1)),
        ({"size": [4, 4], "counts": [15, 1]}, (3, 3, 1, 1)),
        ({"size": [4, 4], "counts": [0, 16]}, (0, 0, 4, 4)),
        # Compressed: 5 2 1 3 5 as characters from 48; from the fourth on, differences: 3 - 2 = 1, 5 - 1 = 4. Each fits
        # into one group of five bits, of which the highest is the sign: "5" "2" "1" "1" "4".
        ({"size": [4, 4], "counts": "52114"}, (1, 0, 2, 3)),
        # 6 4 6: "646"
        ({"size": [4, 4], "counts": "646"}, (1, 0, 2, 4)),
        # 8 x 8 pixels, 40 of 0 and 24 of 1: columns 5, 6 and 7. 40 = 8 + 1 * 32 has the groups 8, with bit 5 as another
        # follows, "X" = 48 + 8 + 32, and 1, "1". 24 leaves no place for a sign, so "h" = 48 + 24 + 32 and 0, "0".
        ({"size": [8, 8], "counts": "X1h0"}, (5, 0, 3, 8)),
    ],
)
def test_hand_worked_segmentation_gives_its_box(segmentation: Any, expected: tuple[float, ...]) -> None:
    assert enclose_segmentation(segmentation) == pytest.approx(expected)


def test_hand_worked_mask_is_that_of_pycocotools() -> None:
    encoded = pycocotools_mask.encode(np.asfortranarray(PIXELS))
    assert encoded["counts"] == b"52114"
    assert pycocotools_mask.toBbox(encoded).tolist() == [1, 0, 2, 3]


@given(arrays.arrays(np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.integers(0, 1)))
def test_any_mask_has_the_box_of_pycocotools_compressed_or_not(pixels: np.ndarray[Any, Any]) -> None:
    encoded = pycocotools_mask.encode(np.asfortranarray(pixels))
    flat = pixels.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat, prepend=0)).tolist()
    counts = np.diff([0, *changes, flat.size]).tolist()
    for form in (encoded["counts"].decode(), counts):
        box = enclose_segmentation({"size": list(pixels.shape), "counts": form})
        if pixels.any():
            assert box == pytest.approx(tuple(pycocotools_mask.toBbox(encoded)))
        else:
            assert all(map(math.isnan, box))


@pytest.mark.parametrize(
    "segmentation",
    [
        None,
        [],
        [[]],
        [[1, 2, 3]],
        [[1, 2, "3", 4]],
        [1, 2, 3, 4],
        "52114",
        {},
        {"size": [4, 4]},
        {"size": [4], "counts": [16]},
        {"size": [4, 4], "counts": [16]},
        {"size": [0, 4], "counts": [0, 1]},
        {"size": [4, 4], "counts": [5, -2, 1]},
        {"size": [4, 4], "counts": [5, 12]},  # 17 of 16 pixels
        {"size": [4, 4], "counts": [5, 10**30]},
        {"size": [4, 4], "counts": [5, 2.0]},
        {"size": [4, 4], "counts": "52X"},  # ends within a count
        {"size": [4, 4], "counts": "5 2"},
        {"size": [4, 4], "counts": "5\u2028"},
        {"size": [4, 4], "counts": "X" * 100_000},
        {"size": [2**40, 2**40], "counts": [0, 1]},
    ],
)
def test_segmentation_that_cannot_be_read_has_no_box(segmentation: Any) -> None:
    assert all(map(math.isnan, enclose_segmentation(segmentation)))
