"""Laws of fitted anchors and of the advice about anchors."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from pipeline.anchor_stats.advice import advise
from pipeline.anchor_stats.fitting import as_command, fit_anchors, mean_best_iou
from pipeline.anchor_stats.grid import anchor_grid
from pipeline.anchor_stats.run import cover
from pipeline.params.detector import Anchors, Matcher

SIZE = (256, 320)
PAPER = Anchors(
    base_scale=4.0,
    scales_per_octave=3,
    sizes=None,
    aspect_ratios=[0.5, 1.0, 2.0],
    offset=0.5,
    rounded=False,
    strides_from_image=False,
)
MATCHER = Matcher(foreground_iou=0.5, background_iou=0.4, low_quality="truth")


def boxes_of(shapes: Sequence[tuple[float, float]], count: int = 60, seed: int = 0) -> Tensor:
    """Boxes of these widths and heights, px, anywhere in the image."""
    generator = torch.Generator().manual_seed(seed)
    sides = torch.tensor(shapes)[torch.arange(count) % len(shapes)]
    corners = torch.rand(count, 2, generator=generator) * (torch.tensor([320.0, 256.0]) - sides)
    return torch.cat([corners, corners + sides], dim=1)


def advice_on(boxes: Tensor, anchors: Anchors = PAPER, matcher: Matcher = MATCHER) -> list[str]:
    grid = anchor_grid(anchors)
    best_iou, owned, _ = cover(boxes, grid, SIZE, matcher)
    return list(advise(boxes, best_iou, owned, grid, matcher))


def test_slim_boxes_get_slim_anchors_and_the_same_again() -> None:
    boxes = boxes_of([(80.0, 16.0), (120.0, 24.0)])  # height / width .2
    fitted = fit_anchors(boxes, SIZE, PAPER, seed=3)
    assert min(fitted.aspect_ratios) < 0.26 and len(fitted.aspect_ratios) == 3
    assert mean_best_iou(boxes, SIZE, fitted) > mean_best_iou(boxes, SIZE, PAPER) + 0.15
    assert fit_anchors(boxes, SIZE, PAPER, seed=3) == fitted
    assert anchor_grid(fitted).anchors_per_cell == anchor_grid(PAPER).anchors_per_cell


@pytest.mark.parametrize("seed", range(3))
def test_fitted_anchors_are_never_worse(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    sides = 4 + torch.rand(30, 2, generator=generator) * 200
    boxes = boxes_of([(float(w), float(h)) for w, h in sides], 30, seed)
    assert mean_best_iou(boxes, SIZE, fit_anchors(boxes, SIZE, PAPER)) >= mean_best_iou(boxes, SIZE, PAPER)


def test_anchors_are_judged_as_they_are_trained_with_whole_pixels() -> None:
    # A side of 10.4 px is 10 px where anchors are rounded: the box of 10 px is an anchor then, and only then.
    anchors = PAPER.model_copy(update={"scales_per_octave": None, "sizes": [[10.4]] * 5, "aspect_ratios": [1.0]})
    box = torch.tensor([[-1.0, -1.0, 9.0, 9.0]])  # around the first centre, 4 px
    assert mean_best_iou(box, SIZE, anchors) == pytest.approx(100 / 108.16, abs=1e-4)  # 10 * 10 / (10.4 * 10.4)
    assert mean_best_iou(box, SIZE, anchors.model_copy(update={"rounded": True})) == pytest.approx(1.0, abs=1e-4)


def test_command_sets_what_was_fitted() -> None:
    assert as_command(PAPER.model_copy(update={"base_scale": 2.5, "aspect_ratios": [0.2, 1.0]})) == (
        "dvc exp run -S 'anchors.base_scale=2.5' -S 'anchors.scales_per_octave=3' -S 'anchors.sizes=null' "
        "-S 'anchors.aspect_ratios=[0.2,1.0]'"
    )


def test_anchors_that_fit_need_no_advice() -> None:
    assert advice_on(boxes_of([(40.0, 40.0), (64.0, 48.0), (100.0, 120.0)])) == []
    assert advice_on(torch.zeros(0, 4)) == []


def test_small_boxes_are_told_with_the_factor() -> None:
    # 16 px beside a smallest anchor of 32 px: IoU at most 256 / 1024.
    first, second = advice_on(boxes_of([(16.0, 16.0)]))
    assert first.startswith("100 % of the boxes overlap no anchor by matcher.foreground_iou 0.5: they train by their")
    assert second.startswith("100 % of the boxes are much smaller than the smallest anchor (32 px), with sides of 16 ")
    assert "multiply anchors.base_scale by 0.50" in second


def test_large_boxes_are_told_with_the_factor() -> None:
    small = PAPER.model_copy(update={"base_scale": 0.5})  # at most 0.5 * 128 * 2^(2/3) = 102 px
    (sentence,) = [text for text in advice_on(boxes_of([(200.0, 200.0)]), small) if "larger than the largest" in text]
    assert "multiply anchors.base_scale by 1.97" in sentence  # 200 / 101.6


def test_boxes_without_anchor_are_told_where_no_rule_gives_them_one() -> None:
    (first, *_) = advice_on(boxes_of([(16.0, 16.0)]), matcher=MATCHER.model_copy(update={"low_quality": "none"}))
    assert "nothing is learnt from them; set matcher.low_quality to truth" in first


def test_boxes_that_vanish_are_told() -> None:
    found = advice_on(boxes_of([(2.0, 20.0)]))
    assert any("are under 4 px wide or high" in sentence and "by 2.0" in sentence for sentence in found)


def test_slim_boxes_are_told() -> None:
    assert any("height / width more than twice beyond" in sentence for sentence in advice_on(boxes_of([(160.0, 20.0)])))


def test_few_boxes_are_no_reason() -> None:
    assert advice_on(torch.cat([boxes_of([(48.0, 48.0)], 60), boxes_of([(8.0, 8.0)], 2)])) == []
