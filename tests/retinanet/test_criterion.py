"""The laws of retinanet/losses/criterion.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torchvision.ops import generalized_box_iou_loss

from retinanet.anchors.boxes import decode_boxes, encode_boxes
from retinanet.anchors.dense_matcher import match_densely
from retinanet.anchors.grid import Grid, build_grid
from retinanet.anchors.matcher import IGNORED
from retinanet.losses import BOX_LOSSES, CODE_LOSSES, maps, sigmoid_focal_loss, smooth_l1_loss, softmax_focal_loss
from retinanet.losses.criterion import NORMALISERS, Assignment, Criterion, ImageGroundTruth
from retinanet.network.predictions import Predictions, permute_from_N_A_K, permute_to_N_A_K

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


def take(predictions: Predictions, images: slice) -> Predictions:
    """Some images of a batch."""
    return Predictions(*([level[images] for level in maps] for maps in predictions))


def random_predictions(
    generator: torch.Generator,
    num_images: int,
    *,
    num_logits: int = K,
    grid: Grid = GRID,
    dtype: torch.dtype = torch.float64,
) -> Predictions:
    sizes = grid.map_sizes(SIZE)
    count = sum(grid.anchors_per_level(SIZE))
    logits = 2 * torch.randn(num_images, count, num_logits, generator=generator, dtype=torch.float64) - 2
    deltas = 0.5 * torch.randn(num_images, count, 4, generator=generator, dtype=torch.float64)
    return Predictions(
        [level.to(dtype) for level in permute_from_N_A_K(logits, sizes)],
        [level.to(dtype) for level in permute_from_N_A_K(deltas, sizes)],
    )


VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "softmax": {"class_loss": "softmax_focal", "alpha": [0.7, 0.1, 0.2, 0.3], "box_loss": "giou"},
    "per_class": {"alpha": [0.1, 0.5, 0.9], "gamma": 0.5, "box_loss": "ciou", "low_quality": "anchor"},
    "no_alpha": {
        "alpha": None,
        "gamma": 0.0,
        "box_loss": "l1",
        "low_quality": "none",
        "box_stds": (0.1, 0.1, 0.2, 0.2),
    },
}


def num_logits(variant: str) -> int:
    return K + (VARIANTS[variant].get("class_loss") == "softmax_focal")


@pytest.mark.parametrize("alpha", [0.25, None, [0.1, 0.5, 0.9]])
def test_losses_are_the_sums_over_anchors_divided_by_the_foreground(
    run: Run, generator: torch.Generator, alpha: Any
) -> None:
    predictions = random_predictions(generator, 3)
    losses, _, _, _ = run(Criterion(GRID, K, alpha=alpha, box_weight=3.0), predictions, TRUTHS)
    logits, deltas = permute_to_N_A_K(predictions.class_logits, K), permute_to_N_A_K(predictions.box_deltas, 4)
    anchors = GRID.anchors(SIZE)
    loss_cls, loss_box, num_foreground = 0.0, 0.0, 0
    for i, (boxes, labels) in enumerate(TRUTHS):
        matches = match_densely(boxes, anchors)
        targets = torch.zeros(len(anchors), K, dtype=torch.float64)
        foreground = matches >= 0
        targets[foreground.nonzero()[:, 0], labels[matches[foreground]]] = 1
        weights = torch.tensor(alpha).double() if isinstance(alpha, list) else alpha
        each = sigmoid_focal_loss(logits[i], targets, alpha=weights, gamma=2.0)
        loss_cls += each[matches != IGNORED].sum().item()
        codes = encode_boxes(boxes[matches[foreground]].double(), anchors[foreground].double())
        loss_box += smooth_l1_loss(deltas[i, foreground], codes, beta=1 / 9).sum().item()
        num_foreground += int(foreground.sum())
    assert num_foreground > 20
    assert losses["loss_cls"].item() == pytest.approx(loss_cls / num_foreground, rel=1e-6)
    assert losses["loss_box"].item() == pytest.approx(3 * loss_box / num_foreground, rel=1e-6)


def test_softmax_loss_and_giou_by_their_definition(run: Run, generator: torch.Generator) -> None:
    predictions = random_predictions(generator, 1, num_logits=K + 1)
    losses, _, _, _ = run(Criterion(GRID, K, **VARIANTS["softmax"]), predictions, TRUTHS[:1])
    logits, deltas = (
        permute_to_N_A_K(predictions.class_logits, K + 1)[0],
        permute_to_N_A_K(predictions.box_deltas, 4)[0],
    )
    anchors, (boxes, labels) = GRID.anchors(SIZE), TRUTHS[0]
    matches = match_densely(boxes, anchors)
    foreground = matches >= 0
    classes = torch.where(foreground, labels[matches.clamp(min=0)] + 1, 0)  # 0 is the background
    weights = torch.tensor([0.7, 0.1, 0.2, 0.3])
    each = softmax_focal_loss(logits, classes, class_weights=weights, gamma=2.0)
    assert_close(losses["loss_cls"], each[matches != IGNORED].sum() / foreground.sum(), rtol=1e-6, atol=0.0)
    decoded = decode_boxes(deltas[foreground], anchors[foreground].double())
    giou = generalized_box_iou_loss(decoded, boxes[matches[foreground]].double())
    assert_close(losses["loss_box"], giou.sum() / foreground.sum(), rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_factor_is_one_of_all_losses_and_costs_no_pass_over_the_maps(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch, variant: str
) -> None:
    factors: list[float] = []
    monkeypatch.setattr(maps, "_scale_unless_one", lambda gradient, factor: factors.append(factor.item()))
    criterion = Criterion(GRID, K, **VARIANTS[variant])
    predictions = random_predictions(generator, 3, num_logits=num_logits(variant))
    assignment = criterion.assign(TRUTHS, SIZE)
    normaliser = criterion.normaliser_share(assignment)
    leaves = [level.requires_grad_() for level in predictions.class_logits]
    plain = criterion(predictions, assignment, normaliser)
    tripled = criterion(predictions, assignment, normaliser, factor=3.0)
    for name in plain:
        assert_close(tripled[name], 3 * plain[name], rtol=1e-6, atol=0.0)
    torch.autograd.grad(tripled["loss_cls"] + tripled["loss_box"], leaves)
    assert factors == ([] if variant == "softmax" else [1.0] * 5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_only_ignored_anchors_have_no_class_gradient_and_only_foreground_a_box_gradient(
    run: Run, generator: torch.Generator, variant: str
) -> None:
    predictions = random_predictions(generator, 3, num_logits=num_logits(variant))
    _, by_logits, by_deltas, assignment = run(Criterion(GRID, K, **VARIANTS[variant]), predictions, TRUTHS)
    ignored = torch.zeros(3, 1161, dtype=torch.bool)
    ignored[assignment.ignored.image, assignment.ignored.anchor] = True
    assert ignored.sum() > 20
    assert (by_logits[ignored] == 0).all()
    assert (by_logits[~ignored] != 0).all()  # padding and images without boxes included
    foreground = torch.zeros_like(ignored)
    foreground[assignment.foreground.image, assignment.foreground.anchor] = True
    assert torch.equal((by_deltas != 0).any(dim=-1), foreground)


@pytest.mark.parametrize("normaliser", NORMALISERS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_of_the_parts_add_up_to_those_of_the_batch(
    run: Run, generator: torch.Generator, variant: str, normaliser: str
) -> None:
    predictions = random_predictions(generator, 3, num_logits=num_logits(variant))
    criterion = Criterion(GRID, K, normaliser=normaliser, **VARIANTS[variant])
    whole, by_logits, by_deltas, assignment = run(criterion, predictions, TRUTHS)
    for parts in ([slice(0, 1), slice(1, 2), slice(2, 3)], [slice(0, 2), slice(2, 3)]):
        normaliser = torch.stack(
            [criterion.normaliser_share(criterion.assign(TRUTHS[part], SIZE)) for part in parts]
        ).sum()
        assert_close(normaliser, criterion.normaliser_share(assignment))
        results = [run(criterion, take(predictions, part), TRUTHS[part], normaliser) for part in parts]
        for name, value in whole.items():
            assert_close(torch.stack([result[0][name] for result in results]).sum(), value, rtol=1e-9, atol=1e-12)
        assert_close(torch.cat([result[1] for result in results]), by_logits, rtol=1e-9, atol=1e-15)
        assert_close(torch.cat([result[2] for result in results]), by_deltas, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("normaliser", NORMALISERS)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("num_images", [1, 2])
def test_a_batch_without_any_box_has_class_loss_only(
    run: Run, generator: torch.Generator, num_images: int, variant: str, normaliser: str
) -> None:
    predictions = random_predictions(generator, num_images, num_logits=num_logits(variant))
    criterion = Criterion(GRID, K, normaliser=normaliser, **VARIANTS[variant])
    losses, by_logits, by_deltas, assignment = run(criterion, predictions, [NO_TRUTHS] * num_images)
    assert len(assignment.truth_labels) == len(assignment.foreground.image) == len(assignment.ignored.image) == 0
    assert losses["loss_box"].item() == 0
    assert (by_deltas == 0).all()
    # the sum over all anchors, divided by 1 or by the number of images
    flat, alpha = permute_to_N_A_K(predictions.class_logits, num_logits(variant)), VARIANTS[variant].get("alpha", 0.25)
    background = torch.zeros_like(flat)
    gamma = VARIANTS[variant].get("gamma", 2.0)
    weights = torch.tensor(alpha).double() if isinstance(alpha, list) else alpha
    if variant == "softmax":
        each = softmax_focal_loss(flat, background[..., 0].long(), class_weights=weights, gamma=gamma)
    else:
        each = sigmoid_focal_loss(flat, background, alpha=weights, gamma=gamma)
    assert_close(losses["loss_cls"], each.sum() / (1 if normaliser == "batch" else num_images), rtol=1e-6, atol=0.0)
    assert (by_logits != 0).all()


def test_an_image_without_boxes_adds_to_the_class_loss_only(run: Run, generator: torch.Generator) -> None:
    predictions = random_predictions(generator, 2)
    criterion = Criterion(GRID, K)
    alone, _, _, _ = run(criterion, take(predictions, slice(0, 1)), TRUTHS[:1])
    both, _, _, _ = run(criterion, predictions, TRUTHS[:2])
    assert_close(both["loss_box"], alone["loss_box"])
    assert both["loss_cls"] > alone["loss_cls"]


@pytest.mark.parametrize("box", [[500.0, 500, 520, 520], [-90, -90, -50, -50]])
def test_a_truth_far_outside_changes_nothing(run: Run, generator: torch.Generator, box: list[float]) -> None:
    criterion = Criterion(build_grid(sizes=[[32]] * 5), K)
    predictions = random_predictions(generator, 1, grid=criterion.grid)
    (boxes, labels), *_ = TRUTHS
    more = ImageGroundTruth(torch.cat([boxes, torch.tensor([box])]), torch.cat([labels, torch.tensor([1])]))
    expected, found = run(criterion, predictions, TRUTHS[:1]), run(criterion, predictions, [more])
    assert found[0] == expected[0]
    assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize("variant", VARIANTS)
def test_half_precision_predictions_have_float32_losses(run: Run, generator: torch.Generator, variant: str) -> None:
    predictions = random_predictions(generator, 3, num_logits=num_logits(variant), dtype=torch.bfloat16)
    wide = Predictions(*([level.float() for level in maps] for maps in predictions))
    criterion = Criterion(GRID, K, **VARIANTS[variant])
    losses, by_logits, by_deltas, _ = run(criterion, predictions, TRUTHS)
    expected, wide_logits, wide_deltas, _ = run(criterion, wide, TRUTHS)
    assert {value.dtype for value in losses.values()} == {torch.float32}
    assert_close(losses, expected, rtol=1e-6, atol=0.0)
    # rounded once, or twice where the weights of images and classes come after the loss
    assert_close(by_logits.float(), wide_logits, rtol=2**-7, atol=1e-30)
    assert_close(by_deltas.float(), wide_deltas, rtol=2**-7, atol=1e-30)


def test_memory_layout_of_the_maps_does_not_matter(run: Run, generator: torch.Generator) -> None:
    predictions = random_predictions(generator, 3, dtype=torch.float32)
    other = Predictions(
        *([level.contiguous(memory_format=torch.channels_last) for level in maps] for maps in predictions)
    )
    expected, found = run(Criterion(GRID, K), predictions, TRUTHS), run(Criterion(GRID, K), other, TRUTHS)
    assert_close(found[:3], expected[:3], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("variant", ["default", "softmax", "no_alpha"])
def test_gradients_in_float64(generator: torch.Generator, variant: str) -> None:
    grid = build_grid(sizes=[[24]] * 5, aspect_ratios=[1.0])
    criterion = Criterion(grid, K, **VARIANTS[variant])
    small = (16, 24)
    sizes, count = grid.map_sizes(small), sum(grid.anchors_per_level(small))
    truths = [
        ImageGroundTruth(torch.tensor([[-4.0, -4, 16, 16]]), torch.tensor([2]))
    ]  # IoU 20^2 / 24^2 with P3's first
    assignment = criterion.assign(truths, small)
    assert assignment.num_foreground.item() > 0
    logits = torch.randn(1, count, num_logits(variant), generator=generator, dtype=torch.float64).requires_grad_()
    deltas = (0.3 * torch.randn(1, count, 4, generator=generator, dtype=torch.float64)).requires_grad_()

    def total(logits: Tensor, deltas: Tensor) -> Tensor:
        predictions = Predictions(permute_from_N_A_K(logits, sizes), permute_from_N_A_K(deltas, sizes))
        return torch.stack(
            list(criterion(predictions, assignment, criterion.normaliser_share(assignment)).values())
        ).sum()

    assert torch.autograd.gradcheck(total, (logits, deltas))


@pytest.mark.parametrize("box_loss", [*CODE_LOSSES, *BOX_LOSSES])
def test_predictions_that_fit_have_no_box_loss(run: Run, generator: torch.Generator, box_loss: str) -> None:
    code = {"box_means": (0.1, 0, 0, 0.2), "box_stds": (0.1, 0.1, 0.2, 0.2)}
    criterion = Criterion(GRID, K, box_loss=box_loss, **code)
    assignment = criterion.assign(TRUTHS, SIZE)
    deltas = torch.randn(3, 1161, 4, generator=generator)
    on = assignment.foreground
    deltas[on.image, on.anchor] = encode_boxes(
        assignment.truth_boxes, assignment.anchors, means=code["box_means"], stds=code["box_stds"]
    )
    logits = random_predictions(generator, 3, dtype=torch.float32).class_logits
    predictions = Predictions(logits, permute_from_N_A_K(deltas, GRID.map_sizes(SIZE)))
    assert abs(run(criterion, predictions, TRUTHS)[0]["loss_box"].item()) < 1e-5
