"""Laws of the proposed size: nine tenths of the boxes reach it, no picture is enlarged, choices of the user stay."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipeline.anchor_stats.sizing import Sizing, propose_size, smallest_fraction
from pipeline.params import load_params
from pipeline.params.experiment import Transforms
from retinanet.data.records import Records
from tests.pipeline.conftest import REPOSITORY


def section(**changes: Any) -> Transforms:
    shipped = load_params(REPOSITORY / "params.yaml").transforms
    return shipped.model_copy(update={"short_side": 128, "long_side": 128, "canvas": None, "tiles": None} | changes)


def records(side: float, *, size: tuple[int, int] = (480, 640), small: int = 0) -> Records:
    """Ten images with a square each, `small` of them of a quarter of the side."""
    return Records(
        {
            "images": [{"id": n, "file_name": "a", "height": size[0], "width": size[1]} for n in range(10)],
            "annotations": [
                {"id": n + 1, "image_id": n, "category_id": 1, "bbox": [0, 0, *[side / (4 if n < small else 1)] * 2]}
                for n in range(10)
            ],
            "categories": [{"id": 1, "name": "a"}],
        }
    )


def test_size_by_hand() -> None:
    # 60 of 480 px are an eighth: 24 px at a short side of 192; the long side is 4/3 of it
    assert propose_size(records(60), section()) == Sizing(192, 256, pytest.approx(16))
    assert propose_size(records(60), section(short_side=192, long_side=256)) is None
    # the smallest tenth decides: with 4 of 10 boxes of 15 px 768 are asked, more than the pictures have
    assert propose_size(records(60, small=4), section()) == Sizing(480, 640, pytest.approx(4))


def test_class_of_small_objects_counts_if_it_is_not_rare() -> None:
    fractions, labels = torch.full((200,), 0.2), torch.zeros(200, dtype=torch.int64)
    fractions[:3], labels[:3] = torch.tensor([0.01, 0.05, 0.09]), 1
    assert smallest_fraction(fractions, labels) == pytest.approx(0.05)
    fractions[:2], labels[:2] = 0.2, 0
    assert smallest_fraction(fractions, labels) == pytest.approx(0.2)


def test_no_picture_is_enlarged_and_none_beyond_the_limit() -> None:
    assert propose_size(records(5), section()) == Sizing(480, 640, pytest.approx(128 / 96))
    large = propose_size(records(5, size=(3000, 4000)), section())
    assert large is not None and (large.short_side, large.long_side) == (1344, 1792)


@pytest.mark.parametrize("changes", [{"short_side": [128, 256]}, {"canvas": [512, 512]}, {"tiles": object()}])
def test_sizes_that_are_chosen_otherwise_stay(changes: dict[str, Any]) -> None:
    assert propose_size(records(20), section(**changes)) is None


def test_split_without_boxes_has_no_proposal() -> None:
    empty = Records({"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]})
    assert propose_size(empty, section()) is None
