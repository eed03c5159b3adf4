"""The sigmoid form of the focal loss, element by element.

FL(p_t) = -alpha_t (1 - p_t)^gamma log(p_t) (paper, equation 5). Value and gradient are derived by hand and computed in
float32, because autograd of (1 - p_t)^gamma gives NaN for gamma < 1 where a logit is saturated, and because one pass
over the logits yields both.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from retinanet.losses.precision import gradient_dtype, wide, wide_dtype


def focal_background(logits: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """Unweighted focal loss for target 0, and its derivative with respect to the logit.

    With p = sigmoid(x) and softplus(x) = -log(1 - p):
        FL = p^gamma softplus(x),    dFL/dx = p^gamma (gamma (1 - p) softplus(x) + p)
    Target 1 is the mirror image: FL_1(x) = FL_0(-x), dFL_1/dx = -dFL_0/dx(-x). Every finite logit and every gamma >= 0
    give a finite value and gradient, exact up to the rounding of p, times gamma. gamma = 0 is cross entropy.

    Args:
        logits: any shape, float32 or float64.

    Returns:
        Value and derivative, of the shape of logits.
    """
    p = torch.sigmoid(logits)
    softplus = -F.logsigmoid(-logits)
    if gamma == 0:
        return softplus, p
    modulator = p * p if gamma == 2 else p**gamma
    slope = (1 - p).mul_(softplus).mul_(gamma).add_(p).mul_(modulator)
    return softplus.mul_(modulator), slope


def sigmoid_focal_loss(logits: Tensor, targets: Tensor, *, alpha: float | Tensor | None, gamma: float) -> Tensor:
    """Focal loss of every logit against its own target: the dense form, reference of the sparse one.

    Args:
        logits: any shape.
        targets: the same shape, 1 for foreground, 0 for background.
        alpha: weight of foreground, 1 - alpha of background; None: no weight; a tensor broadcasts against logits.

    Returns:
        The loss per element, float32 or wider, differentiable by logits.
    """
    result: Tensor = _DenseFocal.apply(logits, targets, gamma)
    if alpha is None:
        return result
    return result * (alpha * targets + (1 - alpha) * (1 - targets))


class _DenseFocal(torch.autograd.Function):
    """Unweighted sigmoid focal loss per element with its exact gradient."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, gamma: float) -> Tensor:
        sign = 1 - 2 * targets.to(wide_dtype(logits))  # target 1 mirrors the logit
        value, slope = focal_background(wide(logits) * sign, gamma)
        ctx.save_for_backward((slope * sign).to(gradient_dtype(logits)))
        ctx.dtype = logits.dtype
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return (slope * grad_outputs[0]).to(ctx.dtype), None, None
