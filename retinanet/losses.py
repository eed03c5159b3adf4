"""The losses, as functions of tensors: focal loss in its sigmoid and softmax form, and the box losses.

Focal loss (paper, equation 5): FL(p_t) = -alpha_t (1 - p_t)^gamma log(p_t). Value and gradient are written out by hand
and computed in float32, because automatic differentiation of (1 - p_t)^gamma gives NaN for gamma < 1 where a logit is
saturated, and because one pass over the logits then yields both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import complete_box_iou_loss, generalized_box_iou_loss

# Elements handled at once on a CPU: the temporaries of a block stay in the cache (about 2 MB), so the logits are read
# from memory once and their gradient is written once.
CPU_BLOCK = 2**15


def focal_background(logits: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """Unweighted focal loss of the target 0, and its derivative by the logit.

    With p = sigmoid(x) and softplus(x) = -log(1 - p):
        FL = p^gamma softplus(x),    dFL/dx = p^gamma (gamma (1 - p) softplus(x) + p)
    The target 1 is its mirror image: FL_1(x) = FL_0(-x), dFL_1/dx = -dFL_0/dx(-x). Every finite logit and every
    gamma >= 0 give a finite value and gradient; gamma = 0 is cross entropy.

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
    """Focal loss of every logit against its own target: the dense form, and the reference of the sparse one.

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
        sign = 1 - 2 * targets.to(_wide_dtype(logits))  # the target 1 mirrors the logit
        value, slope = focal_background(_wide(logits) * sign, gamma)
        ctx.save_for_backward((slope * sign).to(_slope_dtype(logits)))
        ctx.dtype = logits.dtype
        return value

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return (slope * grad_outputs[0]).to(ctx.dtype), None, None


def sparse_sigmoid_focal_loss(
    logits: Tensor,
    foreground: tuple[Tensor, Tensor, Tensor, Tensor],
    ignored: tuple[Tensor, Tensor, Tensor, Tensor],
    *,
    class_alpha: Tensor,
    gamma: float,
    image_weights: Tensor,
) -> Tensor:
    """Focal loss of one level, straight on the head's own map.

    All logits are taken as background in one pass; the few logits of foreground and ignored anchors are then put
    right. So no target of the size of the logits is ever made, nothing is permuted, and the gradient is the only
    tensor of that size.

    Args:
        logits: [N, C*K, H, W], any float type, any memory format.
        foreground: index tensors (image, channel, y, x), each [F]: the logits whose target is 1.
        ignored: index tensors (image, anchor of the cell, y, x), each [I]: anchors whose K logits do not count.
        class_alpha: [K] weight of foreground, 1 - alpha of background.
        image_weights: [N] factor on all losses of an image (the normaliser).

    Returns:
        The weighted sum, a float32 scalar (float64 for float64 logits), differentiable by logits.
    """
    result: Tensor = _SparseFocal.apply(logits, foreground, ignored, class_alpha, gamma, image_weights)
    return result


class _SparseFocal(torch.autograd.Function):
    """See sparse_sigmoid_focal_loss; the gradient is made in forward, where the logits are in the cache."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        foreground: tuple[Tensor, ...],
        ignored: tuple[Tensor, ...],
        class_alpha: Tensor,
        gamma: float,
        image_weights: Tensor,
    ) -> Tensor:
        gradient = torch.empty_like(logits, dtype=_slope_dtype(logits))
        background_weights = 1 - class_alpha
        total = _background_pass(logits, gradient, background_weights, gamma, image_weights)
        total = total - _erase_ignored(logits, gradient, ignored, background_weights, gamma, image_weights)
        total = total + _turn_foreground(logits, gradient, foreground, class_alpha, gamma, image_weights)
        ctx.save_for_backward(gradient)
        ctx.dtype = logits.dtype
        return total.to(_wide_dtype(logits))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return (gradient * grad_outputs[0]).to(ctx.dtype), None, None, None, None, None


def _wide_dtype(logits: Tensor) -> torch.dtype:
    """Half precision goes to float32: losses are never computed below it, autocast or not."""
    return torch.promote_types(logits.dtype, torch.float32)


def _wide(logits: Tensor) -> Tensor:
    """Logits in the precision of the loss; call it on blocks, not on whole maps."""
    return logits.to(_wide_dtype(logits))


def _slope_dtype(logits: Tensor) -> torch.dtype:
    """Gradients wait for backward in the type of the logits, but float16 would lose most before they are scaled."""
    return torch.float32 if logits.dtype == torch.float16 else logits.dtype


def _background_pass(
    logits: Tensor, gradient: Tensor, background_weights: Tensor, gamma: float, image_weights: Tensor
) -> Tensor:
    """Write every logit's gradient as background, and sum the losses in float64."""
    total = torch.zeros((), dtype=torch.float64, device=logits.device)
    for image in range(logits.shape[0]):
        subtotal = torch.zeros_like(total)
        for x, out, weight in _blocks(logits[image], gradient[image], background_weights):
            value, slope = focal_background(_wide(x), gamma)
            subtotal += value.mul_(weight).sum(dtype=torch.float64)
            out.copy_(slope.mul_(weight).mul_(image_weights[image]))
        total += subtotal * image_weights[image]
    return total


def _blocks(logits: Tensor, gradient: Tensor, weights: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Cut one image's map [C*K, H, W] into blocks in the order of its memory, each with its background weight."""
    weights = weights.to(_wide_dtype(logits))
    if not bool((weights == weights[0]).all()):
        per_channel = weights.repeat(logits.shape[0] // weights.shape[0])  # [C*K]
        return [(logits, gradient, per_channel[:, None, None])]
    weight = weights[0]
    if not logits.is_contiguous():  # channels last
        logits, gradient = logits.permute(1, 2, 0), gradient.permute(1, 2, 0)
    if logits.device.type != "cpu" or not (logits.is_contiguous() and gradient.is_contiguous()):
        return [(logits, gradient, weight)]
    size = CPU_BLOCK * torch.get_num_threads()
    pairs = zip(logits.flatten().split(size), gradient.flatten().split(size), strict=True)
    return [(block, out, weight) for block, out in pairs]


def _erase_ignored(
    logits: Tensor,
    gradient: Tensor,
    ignored: tuple[Tensor, ...],
    background_weights: Tensor,
    gamma: float,
    image_weights: Tensor,
) -> Tensor:
    """Zero the gradient of ignored anchors, and return what they added to the sum."""
    image, anchor, y, x = ignored
    num_classes = background_weights.shape[0]
    by_anchor = logits.unflatten(1, (-1, num_classes))  # [N, C, K, H, W]
    values, _ = focal_background(_wide(by_anchor[image, anchor, :, y, x]), gamma)  # [I, K]
    gradient.unflatten(1, (-1, num_classes))[image, anchor, :, y, x] = 0
    # Rounded as in the background pass and summed in float64: confident logits must leave the sum without a trace.
    values = (values * background_weights.to(values.dtype)).sum(dim=1, dtype=torch.float64)  # [I]
    return (values * image_weights[image]).sum()


def _turn_foreground(
    logits: Tensor,
    gradient: Tensor,
    foreground: tuple[Tensor, ...],
    class_alpha: Tensor,
    gamma: float,
    image_weights: Tensor,
) -> Tensor:
    """Put the gradient of the foreground logits right, and return what that changes in the sum."""
    image = foreground[0]
    x = _wide(logits[foreground])  # [F]
    as_background, _ = focal_background(x, gamma)
    as_foreground, slope = focal_background(-x, gamma)
    weight = image_weights[image].to(x.dtype)
    alpha = class_alpha[foreground[1] % class_alpha.shape[0]].to(x.dtype)
    gradient[foreground] = (-slope * alpha * weight).to(gradient.dtype)
    change = (as_foreground * alpha).double() - (as_background * (1 - alpha)).double()
    return (change * image_weights[image]).sum()


def softmax_focal_loss(logits: Tensor, labels: Tensor, *, class_weights: Tensor | None, gamma: float) -> Tensor:
    """Focal loss over K+1 exclusive classes.

    Args:
        logits: [..., K+1], class 0 is the background.
        labels: [...] int64 in 0..K.
        class_weights: [K+1], the alpha of each class, background first; None: no weights. It is not changed.

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
        p = torch.softmax(_wide(logits), dim=-1)
        target = labels[..., None]
        # 1 - p_t as the sum of the others: no digit is lost where p_t is nearly 1.
        q = p.scatter(-1, target, 0.0).sum(dim=-1).clamp(max=1)
        p_t = p.gather(-1, target)[..., 0]
        log_p = torch.log_softmax(_wide(logits), dim=-1).gather(-1, target)[..., 0]
        # The difference of two logits may be more than the type holds.
        log_p = torch.where(q < 0.5, torch.log1p(-q), log_p.clamp(min=torch.finfo(p.dtype).min))
        modulator = torch.ones_like(q) if gamma == 0 else q**gamma
        ratio = torch.where(q > 0, log_p / q.clamp(min=torch.finfo(q.dtype).tiny), -torch.ones_like(q))
        slope = modulator * (gamma * p_t * ratio - 1)
        one_hot = torch.zeros_like(p).scatter_(-1, target, 1.0)
        # at the target 1 - p_t is q, which the difference would round away
        gradient = slope[..., None] * (one_hot - p).scatter(-1, target, q[..., None])
        ctx.save_for_backward(gradient.to(_slope_dtype(logits)))
        ctx.dtype = logits.dtype
        return -modulator * log_p

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * grad_outputs[0][..., None]).to(ctx.dtype), None, None


def smooth_l1_loss(predicted: Tensor, target: Tensor, *, beta: float) -> Tensor:
    """[F, 4] codes to [F] losses: quadratic below beta, linear above; beta -> 0 is L1 (Girshick 2015, equation 3)."""
    return F.smooth_l1_loss(predicted, target, beta=beta, reduction="none").sum(dim=1)


def l1_loss(predicted: Tensor, target: Tensor, *, beta: float = 0.0) -> Tensor:
    """[F, 4] codes to [F] losses; beta is smooth L1's and does nothing here."""
    return F.l1_loss(predicted, target, reduction="none").sum(dim=1)


def giou_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """[F, 4] boxes in px to [F] losses 1 - GIoU (Rezatofighi et al. 2019)."""
    losses: Tensor = generalized_box_iou_loss(predicted, target)
    return losses


def ciou_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """[F, 4] boxes in px to [F] losses 1 - CIoU (Zheng et al. 2020)."""
    losses: Tensor = complete_box_iou_loss(predicted, target)
    return losses


# What a box loss compares: the box code, or decoded boxes in px.
CODE_LOSSES: dict[str, Callable[..., Tensor]] = {"smooth_l1": smooth_l1_loss, "l1": l1_loss}
BOX_LOSSES: dict[str, Callable[..., Tensor]] = {"giou": giou_loss, "ciou": ciou_loss}
