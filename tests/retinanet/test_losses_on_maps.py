"""The laws of retinanet/losses.py: the sigmoid form on the maps of the heads, and half precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from retinanet.losses import (
    blocks,
    focal_background,
    sigmoid_focal_loss,
    softmax_focal_loss,
    sparse_sigmoid_focal_loss,
)

Slope = Callable[..., tuple[Tensor, Tensor]]
N, C, K, H, W = 3, 2, 4, 5, 6


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
    value_and_slope: Slope,
    generator: torch.Generator,
    monkeypatch: pytest.MonkeyPatch,
    layout: str,
    alpha: str,
    gamma: float,
) -> None:
    monkeypatch.setattr(blocks, "CPU_BLOCK", 37)  # several blocks, the last one shorter
    problem = map_problem(generator, num_foreground=11, num_ignored=13)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        logits, options = problem["logits"].to(dtype), {"class_alpha": ALPHAS[alpha], "gamma": gamma}
        expected = value_and_slope(dense_reference, logits, problem, **options)
        value, slope = value_and_slope(sparse, LAYOUTS[layout](logits), problem, **options)
        assert value.dtype == dtype
        assert_close((value, slope), expected, rtol=tolerance, atol=1e-7 * tolerance)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sparse_loss_of_half_precision_logits_is_computed_in_float32(
    value_and_slope: Slope, generator: torch.Generator, layout: str
) -> None:
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
    value_and_slope: Slope, generator: torch.Generator, num_foreground: int, num_ignored: int
) -> None:
    problem = map_problem(generator, num_foreground=num_foreground, num_ignored=num_ignored)
    options = {"class_alpha": ALPHAS["scalar"], "gamma": 2.0}
    expected = value_and_slope(dense_reference, problem["logits"], problem, **options)
    assert_close(value_and_slope(sparse, problem["logits"], problem, **options), expected)


@pytest.mark.parametrize("scale", [1e4, 1e30, 3e38])
def test_confident_foreground_costs_nothing_however_large_its_logit(
    value_and_slope: Slope, generator: torch.Generator, scale: float
) -> None:
    problem = map_problem(generator, num_foreground=20, num_ignored=30)
    logits = torch.full((N, C * K, H, W), -200.0)
    image, anchor, y, x = problem["ignored"]
    logits.unflatten(1, (C, K))[image, anchor, :, y, x] = scale
    logits[problem["foreground"]] = scale
    value, slope = value_and_slope(sparse, logits, problem, class_alpha=ALPHAS["scalar"], gamma=2.0)
    # All logits are first taken as background, about 50 of them at a loss of scale; nothing of it may stay.
    assert abs(value.item()) <= 1e-13 * scale
    assert slope.abs().max().item() == 0


def test_gradient_of_the_sparse_loss_follows_the_factor_before_it(
    value_and_slope: Slope, generator: torch.Generator
) -> None:
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


@pytest.mark.parametrize("form", ["sparse", "softmax"])
def test_float16_gradients_do_not_vanish_before_they_are_scaled(
    value_and_slope: Slope, generator: torch.Generator, form: str
) -> None:
    problem = map_problem(generator, num_foreground=3, num_ignored=3)
    problem["image_weights"] = torch.full((N,), 1e-4)
    forms: dict[str, Callable[[Tensor], Tensor]] = {
        "sparse": lambda x: sparse(x, problem, class_alpha=ALPHAS["scalar"], gamma=2.0),
        "softmax": lambda x: (
            1e-4
            * softmax_focal_loss(
                x.movedim(1, -1), torch.zeros(N, H, W, dtype=torch.int64), class_weights=None, gamma=2.0
            )
        ),
    }
    logits = (problem["logits"] - 4).half()
    # the scale that torch.amp.GradScaler starts with, itself more than float16 holds
    _, scaled = value_and_slope(lambda x: 65536 * forms[form](x), logits)
    _, wide = value_and_slope(forms[form], logits.float())
    assert scaled.dtype == torch.float16
    assert (wide.abs() < 2**-24).float().mean() > 0.1  # what float16 would round to 0
    assert_close(scaled.float(), 65536 * wide, rtol=2**-10, atol=2**-24)


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_a_graph_that_is_kept_gives_the_same_gradient_again(generator: torch.Generator, factor: float) -> None:
    problem = map_problem(generator, num_foreground=5, num_ignored=5)
    logits = problem["logits"].requires_grad_()
    loss = factor * sparse(logits, problem, class_alpha=ALPHAS["scalar"], gamma=2.0)
    (first,) = torch.autograd.grad(loss, logits, retain_graph=True)
    expected = first.clone()
    first.zero_()  # it belongs to who asked for it
    (second,) = torch.autograd.grad(loss, logits, retain_graph=True)
    assert torch.equal(second, expected)
    (last,) = torch.autograd.grad(loss, logits)
    assert torch.equal(last, expected)


def test_the_gradient_is_made_in_place(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    empty_like = torch.empty_like

    def noted(*args: Any, **kwargs: Any) -> Tensor:
        made.append((tensor := empty_like(*args, **kwargs)).data_ptr())
        return tensor

    monkeypatch.setattr(torch, "empty_like", noted)
    problem = map_problem(generator, num_foreground=5, num_ignored=5)
    logits = problem["logits"].requires_grad_()
    (3 * sparse(logits, problem, class_alpha=ALPHAS["scalar"], gamma=2.0)).backward()
    assert logits.grad is not None
    assert logits.grad.data_ptr() in made


@pytest.mark.parametrize("form", ["sparse", "softmax"])
def test_a_second_derivative_is_refused_and_not_wrong(generator: torch.Generator, form: str) -> None:
    problem = map_problem(generator, num_foreground=3, num_ignored=3)
    logits = problem["logits"].requires_grad_()
    forms: dict[str, Callable[[], Tensor]] = {
        "sparse": lambda: sparse(logits, problem, class_alpha=ALPHAS["scalar"], gamma=2.0),
        "softmax": lambda: softmax_focal_loss(
            logits.movedim(1, -1), torch.zeros(N, H, W, dtype=torch.int64), class_weights=None, gamma=2.0
        ).sum(),
    }
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(weight * forms[form](), logits, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


@given(
    values=st.lists(
        st.floats(allow_nan=False, allow_infinity=False, width=32) | st.floats(-30, 90, width=32),
        min_size=1,
        max_size=40,
    ),
    gamma=st.sampled_from([0.0, 1e-30, 0.05, 0.5, 1.5, 2.0, 5.0, 100.0, 1e30, 1e38]),
)
def test_background_of_every_logit_is_that_of_the_dense_form(values: list[float], gamma: float) -> None:
    logits = torch.tensor(values).reshape(1, 1, 1, -1).requires_grad_()
    no_places = tuple(torch.zeros(0, dtype=torch.int64) for _ in range(4))
    loss = sparse_sigmoid_focal_loss(
        logits,
        no_places,
        no_places,
        class_alpha=torch.tensor([0.25]),
        gamma=gamma,
        image_weights=torch.ones(1),  # type: ignore[arg-type]
    )
    if gamma > 100:  # p^gamma is known to gamma times the rounding of p: not at all
        assert not loss.isnan()
        assert torch.autograd.grad(loss, logits)[0].isfinite().all()
        return
    value, slope = focal_background(logits.detach().double(), gamma)
    if value.sum() * 0.75 < torch.finfo(torch.float32).max:
        assert_close(loss.detach().double(), 0.75 * value.sum(), rtol=2e-6 * max(1.0, gamma), atol=1e-35)
    (found,) = torch.autograd.grad(loss, logits)
    assert found.isfinite().all()
    assert_close(found.double(), 0.75 * slope, rtol=3e-6 * max(1.0, gamma), atol=1e-35 * max(1.0, gamma))
