"""Laws of fitted anchors and of the advice about anchors."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from pipeline.anchor_stats import fitting
from pipeline.anchor_stats.advice import advise
from pipeline.anchor_stats.coverage import cover
from pipeline.anchor_stats.fitting import Boxes, as_options, fit_anchors
from pipeline.anchor_stats.grid import anchor_grid
from pipeline.params.detector import Anchors, Matcher
from retinanet.data.records import Record

SIZE = (256, 320)
PAPER = Anchors(
    mode="fixed",
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


def given(boxes: Tensor) -> Boxes:
    return Boxes(boxes, SIZE, foreground_iou=0.5)


def advice_on(
    boxes: Tensor, anchors: Anchors = PAPER, matcher: Matcher = MATCHER, *, alone: bool = False, mode: str = "fixed"
) -> list[str]:
    """Advice on boxes of one image, or on an image for each of them."""
    images = boxes.split(1) if alone else [boxes]
    scaled = [(Record(n, "", SIZE, rows, torch.zeros(len(rows)).long()), rows, SIZE) for n, rows in enumerate(images)]
    return list(advise(cover(scaled, anchor_grid(anchors), matcher), mode=mode))


def test_slim_boxes_get_slim_anchors_and_the_same_again() -> None:
    boxes = given(boxes_of([(80.0, 16.0), (120.0, 24.0)]))  # height / width .2
    fitted = fit_anchors(boxes, PAPER)
    assert min(fitted.aspect_ratios) < 0.26 and len(fitted.aspect_ratios) == 3
    assert boxes.quality(fitted).mean_iou > boxes.quality(PAPER).mean_iou + 0.15
    assert fit_anchors(boxes, PAPER.model_copy(update={"mode": "fitted"})) == fitted
    assert anchor_grid(fitted).anchors_per_cell == anchor_grid(PAPER).anchors_per_cell


@pytest.mark.parametrize("seed", range(3))
def test_fitted_anchors_are_never_worse(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    sides = 4 + torch.rand(30, 2, generator=generator) * 200
    boxes = given(boxes_of([(float(w), float(h)) for w, h in sides], 30, seed))
    assert boxes.quality(fit_anchors(boxes, PAPER)).score >= boxes.quality(PAPER).score


def test_anchors_that_fit_already_are_kept() -> None:
    # Both boxes are anchors: 32 px on the first centre of P3, 4 px, and 64 px on that of P4, 8 px.
    boxes = given(torch.tensor([[-12.0, -12, 20, 20], [-24.0, -24, 40, 40]]))
    assert boxes.quality(PAPER) == (pytest.approx(1.0, abs=1e-4), 1.0)
    assert fit_anchors(boxes, PAPER.model_copy(update={"mode": "fitted"})) == PAPER


def test_recall_counts_as_much_as_the_mean_iou() -> None:
    # 27 px inside 32 px: IoU .712; 22 px: .473. The recall changes by a half where the mean changes by .12.
    small, smaller = torch.tensor([[-9.5, -9.5, 17.5, 17.5]]), torch.tensor([[-7.0, -7, 15, 15]])
    one = PAPER.model_copy(update={"scales_per_octave": 1, "aspect_ratios": [1.0]})
    both = given(torch.cat([small, smaller])).quality(one)
    assert both.mean_iou == pytest.approx((729 + 484) / 2 / 1024, abs=1e-4)
    assert both.recall == 0.5
    assert both.score == pytest.approx((both.mean_iou + 0.5) / 2)
    assert given(small).quality(one).recall == 1.0


def test_quality_of_many_boxes_is_that_of_their_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = given(boxes_of([(30.0, 50.0), (90.0, 40.0), (14.0, 9.0)], 50))
    together = boxes.quality(PAPER)
    monkeypatch.setattr(fitting, "BOXES_AT_ONCE", 7)
    assert boxes.quality(PAPER) == together


def test_anchors_are_judged_as_they_are_trained_with_whole_pixels() -> None:
    # A side of 10.4 px is 10 px where anchors are rounded: the box of 10 px is an anchor then, and only then.
    anchors = PAPER.model_copy(update={"scales_per_octave": None, "sizes": [[10.4]] * 5, "aspect_ratios": [1.0]})
    box = given(torch.tensor([[-1.0, -1.0, 9.0, 9.0]]))  # around the first centre, 4 px
    assert box.quality(anchors).mean_iou == pytest.approx(100 / 108.16, abs=1e-4)  # 10 * 10 / (10.4 * 10.4)
    assert box.quality(anchors.model_copy(update={"rounded": True})).mean_iou == pytest.approx(1.0, abs=1e-4)


def test_command_sets_what_was_fitted() -> None:
    assert as_options(PAPER.model_copy(update={"base_scale": 2.5, "aspect_ratios": [0.2, 1.0]})) == (
        "-S 'anchors.mode=fixed' -S 'anchors.base_scale=2.5' -S 'anchors.scales_per_octave=3' "
        "-S 'anchors.sizes=null' -S 'anchors.aspect_ratios=[0.2,1.0]'"
    )


def test_anchors_that_fit_need_no_advice() -> None:
    assert advice_on(boxes_of([(40.0, 40.0), (64.0, 48.0), (100.0, 120.0)])) == []
    assert advice_on(torch.zeros(0, 4)) == []


def test_small_boxes_are_told_with_the_factor() -> None:
    # 16 px beside a smallest anchor of 32 px: IoU at most 256 / 1024.
    first, second, *_ = advice_on(boxes_of([(16.0, 16.0)]))
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


def test_fitted_anchors_are_not_advised_to_be_fitted() -> None:
    boxes = boxes_of([(16.0, 16.0)])
    assert "set anchors.mode to fitted" in advice_on(boxes)[0]
    (first, *rest) = advice_on(boxes, mode="fitted")
    assert "fitted already, so add some: raise anchors.scales_per_octave" in first
    assert not any("anchors.mode" in sentence for sentence in rest)


def test_images_that_train_as_background_only_are_told() -> None:
    boxes = torch.cat([boxes_of([(48.0, 48.0)], 18), boxes_of([(8.0, 8.0)], 2)])
    found = advice_on(boxes, matcher=MATCHER.model_copy(update={"low_quality": "none"}), alone=True)
    sentence = "10 % of the images with boxes have no foreground anchor and train as background only; set matcher."
    assert any(text.startswith(sentence) for text in found)
    assert not any("images with boxes" in text for text in advice_on(boxes, alone=True))


def test_levels_without_boxes_are_told_where_their_anchors_would_fit() -> None:
    # Boxes of 100 px; the image is 320 px wide. Anchors of 32, 64, 128 and 256 px fit, those of P7 do not.
    boxes = boxes_of([(100.0, 100.0)])
    one_scale = PAPER.model_copy(update={"scales_per_octave": 1, "aspect_ratios": [1.0]})
    (sentence,) = [text for text in advice_on(boxes, one_scale) if "have no foreground anchor and learn" in text]
    assert sentence.startswith("P3, P4 and P6 have no") and "(32 to 256 px); set anchors.mode to fitted" in sentence
    assert not any("and learn" in text for text in advice_on(boxes, one_scale, mode="fitted"))
    half = torch.cat([boxes, boxes_of([(64.0, 64.0)])])  # P4, too
    assert not any("and learn" in text for text in advice_on(half, one_scale))
