"""The laws of retinanet/losses.py: the softmax form over K+1 classes."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from retinanet.losses import (
    sigmoid_focal_loss,
    softmax_focal_loss,
)

Golden = Callable[[str], dict[str, Tensor]]
Slope = Callable[..., tuple[Tensor, Tensor]]
GAMMAS = [0.0, 0.5, 1.0, 2.0, 5.0]  # of the golden arrays

float32_logits = st.floats(allow_nan=False, allow_infinity=False, width=32)
gammas = st.one_of(st.sampled_from([0.0, 1e-30, 0.5, 1.0, 2.0, 1e30]), st.floats(0, 100))


# --- the softmax form


@pytest.mark.parametrize("weights", [None, torch.tensor([0.75, 0.25, 0.25, 0.25])])
def test_softmax_focal_loss_with_gamma_zero_is_cross_entropy(
    value_and_slope: Slope, generator: torch.Generator, weights: Tensor | None
) -> None:
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
def test_softmax_focal_loss_is_that_of_the_notes(value_and_slope: Slope, golden: Golden, alpha: int, rows: int) -> None:
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
def test_softmax_form_is_finite_for_every_logit_and_every_gamma(
    value_and_slope: Slope, logits: list[float], gamma: float, label: int
) -> None:
    rows, labels = torch.tensor([logits]), torch.tensor([label % len(logits)])
    value, slope = value_and_slope(softmax_focal_loss, rows, labels, class_weights=None, gamma=gamma)
    assert value.isfinite().all()
    assert slope.isfinite().all()
    assert value.item() >= 0
    assert slope[0, label % len(logits)] <= 0
    # the gradient is a difference of distributions times a number
    assert abs(slope.sum().item()) <= 1e-5 * (1 + slope.abs().sum().item())


@pytest.mark.parametrize("gamma", GAMMAS)
def test_softmax_form_keeps_its_digits_in_float32(value_and_slope: Slope, gamma: float) -> None:
    # the first logit leads by 0 .. 30: p_t from 1/3 to 1 - 2e-13, where 1 - p_t and log(p_t) cancel
    logits = torch.stack([torch.arange(31.0), torch.zeros(31), torch.zeros(31)], dim=1)
    for labels in (torch.zeros(31, dtype=torch.int64), torch.ones(31, dtype=torch.int64)):
        found = value_and_slope(softmax_focal_loss, logits, labels, class_weights=None, gamma=gamma)
        exact = value_and_slope(softmax_focal_loss, logits.double(), labels, class_weights=None, gamma=gamma)
        assert_close(found, exact, rtol=5e-6, atol=1e-37, check_dtype=False)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_gradients_of_the_softmax_form(generator: torch.Generator, gamma: float) -> None:
    logits = (2 * torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)).requires_grad_()
    labels = torch.randint(0, 4, (2, 3), generator=generator)
    weights = torch.tensor([0.7, 0.1, 0.2, 0.3], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: softmax_focal_loss(x, labels, class_weights=weights, gamma=gamma), logits)
