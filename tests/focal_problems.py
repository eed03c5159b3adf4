"""Focal losses on maps, drawn by hypothesis, and what the rule says of them: tests hold every fast twin to it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor

from retinanet.losses import sigmoid_focal_loss, sparse_sigmoid_focal_loss

LAYOUTS = ("contiguous", "channels_last", "cut from a larger map")


class FocalProblem(NamedTuple):
    """Arguments of sparse_sigmoid_focal_loss; logits [N, C*K, H, W] are float32."""

    logits: Tensor
    foreground: tuple[Tensor, Tensor, Tensor, Tensor]
    ignored: tuple[Tensor, Tensor, Tensor, Tensor]
    class_alpha: Tensor
    gamma: float
    image_weights: Tensor

    def loss(self, logits: Tensor) -> Tensor:
        """The loss as training computes it."""
        return sparse_sigmoid_focal_loss(
            logits,
            self.foreground,
            self.ignored,
            class_alpha=self.class_alpha,
            gamma=self.gamma,
            image_weights=self.image_weights,
        )

    def rule(self, logits: Tensor) -> Tensor:
        """The same by the rule, element by element, in the type of the logits."""
        targets, counted = torch.zeros_like(logits), torch.ones_like(logits)
        targets[self.foreground] = 1
        image, anchor, y, x = self.ignored
        counted.unflatten(1, (-1, len(self.class_alpha)))[image, anchor, :, y, x] = 0
        alpha = self.class_alpha.to(logits).repeat(logits.shape[1] // len(self.class_alpha))[:, None, None]
        each = sigmoid_focal_loss(logits, targets, alpha=alpha, gamma=self.gamma)
        return (each * counted * self.image_weights.to(logits)[:, None, None, None]).sum()


@st.composite
def focal_problems(draw: st.DrawFn) -> FocalProblem:
    """Maps of every layout, moderate and saturated logits, equal and different weights, with and without targets."""
    sizes = N, C, K, H, W = tuple(draw(st.integers(1, most)) for most in (3, 2, 4, 5, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    logits = torch.randn(N, C * K, H, W, generator=generator) * draw(st.sampled_from([1.0, 5.0, 20.0]))
    logits = (logits + draw(st.sampled_from([-4.6, 0.0]))).clamp(max=draw(st.sampled_from([2.0, 80.0])))
    order = torch.randperm(N * C * H * W, generator=generator)
    image, anchor, y, x = torch.unravel_index(order, (N, C, H, W))
    num_foreground = draw(st.integers(0, min(6, len(order))))
    num_ignored = draw(st.integers(0, min(6, len(order) - num_foreground)))
    f, i = slice(0, num_foreground), slice(num_foreground, num_foreground + num_ignored)
    channel = anchor * K + torch.randint(0, K, order.shape, generator=generator)
    alike = torch.full((max(sizes),), 0.25)
    return FocalProblem(
        lay_out(logits, draw(st.sampled_from(LAYOUTS))),
        (image[f], channel[f], y[f], x[f]),
        (image[i], anchor[i], y[i], x[i]),
        alike[:K] if draw(st.booleans()) else torch.rand(K, generator=generator),
        draw(st.sampled_from([0.0, 0.5, 1.0, 2.0, 5.0])),
        alike[:N] if draw(st.booleans()) else torch.rand(N, generator=generator),
    )


def lay_out(maps: Tensor, layout: str) -> Tensor:
    """The same maps in another layout in memory."""
    if layout == "channels_last":
        return maps.contiguous(memory_format=torch.channels_last)
    if layout == "contiguous":
        return maps
    return torch.nn.functional.pad(maps, (1, 1, 0, 2))[..., : maps.shape[2], 1:-1]


def demand_the_rule(problem: FocalProblem, tolerance: float) -> None:
    """Loss and gradient of float32 logits are those of the rule in float64, up to rounding."""
    exact = problem.logits.double().requires_grad_()
    expected = problem.rule(exact)
    expected.backward()
    logits = problem.logits.detach().requires_grad_()
    found = problem.loss(logits)
    found.backward()
    assert exact.grad is not None and logits.grad is not None
    # The losses of all logits as background are added up first, and those of foreground and ignored ones subtracted.
    # 1e-37: below it float32 has fewer digits.
    none = problem.foreground[0][:0]
    added = problem._replace(foreground=(none,) * 4, ignored=(none,) * 4).rule(exact.detach()).item()
    torch.testing.assert_close(found.double(), expected.detach(), rtol=tolerance, atol=tolerance * added + 1e-37)
    torch.testing.assert_close(logits.grad.double(), exact.grad, rtol=tolerance, atol=1e-37)
