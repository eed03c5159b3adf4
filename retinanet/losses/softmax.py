"""The softmax form of the focal loss, over K+1 exclusive classes, with its exact gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from retinanet.losses.precision import gradient_dtype, wide


def softmax_focal_loss(logits: Tensor, labels: Tensor, *, class_weights: Tensor | None, gamma: float) -> Tensor:
    """Focal loss over K+1 exclusive classes.

    Args:
        logits: [..., K+1], class 0 is the background.
        labels: [...] int64 in 0..K.
        class_weights: [K+1], the alpha of each class, background first; None: no weights.

    Returns:
        [...] loss per row, float32 or wider, differentiable by logits for every gamma >= 0.
    """
    value: Tensor = _SoftmaxFocal.apply(logits, labels, gamma)
    return value if class_weights is None else value * class_weights.to(value.dtype)[labels]


class _SoftmaxFocal(torch.autograd.Function):
    """Unweighted softmax focal loss per row with its exact gradient.

    With q = 1 - p_t: FL = -q^gamma log(p_t) and dFL/dz_j = q^gamma (gamma p_t log(p_t) / q - 1) (1[j = t] - p_j),
    where log(p_t) / q -> -1 as q -> 0.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, gamma: float) -> Tensor:
        p = torch.softmax(wide(logits), dim=-1)
        target = labels[..., None]
        # 1 - p_t as the sum of the others: no cancellation where p_t is nearly 1.
        q = p.scatter(-1, target, 0.0).sum(dim=-1).clamp(max=1)
        p_t = p.gather(-1, target)[..., 0]
        log_p = torch.log_softmax(wide(logits), dim=-1).gather(-1, target)[..., 0]
        # The difference of two logits may exceed the range of the type.
        log_p = torch.where(q < 0.5, torch.log1p(-q), log_p.clamp(min=torch.finfo(p.dtype).min))
        modulator = torch.ones_like(q) if gamma == 0 else q**gamma
        ratio = torch.where(q > 0, log_p / q.clamp(min=torch.finfo(q.dtype).tiny), -torch.ones_like(q))
        slope = modulator * (gamma * p_t * ratio - 1)
        one_hot = torch.zeros_like(p).scatter_(-1, target, 1.0)
        # at the target 1 - p_t is q, which the difference would round to 0
        gradient = slope[..., None] * (one_hot - p).scatter(-1, target, q[..., None])
        ctx.save_for_backward(gradient.to(gradient_dtype(logits)))
        ctx.dtype = logits.dtype
        return -modulator * log_p

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * grad_outputs[0][..., None]).to(ctx.dtype), None, None
