"""The laws of retinanet/losses: the sigmoid form logit by logit, and the box losses."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close
from torchvision.ops import box_iou, complete_box_iou_loss, generalized_box_iou_loss
from torchvision.ops import sigmoid_focal_loss as torchvision_focal_loss

import retinanet.losses as losses
from retinanet.losses import (
    ciou_loss,
    focal_background,
    giou_loss,
    l1_loss,
    sigmoid_focal_loss,
    smooth_l1_loss,
    sparse_sigmoid_focal_loss,
)

Golden = Callable[[str], dict[str, Tensor]]
Slope = Callable[..., tuple[Tensor, Tensor]]
GAMMAS = [0.0, 0.5, 1.0, 2.0, 5.0]  # of the golden arrays

float32_logits = st.floats(allow_nan=False, allow_infinity=False, width=32)
gammas = st.one_of(st.sampled_from([0.0, 1e-30, 0.5, 1.0, 2.0, 1e30]), st.floats(0, 100))


def by_hand(logits: Tensor, targets: Tensor, *, alpha: float | None, gamma: float) -> tuple[Tensor, Tensor]:
    """Value and derivative by focal_background; target 1 mirrors the logit."""
    sign = 1 - 2 * targets
    value, slope = focal_background(logits * sign, gamma)
    weight = 1 if alpha is None else alpha * targets + (1 - alpha) * (1 - targets)
    return value * weight, slope * sign * weight


def loss_on_map(logits: Tensor, targets: Tensor, *, alpha: float | None, gamma: float) -> Tensor:
    """The sum of the losses [X], as training computes it on a map of one row."""
    (row,) = torch.nonzero(targets, as_tuple=True)
    zero, none = torch.zeros_like(row), row[:0]
    return sparse_sigmoid_focal_loss(
        logits.view(1, 1, 1, -1),
        (zero, zero, zero, row),
        (none, none, none, none),
        class_alpha=torch.tensor([0.5 if alpha is None else alpha]),
        gamma=gamma,
        image_weights=torch.tensor([2.0 if alpha is None else 1.0]),
    )


# --- the sigmoid form


@pytest.mark.parametrize("target", [0.0, 1.0])
def test_focal_loss_with_gamma_zero_is_cross_entropy(
    value_and_slope: Slope, generator: torch.Generator, target: float
) -> None:
    logits = 5 * torch.randn(50, generator=generator, dtype=torch.float64)
    targets = torch.full_like(logits, target)
    ours = value_and_slope(sigmoid_focal_loss, logits, targets, alpha=None, gamma=0.0)
    theirs = value_and_slope(F.binary_cross_entropy_with_logits, logits, targets, reduction="none")
    assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("p_t", "factor"),
    [
        (0.9, 100.0),  # 1 / (1 - .9)^2
        (0.968, 976.5625),  # 1 / .032^2, "about 1000" in the paper
        (0.5, 4.0),  # 1 / .5^2
        (0.1, 1 / 0.81),
    ],
)
@pytest.mark.parametrize("target", [0.0, 1.0])
def test_gamma_two_divides_the_loss_of_an_easy_example(p_t: float, factor: float, target: float) -> None:
    logit = math.log(p_t / (1 - p_t)) * (1 if target else -1)
    logits, targets = torch.tensor([logit], dtype=torch.float64), torch.tensor([target], dtype=torch.float64)
    cross_entropy = sigmoid_focal_loss(logits, targets, alpha=None, gamma=0.0)
    assert_close(cross_entropy, torch.tensor([-math.log(p_t)], dtype=torch.float64))
    focal = sigmoid_focal_loss(logits, targets, alpha=None, gamma=2.0)
    assert (cross_entropy / focal).item() == pytest.approx(factor, rel=1e-9)


@given(p_t=st.floats(1e-6, 0.5))
def test_gamma_two_divides_the_loss_of_a_hard_example_by_at_most_four(p_t: float) -> None:
    logits, targets = torch.tensor([math.log(p_t / (1 - p_t))], dtype=torch.float64), torch.ones(1)
    cross_entropy, focal = (sigmoid_focal_loss(logits, targets, alpha=None, gamma=gamma) for gamma in (0.0, 2.0))
    assert 1 <= (cross_entropy / focal).item() <= 4 + 1e-9


def test_alpha_weighs_foreground_and_its_complement_background() -> None:
    logits = torch.zeros(2, 3)
    targets = torch.tensor([[1.0, 1, 1], [0, 0, 0]])
    # at logit 0 with gamma 0 the loss is log 2
    scalar = sigmoid_focal_loss(logits, targets, alpha=0.25, gamma=0.0) / math.log(2)
    assert_close(scalar, torch.tensor([[0.25, 0.25, 0.25], [0.75, 0.75, 0.75]]))
    per_class = sigmoid_focal_loss(logits, targets, alpha=torch.tensor([0.1, 0.5, 1.0]), gamma=0.0) / math.log(2)
    assert_close(per_class, torch.tensor([[0.1, 0.5, 1.0], [0.9, 0.5, 0.0]]))
    assert_close(sigmoid_focal_loss(logits, targets, alpha=None, gamma=0.0) / math.log(2), torch.ones(2, 3))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("alpha", [0.25, 0.5, 0.75, None])
def test_value_and_gradient_are_exact(
    golden: Golden, alpha: float | None, gamma: float, dtype: torch.dtype, tolerance: float
) -> None:
    arrays = golden("focal")
    at = (arrays["alphas"].tolist().index(-1.0 if alpha is None else alpha), arrays["gammas"].tolist().index(gamma))
    logits, targets = arrays["logits"].to(dtype), arrays["targets"].to(dtype)
    value, slope = by_hand(logits, targets, alpha=alpha, gamma=gamma)
    # atol: what underflows in float32 is 0
    assert_close(value.double(), arrays["exact_value"][at], rtol=tolerance, atol=1e-37)
    assert_close(slope.double(), arrays["exact_grad"][at], rtol=tolerance, atol=1e-37)


@pytest.mark.parametrize("largest", [1000.0, 2.0])  # both ways of blocks.py
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("alpha", [0.25, 0.5, 0.75, None])
def test_gradient_on_a_map_is_exact_and_so_is_the_sum(
    value_and_slope: Slope,
    golden: Golden,
    alpha: float | None,
    gamma: float,
    dtype: torch.dtype,
    tolerance: float,
    largest: float,
) -> None:
    arrays = golden("focal")
    at = (arrays["alphas"].tolist().index(-1.0 if alpha is None else alpha), arrays["gammas"].tolist().index(gamma))
    here = arrays["logits"] <= largest
    value, slope = value_and_slope(
        loss_on_map, arrays["logits"][here].to(dtype), arrays["targets"][here], alpha=alpha, gamma=gamma
    )
    assert_close(value.double(), arrays["exact_value"][at][here].sum(), rtol=tolerance, atol=0.0)
    assert_close(slope.double(), arrays["exact_grad"][at][here], rtol=tolerance, atol=1e-37)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("peer", ["torchvision", "mmdet"])
def test_gradient_is_finite_where_the_peers_have_nan(
    value_and_slope: Slope, golden: Golden, peer: str, dtype: str
) -> None:
    arrays = golden("focal")
    theirs = arrays[f"{peer}_grad_gamma0.5_{dtype}"]
    logits, targets = (arrays[key].to(theirs.dtype) for key in ("logits", "targets"))
    _, ours = value_and_slope(loss_on_map, logits, targets, alpha=0.25, gamma=0.5)
    assert theirs.isnan().sum() >= 6  # a saturated logit poisons the whole step
    assert ours.isfinite().all()
    sane = ~theirs.isnan()
    assert_close(ours[sane], theirs[sane], rtol=1e-4, atol=2e-6 if dtype == "float32" else 1e-12)


@given(logit=float32_logits, gamma=gammas, target=st.sampled_from([0.0, 1.0]))
def test_every_logit_and_every_gamma_give_a_finite_value_and_gradient(
    logit: float, gamma: float, target: float
) -> None:
    logits, targets = torch.tensor([logit]), torch.tensor([target])
    value, slope = by_hand(logits, targets, alpha=None, gamma=gamma)
    assert value.isfinite().all()
    assert slope.isfinite().all()
    assert value.item() >= 0
    assert slope.item() * (1 - 2 * target) >= 0  # away from the target it rises


@given(pair=st.tuples(float32_logits, float32_logits), gamma=st.floats(0, 20))
def test_background_loss_never_falls_with_the_logit(pair: tuple[float, float], gamma: float) -> None:
    (low, high), _ = focal_background(torch.tensor(sorted(pair)), gamma)
    assert high >= low * (1 - 1e-5)


@given(logit=st.floats(-60, 60, width=32), gamma=st.floats(0, 10))
def test_float32_agrees_with_the_formula_in_float64(logit: float, gamma: float) -> None:
    value, slope = focal_background(torch.tensor([logit]), gamma)
    softplus = math.log1p(math.exp(-abs(logit))) + max(logit, 0.0)
    p, q = 1 / (1 + math.exp(-logit)), 1 / (1 + math.exp(logit))
    assert value.item() == pytest.approx(p**gamma * softplus, rel=1e-5, abs=1e-36)
    assert slope.item() == pytest.approx(p**gamma * (gamma * q * softplus + p), rel=3e-5, abs=1e-36)


def test_rule_is_torchvisions(value_and_slope: Slope, generator: torch.Generator) -> None:
    logits, targets = torch.randn(4, 7, generator=generator), torch.randint(0, 2, (4, 7), generator=generator).float()
    ours = value_and_slope(sigmoid_focal_loss, logits, targets, alpha=0.25, gamma=2.0)
    theirs = value_and_slope(torchvision_focal_loss, logits, targets, alpha=0.25, gamma=2.0)
    assert_close(ours, theirs)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 3.7])
def test_gradients_of_the_rule(generator: torch.Generator, gamma: float) -> None:
    logits = (3 * torch.randn(3, 4, generator=generator, dtype=torch.float64)).requires_grad_()
    targets = torch.randint(0, 2, (3, 4), generator=generator).double()
    alpha = torch.tensor([0.1, 0.25, 0.5, 0.9], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: sigmoid_focal_loss(x, targets, alpha=alpha, gamma=gamma), logits)


# --- boxes


def test_box_losses_worked_by_hand() -> None:
    code, target = torch.tensor([[0.25, 1.0, 0.0, -1.0]]), torch.zeros(1, 4)
    # beta .5: .25 is below it, .25^2 / 2 / .5 = .0625; 1 is above, 1 - .25 = .75, twice
    assert_close(smooth_l1_loss(code, target, beta=0.5), torch.tensor([0.0625 + 0.75 + 0.75]))
    assert_close(l1_loss(code, target), torch.tensor([2.25]))
    box, truth = torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 1, 3, 3]])
    # IoU 1/7; the hull has 9 px, 2 of them in neither; the centres lie sqrt(2) apart, the hull's diagonal is sqrt(18)
    assert_close(giou_loss(box, truth), torch.tensor([1 - 1 / 7 + 2 / 9]), atol=1e-6, rtol=0)
    assert_close(ciou_loss(box, truth), torch.tensor([1 - 1 / 7 + 2 / 18]), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("ours", "theirs"), [(giou_loss, generalized_box_iou_loss), (ciou_loss, complete_box_iou_loss)]
)
def test_box_losses_and_their_gradients_are_torchvisions(
    ours: Callable[..., Tensor], theirs: Callable[..., Tensor], generator: torch.Generator
) -> None:
    # In float64, overlapping, apart, one in the other, and equal ones.
    corner, size = 80 * torch.rand(2, 500, 2, generator=generator, dtype=torch.float64)
    boxes = torch.cat([corner, corner + size + 1], dim=1)
    target = boxes[torch.randperm(500, generator=generator)]
    target[:50], target[50:100] = boxes[:50], boxes[50:100] + torch.tensor([0.2, 0.2, -0.2, -0.2])
    assert 100 < (box_iou(boxes, target).diagonal() == 0).sum() < 400
    results = []
    for loss in (ours, theirs):
        predicted = boxes.clone().requires_grad_()
        losses_of_boxes = loss(predicted, target)
        losses_of_boxes.sum().backward()
        results.append((losses_of_boxes.detach(), predicted.grad))
    assert_close(results[0], results[1], rtol=1e-12, atol=1e-12)


def test_smooth_l1_with_beta_zero_is_l1(generator: torch.Generator) -> None:
    code, target = torch.randn(2, 6, 4, generator=generator)
    assert_close(smooth_l1_loss(code, target, beta=0.0), l1_loss(code, target))


@pytest.mark.parametrize("loss", [*losses.CODE_LOSSES, *losses.BOX_LOSSES])
def test_a_box_that_fits_costs_nothing_and_no_boxes_cost_nothing(loss: str) -> None:
    function = (losses.CODE_LOSSES | losses.BOX_LOSSES)[loss]
    options = {"beta": 1 / 9} if loss in losses.CODE_LOSSES else {}
    boxes = torch.tensor([[1.0, 2, 30, 50], [0, 0, 4, 4]])
    assert_close(function(boxes, boxes, **options), torch.zeros(2), atol=1e-6, rtol=0)
    assert function(boxes[:0], boxes[:0], **options).shape == (0,)


@pytest.mark.parametrize(
    "loss", ["smooth_l1", "l1", "giou"]
)  # ciou holds its trade-off alpha constant, as in its paper
def test_gradients_of_the_box_losses(generator: torch.Generator, loss: str) -> None:
    function = (losses.CODE_LOSSES | losses.BOX_LOSSES)[loss]
    options = {"beta": 1 / 9} if loss in losses.CODE_LOSSES else {}
    corners = torch.rand(2, 5, 2, generator=generator, dtype=torch.float64) * 10
    first, second = torch.cat([corners, 12 + corners + corners.flip(1)], dim=-1)
    assert torch.autograd.gradcheck(lambda x: function(x, second, **options), first.requires_grad_())
