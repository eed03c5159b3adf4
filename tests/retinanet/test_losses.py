"""The laws of retinanet/losses.py."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close
from torchvision.ops import sigmoid_focal_loss as torchvision_focal_loss

import retinanet.losses as losses
from retinanet.losses import (
    ciou_loss,
    focal_background,
    giou_loss,
    l1_loss,
    sigmoid_focal_loss,
    smooth_l1_loss,
    softmax_focal_loss,
    sparse_sigmoid_focal_loss,
)

Golden = Callable[[str], dict[str, Tensor]]
GAMMAS = [0.0, 0.5, 1.0, 2.0, 5.0]  # of the golden arrays
N, C, K, H, W = 3, 2, 4, 5, 6

float32_logits = st.floats(allow_nan=False, allow_infinity=False, width=32)
gammas = st.one_of(st.sampled_from([0.0, 1e-30, 0.5, 1.0, 2.0, 1e30]), st.floats(0, 100))


def value_and_slope(loss: Callable[..., Tensor], logits: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """A loss and the derivative of its sum by the logits."""
    logits = logits.clone().requires_grad_()
    value = loss(logits, *args, **kwargs)
    (slope,) = torch.autograd.grad(value.sum(), logits)
    return value.detach(), slope


# --- the sigmoid form, dense


@pytest.mark.parametrize("target", [0.0, 1.0])
def test_focal_loss_with_gamma_zero_is_cross_entropy(generator: torch.Generator, target: float) -> None:
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
    value, slope = value_and_slope(sigmoid_focal_loss, logits, targets, alpha=alpha, gamma=gamma)
    # atol: what underflows in float32 is 0
    assert_close(value.double(), arrays["exact_value"][at], rtol=tolerance, atol=1e-37)
    assert_close(slope.double(), arrays["exact_grad"][at], rtol=tolerance, atol=1e-37)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("peer", ["torchvision", "mmdet"])
def test_gradient_is_finite_where_the_peers_have_nan(golden: Golden, peer: str, dtype: str) -> None:
    arrays = golden("focal")
    theirs = arrays[f"{peer}_grad_gamma0.5_{dtype}"]
    logits, targets = (arrays[key].to(theirs.dtype) for key in ("logits", "targets"))
    _, ours = value_and_slope(sigmoid_focal_loss, logits, targets, alpha=0.25, gamma=0.5)
    assert theirs.isnan().sum() >= 6  # a saturated logit poisons the whole step
    assert ours.isfinite().all()
    sane = ~theirs.isnan()
    assert_close(ours[sane], theirs[sane], rtol=1e-4, atol=2e-6 if dtype == "float32" else 1e-12)


@given(logit=float32_logits, gamma=gammas, target=st.sampled_from([0.0, 1.0]))
def test_every_logit_and_every_gamma_give_a_finite_value_and_gradient(logit: float, gamma: float, target: float) -> None:
    logits, targets = torch.tensor([logit]), torch.tensor([target])
    value, slope = value_and_slope(sigmoid_focal_loss, logits, targets, alpha=None, gamma=gamma)
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


def test_dense_loss_is_torchvisions(generator: torch.Generator) -> None:
    logits, targets = torch.randn(4, 7, generator=generator), torch.randint(0, 2, (4, 7), generator=generator).float()
    ours = value_and_slope(sigmoid_focal_loss, logits, targets, alpha=0.25, gamma=2.0)
    theirs = value_and_slope(torchvision_focal_loss, logits, targets, alpha=0.25, gamma=2.0)
    assert_close(ours, theirs)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 3.7])
def test_gradients_of_the_dense_form(generator: torch.Generator, gamma: float) -> None:
    logits = (3 * torch.randn(3, 4, generator=generator, dtype=torch.float64)).requires_grad_()
    targets = torch.randint(0, 2, (3, 4), generator=generator).double()
    alpha = torch.tensor([0.1, 0.25, 0.5, 0.9], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: sigmoid_focal_loss(x, targets, alpha=alpha, gamma=gamma), logits)


def test_half_precision_logits_have_a_float32_loss(generator: torch.Generator) -> None:
    logits, targets = torch.randn(20, generator=generator).bfloat16(), torch.ones(20)
    value, slope = value_and_slope(sigmoid_focal_loss, logits, targets, alpha=0.25, gamma=2.0)
    wide_value, wide_slope = value_and_slope(sigmoid_focal_loss, logits.float(), targets, alpha=0.25, gamma=2.0)
    assert value.dtype == torch.float32
    assert torch.equal(value, wide_value)
    assert_close(slope, wide_slope.bfloat16())


# --- the sigmoid form on maps


def map_problem(generator: torch.Generator, *, num_foreground: int, num_ignored: int) -> dict[str, Any]:
    """Logits [N, C*K, H, W] with places of foreground and ignored anchors, all different."""
    places = torch.randperm(N * C * H * W, generator=generator)[: num_foreground + num_ignored]
    image, anchor, y, x = torch.unravel_index(places, (N, C, H, W))
    labels = torch.randint(0, K, (num_foreground,), generator=generator)
    f = slice(0, num_foreground)
    i = slice(num_foreground, None)
    return {
        "logits": 3 * torch.randn(N, C * K, H, W, generator=generator, dtype=torch.float64),
        "foreground": (image[f], anchor[f] * K + labels, y[f], x[f]),
        "ignored": (image[i], anchor[i], y[i], x[i]),
        "image_weights": torch.rand(N, generator=generator, dtype=torch.float64) + 0.1,
    }


def dense_reference(logits: Tensor, problem: dict[str, Any], *, class_alpha: Tensor, gamma: float) -> Tensor:
    """The same loss through targets of the size of the logits."""
    targets, counted = torch.zeros_like(logits), torch.ones(N, C, K, H, W, dtype=logits.dtype)
    targets[problem["foreground"]] = 1
    image, anchor, y, x = problem["ignored"]
    counted[image, anchor, :, y, x] = 0
    alpha = class_alpha.to(logits.dtype).repeat(C)[:, None, None]  # [C*K, 1, 1]
    each = sigmoid_focal_loss(logits, targets, alpha=alpha, gamma=gamma) * counted.flatten(1, 2)
    return (each * problem["image_weights"].to(logits.dtype)[:, None, None, None]).sum()


def sparse(logits: Tensor, problem: dict[str, Any], *, class_alpha: Tensor, gamma: float) -> Tensor:
    return sparse_sigmoid_focal_loss(
        logits,
        problem["foreground"],
        problem["ignored"],
        class_alpha=class_alpha.to(torch.promote_types(logits.dtype, torch.float32)),
        gamma=gamma,
        image_weights=problem["image_weights"].to(torch.promote_types(logits.dtype, torch.float32)),
    )


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x.contiguous(),
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "cut_from_a_larger_map": lambda x: F.pad(x, (1, 1, 0, 2))[..., :H, 1 : 1 + W],
}
ALPHAS = {"scalar": torch.full((K,), 0.25), "per_class": torch.tensor([0.1, 0.25, 0.6, 1.0])}


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_sparse_loss_is_the_sum_of_the_dense_one(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch, layout: str, alpha: str, gamma: float
) -> None:
    monkeypatch.setattr(losses, "CPU_BLOCK", 37)  # several blocks, the last one shorter
    problem = map_problem(generator, num_foreground=11, num_ignored=13)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        logits, options = problem["logits"].to(dtype), {"class_alpha": ALPHAS[alpha], "gamma": gamma}
        expected = value_and_slope(dense_reference, logits, problem, **options)
        value, slope = value_and_slope(sparse, LAYOUTS[layout](logits), problem, **options)
        assert value.dtype == dtype
        assert_close((value, slope), expected, rtol=tolerance, atol=1e-7 * tolerance)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sparse_loss_of_half_precision_logits_is_computed_in_float32(generator: torch.Generator, layout: str) -> None:
    problem = map_problem(generator, num_foreground=11, num_ignored=13)
    logits, options = problem["logits"].bfloat16(), {"class_alpha": ALPHAS["per_class"], "gamma": 2.0}
    value, slope = value_and_slope(sparse, LAYOUTS[layout](logits), problem, **options)
    wide_value, wide_slope = value_and_slope(dense_reference, logits.float(), problem, **options)
    assert value.dtype == torch.float32
    assert_close(value, wide_value)
    assert slope.dtype == torch.bfloat16
    assert_close(slope.float(), wide_slope, rtol=2**-8, atol=0.0)  # one rounding


@pytest.mark.parametrize(("num_foreground", "num_ignored"), [(0, 0), (0, 5), (5, 0)])
def test_sparse_loss_without_foreground_or_ignored_anchors(
    generator: torch.Generator, num_foreground: int, num_ignored: int
) -> None:
    problem = map_problem(generator, num_foreground=num_foreground, num_ignored=num_ignored)
    options = {"class_alpha": ALPHAS["scalar"], "gamma": 2.0}
    expected = value_and_slope(dense_reference, problem["logits"], problem, **options)
    assert_close(value_and_slope(sparse, problem["logits"], problem, **options), expected)


@pytest.mark.parametrize("scale", [1e4, 1e30, 3e38])
def test_confident_foreground_costs_nothing_however_large_its_logit(generator: torch.Generator, scale: float) -> None:
    problem = map_problem(generator, num_foreground=20, num_ignored=30)
    logits = torch.full((N, C * K, H, W), -200.0)
    image, anchor, y, x = problem["ignored"]
    logits.unflatten(1, (C, K))[image, anchor, :, y, x] = scale
    logits[problem["foreground"]] = scale
    value, slope = value_and_slope(sparse, logits, problem, class_alpha=ALPHAS["scalar"], gamma=2.0)
    # All logits are first taken as background, about 50 of them at a loss of scale; nothing of it may stay.
    assert abs(value.item()) <= 1e-13 * scale
    assert slope.abs().max().item() == 0


def test_gradient_of_the_sparse_loss_follows_the_factor_before_it(generator: torch.Generator) -> None:
    problem = map_problem(generator, num_foreground=5, num_ignored=5)
    options = {"class_alpha": ALPHAS["scalar"], "gamma": 2.0}
    _, slope = value_and_slope(sparse, problem["logits"], problem, **options)
    _, tripled = value_and_slope(lambda x: 3 * sparse(x, problem, **options), problem["logits"])
    assert_close(tripled, 3 * slope)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_gradients_of_the_sparse_form(generator: torch.Generator, gamma: float) -> None:
    problem = map_problem(generator, num_foreground=11, num_ignored=13)
    logits = problem["logits"].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: sparse(x, problem, class_alpha=ALPHAS["per_class"], gamma=gamma), logits)


# --- the softmax form


@pytest.mark.parametrize("weights", [None, torch.tensor([0.75, 0.25, 0.25, 0.25])])
def test_softmax_focal_loss_with_gamma_zero_is_cross_entropy(generator: torch.Generator, weights: Tensor | None) -> None:
    logits, labels = torch.randn(9, 4, generator=generator), torch.randint(0, 4, (9,), generator=generator)
    ours = value_and_slope(softmax_focal_loss, logits, labels, class_weights=weights, gamma=0.0)
    theirs = value_and_slope(F.cross_entropy, logits, labels, weight=weights, reduction="none")
    assert_close(ours, theirs)


def test_softmax_focal_loss_worked_by_hand() -> None:
    # p = (1/5, 3/5, 1/5): for label 1 with gamma 2, (2/5)^2 * log(5/3); for label 0, (4/5)^2 * log 5
    logits, labels = torch.tensor([0.0, math.log(3), 0.0]).expand(2, 3), torch.tensor([1, 0])
    expected = [0.16 * math.log(5 / 3), 0.64 * math.log(5)]
    assert_close(softmax_focal_loss(logits, labels, class_weights=None, gamma=2.0), torch.tensor(expected))


def test_softmax_over_two_classes_is_the_sigmoid_of_their_difference(generator: torch.Generator) -> None:
    logits, labels = 4 * torch.randn(20, 2, generator=generator), torch.randint(0, 2, (20,), generator=generator)
    sigmoid = sigmoid_focal_loss(logits[:, 1] - logits[:, 0], labels.float(), alpha=0.25, gamma=2.0)
    weights = torch.tensor([0.75, 0.25])
    assert_close(softmax_focal_loss(logits, labels, class_weights=weights, gamma=2.0), sigmoid, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("rows", [20, 28])
@pytest.mark.parametrize("alpha", range(4))
def test_softmax_focal_loss_is_that_of_the_notes(golden: Golden, alpha: int, rows: int) -> None:
    arrays = golden("focal")
    lists = [[0.25, 0.75, 0.75, 0.75], [0.75, 0.25, 0.25, 0.25], *arrays["sm_alpha_lists"].tolist()]
    weights = torch.tensor(lists[alpha])
    kept = weights.clone()
    name = f"sm20_seed_alpha{alpha}" if rows == 20 else f"sm_seed_alpha{alpha}"
    logits, labels = arrays["sm_logits"][:rows], arrays["sm_labels"][:rows]
    for row, gamma in enumerate(GAMMAS):
        for _ in range(2):  # the repository of the notes changed its alpha at every call
            value, slope = value_and_slope(softmax_focal_loss, logits, labels, class_weights=weights, gamma=gamma)
        theirs = arrays[f"{name}_grad"][row]
        sane = ~theirs.isnan()  # theirs has NaN at gamma .5 where p_t is 1
        assert_close(value.sum(), arrays[f"{name}_sum"][row], rtol=1e-9, atol=0.0)
        assert_close(slope[sane], theirs[sane], rtol=1e-9, atol=1e-12)
        assert slope.isfinite().all()
    assert torch.equal(weights, kept)


def test_cross_entropy_has_no_constant_inside_its_logarithm(golden: Golden) -> None:
    arrays = golden("focal")
    loss = softmax_focal_loss(arrays["sm_logits"][:20], arrays["sm_labels"][:20], class_weights=None, gamma=0.0)
    assert loss.mean().item() == pytest.approx(arrays["np_ce_torch"].item(), rel=1e-9)


@example(logits=[3e38, -3e38], gamma=2.0, label=1)  # their difference is more than float32 holds
@example(logits=[3e38, -3e38], gamma=0.0, label=1)
@example(logits=[0.1, -0.6, 0.4, -0.9, -30.0], gamma=1e30, label=4)  # the others' probabilities may add up to 1 + 1e-7
@given(logits=st.lists(float32_logits, min_size=2, max_size=5), gamma=gammas, label=st.integers(0, 4))
def test_softmax_form_is_finite_for_every_logit_and_every_gamma(logits: list[float], gamma: float, label: int) -> None:
    rows, labels = torch.tensor([logits]), torch.tensor([label % len(logits)])
    value, slope = value_and_slope(softmax_focal_loss, rows, labels, class_weights=None, gamma=gamma)
    assert value.isfinite().all()
    assert slope.isfinite().all()
    assert value.item() >= 0
    assert slope[0, label % len(logits)] <= 0
    # the gradient is a difference of distributions times a number
    assert abs(slope.sum().item()) <= 1e-5 * (1 + slope.abs().sum().item())


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_gradients_of_the_softmax_form(generator: torch.Generator, gamma: float) -> None:
    logits = (2 * torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)).requires_grad_()
    labels = torch.randint(0, 4, (2, 3), generator=generator)
    weights = torch.tensor([0.7, 0.1, 0.2, 0.3], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: softmax_focal_loss(x, labels, class_weights=weights, gamma=gamma), logits
    )


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


@pytest.mark.parametrize("loss", ["smooth_l1", "l1", "giou"])  # ciou holds its trade-off alpha constant, as in its paper
def test_gradients_of_the_box_losses(generator: torch.Generator, loss: str) -> None:
    function = (losses.CODE_LOSSES | losses.BOX_LOSSES)[loss]
    options = {"beta": 1 / 9} if loss in losses.CODE_LOSSES else {}
    corners = torch.rand(2, 5, 2, generator=generator, dtype=torch.float64) * 10
    first, second = torch.cat([corners, 12 + corners + corners.flip(1)], dim=-1)
    assert torch.autograd.gradcheck(lambda x: function(x, second, **options), first.requires_grad_())
