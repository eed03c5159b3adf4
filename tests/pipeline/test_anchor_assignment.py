"""The counts of anchor_stats are those of the matcher that trains, for every rule and any batch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.anchor_stats import assignment
from pipeline.anchor_stats.assignment import batches_of_one_size, count_assigned, paired_iou
from pipeline.anchor_stats.coverage import cover
from pipeline.params.detector import Matcher
from retinanet.anchors.grid import Grid, build_grid
from retinanet.anchors.matcher import LOW_QUALITY, match_anchors
from retinanet.data.records import Record
from tests.retinanet.test_matcher_on_grids import THRESHOLDS, grids, images_of_truths


def level_of(anchor: Tensor, grid: Grid, image_size: tuple[int, int]) -> Tensor:
    """Level of flat indices of a batch's anchors."""
    ends = torch.tensor(grid.anchors_per_level(image_size)).cumsum(0)
    return torch.bucketize(anchor % int(ends[-1]), ends, right=True)


@settings(max_examples=60)
@given(data=st.data())
def test_counts_are_those_of_the_matcher(data: st.DataObject) -> None:
    grid = data.draw(grids())
    image_size = data.draw(st.sampled_from([(64, 96), (100, 37), (256, 320), (65, 191)]))
    truths = data.draw(images_of_truths(grid, image_size))
    foreground_iou, background_iou = data.draw(st.sampled_from(THRESHOLDS))
    iou = {"foreground_iou": foreground_iou, "background_iou": background_iou}
    image = torch.arange(len(truths)).repeat_interleave(torch.tensor([len(boxes) for boxes in truths]))
    counts = count_assigned(torch.cat(truths), image, grid, image_size, **iou)
    for low_quality in LOW_QUALITY:
        matches = match_anchors(truths, grid, image_size, low_quality=low_quality, **iou)
        level = level_of(matches.foreground, grid, image_size)
        expected = torch.zeros(len(image), 5, dtype=torch.int64)
        expected.index_put_((matches.truth, level), torch.tensor(1), accumulate=True)
        assert torch.equal(counts.foreground[low_quality], expected), low_quality
        ignored = torch.bincount(level_of(matches.ignored, grid, image_size), minlength=5)
        assert torch.equal(counts.ignored[low_quality], ignored), low_quality
        assert torch.equal(counts.best_iou, matches.best_iou)


def test_claimed_anchor_goes_to_its_own_best_box_though_that_has_better_anchors() -> None:
    # P3 has anchors of 16 px around 4, 12, 20 .. px. The small box lies in [4, 20]^2 alone: IoU 16 / 256. The large
    # one, [6, 34]^2, holds [12, 28]^2: IoU 256 / 784, and shares 14 * 14 px with [4, 20]^2: .23 (196 / 844).
    grid = build_grid(sizes=[[16.0], [1000.0], [1000.0], [1000.0], [1000.0]], aspect_ratios=[1.0])
    boxes, image = torch.tensor([[10.0, 10, 14, 14], [6, 6, 34, 34]]), torch.zeros(2, dtype=torch.int64)
    counts = count_assigned(boxes, image, grid, (64, 64), foreground_iou=0.5, background_iou=0.4)
    owned = {name: counts.foreground[name].sum(dim=1).tolist() for name in LOW_QUALITY}
    assert owned == {"none": [0, 0], "truth": [1, 1], "anchor": [0, 2]}


def test_paired_iou_of_boxes_that_share_nothing_is_zero() -> None:
    boxes = torch.tensor([[0.0, 0, 2, 2], [5, 5, 5, 5], [0, 0, 4, 2]])
    others = torch.tensor([[4.0, 4, 8, 8], [5, 5, 5, 5], [2, 0, 6, 2]])
    assert torch.equal(paired_iou(boxes, others), torch.tensor([0, 0, 4 / 12]))  # 2 * 2 of 8 + 8 - 4


def test_batches_hold_every_image_once_and_one_size() -> None:
    sizes = [(64, 64), (32, 64), (64, 64), (64, 64), (32, 64)]
    images = list(zip([600, 3, 500, 0, 7], sizes, strict=True))
    batches = list(batches_of_one_size(images))
    assert [(batch.images, batch.num_boxes) for batch in batches] == [([0, 2], 1100), ([3], 0), ([1, 4], 10)]
    assert all(images[index][1] == batch.size for batch in batches for index in batch.images)


@pytest.mark.parametrize("low_quality", LOW_QUALITY)
def test_coverage_does_not_depend_on_the_batches(
    low_quality: str, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    matcher = Matcher.model_validate({"foreground_iou": 0.5, "background_iou": 0.4, "low_quality": low_quality})
    scaled = []
    for number in range(12):
        corners = torch.rand(number % 5, 2, generator=generator) * 40
        boxes = torch.cat([corners, corners + 4 + 40 * torch.rand(number % 5, 2, generator=generator)], dim=1)
        record = Record(number, "", (64, 64), boxes, torch.full((number % 5,), number))
        scaled.append((record, boxes, ((64, 64), (64, 96))[number % 2]))
    together = cover(scaled, build_grid(), matcher)
    monkeypatch.setattr(assignment, "BOXES_AT_ONCE", 1)
    alone = cover(scaled, build_grid(), matcher)
    assert torch.equal(together.labels, together.image)  # the label of a box is the number of its image here
    assert torch.equal(together.boxes, torch.cat([scaled[index][1] for index in together.image.unique_consecutive()]))
    for name in ("image", "best_iou", "assigned", "ignored", "anchors"):
        assert torch.equal(getattr(together, name), getattr(alone, name)), name
