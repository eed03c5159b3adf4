"""The laws of matching, on the dense matcher; test_matcher_on_grids.py holds its fast twin to it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from retinanet.anchors.dense_matcher import match_densely
from retinanet.anchors.grid import build_grid
from retinanet.anchors.matcher import BACKGROUND, IGNORED, LOW_QUALITY

Golden = Callable[[str], dict[str, Tensor]]
CASES = [
    "real_random",
    "no_gt",
    "gt_equals_anchor",
    "iou_exactly_half_and_0.4",
    "tiny_gt_low_quality",
    "tie_two_anchors_one_gt",
    "tie_identical_gts",
    "gt_outside_all_anchors_iou0",
    "only_gt_outside_iou0",
    "zero_area_gt",
    "best_anchor_owned_by_other_gt",
    "order_of_gts_swapped",
    "one_anchor_two_low_quality_gts",
    "degenerate_anchor",
]
# Here a truth overlaps no anchor; the peers' low-quality step then gives it every anchor that it does not overlap.
IOU_0 = {"gt_outside_all_anchors_iou0", "only_gt_outside_iou0", "zero_area_gt"}


def random_truths(generator: torch.Generator, count: int, side: float = 40.0) -> Tensor:
    corners = torch.rand(count, 2, generator=generator) * 70
    return torch.cat([corners, corners + 4 + side * torch.rand(count, 2, generator=generator)], dim=1)


def as_golden(matches: Tensor) -> list[int]:
    """Our labels in the numbering of the golden arrays: -1 ignored, 0 background, k truth number k."""
    return torch.where(matches == IGNORED, -1, torch.where(matches == BACKGROUND, 0, matches + 1)).tolist()


# Truths of width 10 inside 10 x 10 anchors, so that the IoU is height / 10: .5, .4, .499, .399, .45
THRESHOLD_ANCHORS = torch.tensor([[100.0 * i, 0.0, 100.0 * i + 10, 10.0] for i in range(5)])
THRESHOLD_TRUTHS = torch.tensor([[100.0 * i, 0, 100.0 * i + 10, h] for i, h in enumerate((5, 4, 4.99, 3.99, 4.5))])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exactly_half_is_foreground_and_exactly_two_fifths_is_ignored(dtype: torch.dtype) -> None:
    matches = match_densely(THRESHOLD_TRUTHS.to(dtype), THRESHOLD_ANCHORS.to(dtype), low_quality="none")
    assert matches.tolist() == [0, IGNORED, IGNORED, BACKGROUND, IGNORED]
    assert matches.dtype == torch.int64


@pytest.mark.parametrize("low_quality", ["truth", "anchor"])
def test_low_quality_gives_every_truth_its_best_anchor(low_quality: str) -> None:
    assert match_densely(THRESHOLD_TRUTHS, THRESHOLD_ANCHORS, low_quality=low_quality).tolist() == [0, 1, 2, 3, 4]


def test_thresholds_are_parameters() -> None:
    options = {"foreground_iou": 0.45, "background_iou": 0.399, "low_quality": "none"}
    # the IoUs are .5, .4, .499, .399, .45
    found = match_densely(THRESHOLD_TRUTHS.double(), THRESHOLD_ANCHORS.double(), **options)  # type: ignore[arg-type]
    assert found.tolist() == [0, IGNORED, 2, IGNORED, 4]


def test_a_claimed_anchor_answers_for_the_claimant_or_for_its_own_best_truth() -> None:
    # Truth 0 covers 18/20 of anchor 0; truth 1 has IoU 100 / 700 with it, and no better anchor.
    anchors = torch.tensor([[0.0, 0, 20, 20], [40, 40, 60, 60]])
    truths = torch.tensor([[0.0, 0, 20, 18], [10, 10, 30, 30]])
    assert match_densely(truths, anchors, low_quality="truth").tolist() == [1, BACKGROUND]
    assert match_densely(truths, anchors, low_quality="anchor").tolist() == [0, BACKGROUND]
    # The last truth wins, so their order matters in "truth" only.
    assert match_densely(truths.flip(0), anchors, low_quality="truth").tolist() == [1, BACKGROUND]
    assert match_densely(truths.flip(0), anchors, low_quality="anchor").tolist() == [1, BACKGROUND]


@pytest.mark.parametrize("low_quality", LOW_QUALITY)
def test_all_anchors_of_an_image_without_truths_are_background(low_quality: str) -> None:
    anchors = build_grid().anchors((64, 96))
    matches = match_densely(torch.zeros(0, 4), anchors, low_quality=low_quality)
    assert matches.shape == (1161,)
    assert (matches == BACKGROUND).all()


@pytest.mark.parametrize("low_quality", LOW_QUALITY)
@pytest.mark.parametrize("truth", [[500.0, 500, 520, 520], [10, 10, 10, 10], [10, 10, 60, 10]])
def test_a_truth_that_overlaps_nothing_changes_nothing(
    generator: torch.Generator, low_quality: str, truth: list[float]
) -> None:
    anchors, truths = build_grid().anchors((64, 96))[:900], random_truths(generator, 4)
    anchors = torch.cat([anchors, torch.tensor([[10.0, 10, 10, 10]])])  # two boxes without area: 0 / 0
    alone = match_densely(truths, anchors, low_quality=low_quality)
    assert torch.equal(
        match_densely(torch.cat([truths, torch.tensor([truth])]), anchors, low_quality=low_quality), alone
    )


@pytest.mark.parametrize("low_quality", LOW_QUALITY)
def test_permuted_anchors_have_permuted_labels(generator: torch.Generator, low_quality: str) -> None:
    anchors, truths = build_grid().anchors((64, 96)), random_truths(generator, 6)
    order = torch.randperm(len(anchors), generator=generator)
    expected = match_densely(truths, anchors, low_quality=low_quality)[order]
    assert torch.equal(match_densely(truths, anchors[order], low_quality=low_quality), expected)
    assert (expected >= 0).any()


def test_every_truth_owns_its_best_anchors_unless_a_later_truth_claims_them(generator: torch.Generator) -> None:
    anchors = build_grid().anchors((64, 96))
    for _ in range(20):
        truths = random_truths(generator, 5, side=10.0)
        iou = box_iou(truths, anchors)
        matches = match_densely(truths, anchors)
        for truth, best in enumerate(iou.amax(dim=1)):
            owners = matches[iou[truth] == best]
            assert (owners >= truth).all()


@pytest.mark.parametrize("low_quality", ["anchor", "none"])
def test_labels_are_those_of_torchvisions_matcher(generator: torch.Generator, low_quality: str) -> None:
    anchors, reference = (
        build_grid().anchors((64, 96)),
        Matcher(0.5, 0.4, allow_low_quality_matches=low_quality == "anchor"),
    )
    for count in range(1, 9):
        truths = random_truths(generator, count)
        expected = reference(box_iou(truths, anchors))  # -1 background, -2 between: our numbers too
        assert torch.equal(match_densely(truths, anchors, low_quality=low_quality), expected)


@pytest.mark.parametrize(
    ("rule", "low_quality"),
    [("yhenon", "none"), ("torchvision", "none"), ("torchvision_low_quality", "anchor"), ("mmdet", "truth")],
)
@pytest.mark.parametrize("case", CASES)
def test_labels_are_those_of_the_peers(golden: Golden, case: str, rule: str, low_quality: str) -> None:
    arrays = golden("assign")
    anchors = arrays.get(f"{case}__anchors", golden("anchors")["yhenon_64x96"]).float()
    ours = as_golden(match_densely(arrays[f"{case}__gt"].float(), anchors, low_quality=low_quality))
    theirs = arrays[f"{case}__{rule}"].tolist()
    if case in IOU_0 and low_quality != "none":
        # The peers are wrong: IoU 0 is the truth's best IoU, so all its anchors of IoU 0 turn foreground. Ours do not.
        assert 0 not in theirs
        assert ours == arrays[f"{case}__yhenon"].tolist()
    else:
        assert ours == theirs
