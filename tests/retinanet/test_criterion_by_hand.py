"""The laws of retinanet/losses/criterion.py: numbers worked by hand, and parameters that do not fit."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from retinanet.anchors.dense_matcher import match_densely
from retinanet.anchors.grid import build_grid
from retinanet.anchors.matcher import BACKGROUND
from retinanet.losses.criterion import Assignment, Criterion, ImageGroundTruth, class_weighting
from retinanet.network.predictions import Predictions

Run = Callable[..., tuple[dict[str, Tensor], Tensor, Tensor, Assignment]]
SIZE = (64, 96)
GRID = build_grid()
K = 3
NO_TRUTHS = ImageGroundTruth(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
# Sizes 48 x 90, 64 x 96, 20 x 30 px on one canvas; the second image is without boxes.
TRUTHS = [
    ImageGroundTruth(torch.tensor([[5.0, 4, 40, 44], [50, 10, 85, 40]]), torch.tensor([0, 2])),
    NO_TRUTHS,
    ImageGroundTruth(torch.tensor([[2.0, 2, 28, 18]]), torch.tensor([1])),
]


def test_iou_from_two_fifths_to_a_half_has_zero_gradient(run: Run) -> None:
    # One anchor per cell; P3's first is [-12, 20]^2. A truth of height 32 * t inside it has IoU t with it.
    grid = build_grid(sizes=[[32]] * 5, aspect_ratios=[1.0])
    predictions = Predictions(*([torch.zeros(1, n, *size) for size in grid.map_sizes(SIZE)] for n in (1, 4)))
    # At logit 0 p_t = 1/2: |dFL/dx| = alpha_t (1/2)^2 (2 * 1/2 * log 2 + 1/2), upwards for background.
    slope = 0.25 * (math.log(2) + 0.5)
    for share, expected in ((0.39, 0.75 * slope), (0.4, 0.0), (0.499, 0.0), (0.5, -0.25 * slope)):
        truths = [ImageGroundTruth(torch.tensor([[-12.0, -12, 20, -12 + 32 * share]]), torch.tensor([0]))]
        _, by_logits, _, _ = run(
            Criterion(grid, 1, low_quality="none"), predictions, truths, torch.ones((), dtype=torch.float64)
        )
        assert by_logits[0, 0, 0].item() == pytest.approx(expected, rel=1e-6)


def assignment_with_counts(criterion: Criterion, *counts: int) -> Assignment:
    return criterion.assign([NO_TRUTHS] * len(counts), SIZE)._replace(num_foreground=torch.tensor(counts))


@pytest.mark.parametrize(
    ("normaliser", "mass", "weights"),
    [
        ("batch", 6.0, [1 / 6, 1 / 6, 1 / 6]),  # 4 + 0 + 2
        ("batch_of_images", 7.0, [1 / 7, 1 / 7, 1 / 7]),  # 4 + 1 + 2
        ("image", 3.0, [1 / 3 / 4, 1 / 3, 1 / 3 / 2]),  # 3 images
    ],
)
def test_normalisers_worked_by_hand(normaliser: str, mass: float, weights: list[float]) -> None:
    criterion = Criterion(GRID, K, normaliser=normaliser)
    assignment = assignment_with_counts(criterion, 4, 0, 2)
    assert criterion.normaliser_share(assignment).item() == mass
    assert_close(criterion.image_weights(assignment, torch.tensor(mass).double()), torch.tensor(weights))
    # a mass that is still larger, of other workers: the same losses, a smaller part of the whole
    halved = criterion.image_weights(assignment, torch.tensor(2 * mass).double())
    assert_close(halved, torch.tensor(weights) / 2)


def test_gradient_lives_where_yhenon_clamps_its_probabilities(run: Run) -> None:
    # yhenon clamps p to [1e-4, 1 - 1e-4], so a foreground anchor at p = 1e-5 has no gradient and never recovers.
    grid = build_grid(sizes=[[32]] * 5, aspect_ratios=[1.0])
    logits = [torch.full((1, 1, *size), -11.5) for size in grid.map_sizes(SIZE)]  # p = 1e-5
    predictions = Predictions(logits, [torch.zeros(1, 4, *size) for size in grid.map_sizes(SIZE)])
    truths = [ImageGroundTruth(torch.tensor([[-12.0, -12, 20, 20]]), torch.tensor([0]))]  # P3's first anchor
    _, by_logits, _, assignment = run(Criterion(grid, 1, low_quality="none"), predictions, truths)
    foreground = by_logits[assignment.foreground.image, assignment.foreground.anchor][:, 0]
    # dFL/dx = -alpha (1 - p)^2 (2 p (-log p) + 1 - p) -> -.25 as p -> 0
    assert_close(foreground * assignment.num_foreground.item(), torch.full_like(foreground, -0.25), rtol=1e-3, atol=0.0)


@pytest.mark.parametrize(
    ("alpha", "class_loss", "weights", "factor"),
    [
        (0.25, "sigmoid_focal", [0.25, 0.25], 1.0),
        (None, "sigmoid_focal", [0.5, 0.5], 2.0),
        ([0.1, 0.9], "sigmoid_focal", [0.1, 0.9], 1.0),
        (
            0.25,
            "softmax_focal",
            [0.75, 0.25, 0.25],
            1.0,
        ),  # 1 - alpha for the background, unlike the repository of the notes
        (None, "softmax_focal", [1.0, 1.0, 1.0], 1.0),
        ([0.1, 0.2, 0.3], "softmax_focal", [0.1, 0.2, 0.3], 1.0),
        (1, "sigmoid_focal", [1.0, 1.0], 1.0),
    ],
)
def test_weights_of_the_classes(alpha: Any, class_loss: str, weights: list[float], factor: float) -> None:
    found, found_factor = class_weighting(alpha, 2, class_loss)
    assert_close(found, torch.tensor(weights))
    assert found_factor == factor


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": [0.5, 0.5]}, r"loss\.alpha has 2 entries, expected 3: one for each of 3 classes$"),
        (
            {"alpha": [0.5] * 3, "class_loss": "softmax_focal"},
            r"loss\.alpha has 3 entries, expected 4: first the background, then one",
        ),
        ({"normaliser": "anchors"}, r"loss\.normaliser is 'anchors', expected one of batch, image, batch_of_images"),
        ({"box_loss": "l2"}, r"loss\.box_loss is 'l2', expected one of smooth_l1, l1, giou, ciou"),
        ({"class_loss": "focal"}, r"loss\.class_loss is 'focal', expected sigmoid_focal or softmax_focal"),
    ],
)
def test_a_parameter_that_does_not_fit_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Criterion(GRID, K, **options)


def test_assignment_speaks_of_the_truths_of_the_whole_batch() -> None:
    assignment = Criterion(GRID, K).assign(TRUTHS, SIZE)
    anchors = GRID.anchors(SIZE)
    assert assignment.num_foreground.tolist()[1] == 0
    for i, (boxes, labels) in enumerate(TRUTHS):
        matches = match_densely(boxes, anchors)
        chosen = assignment.foreground.image == i
        at = assignment.foreground.anchor[chosen]
        assert torch.equal(at, (matches >= 0).nonzero()[:, 0])
        assert torch.equal(assignment.anchors[chosen], anchors[at])
        assert torch.equal(assignment.truth_boxes[chosen], boxes[matches[at]])
        assert torch.equal(assignment.truth_labels[chosen], labels[matches[at]])
        assert (matches == BACKGROUND).any()
