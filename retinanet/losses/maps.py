"""The sigmoid form of the focal loss on the output maps of the heads, sparse in the targets.

The fast twin of sigmoid_focal_loss (sigmoid.py), the rule. One pass treats all logits as background and computes loss
and gradient together (blocks.py on a CPU, kernel.py on a GPU); then the few logits of foreground and ignored anchors
are corrected. So only the gradient is a new tensor of the size of the logits, and nothing is permuted.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from retinanet.losses import blocks
from retinanet.losses.precision import gradient_dtype, wide, wide_dtype
from retinanet.losses.sigmoid import focal_background

Counted = tuple[Tensor | None, Tensor | None]


def sparse_sigmoid_focal_loss(
    logits: Tensor,
    foreground: tuple[Tensor, Tensor, Tensor, Tensor],
    ignored: tuple[Tensor, Tensor, Tensor, Tensor],
    *,
    class_alpha: Tensor,
    gamma: float,
    image_weights: Tensor,
    counted: Counted = (None, None),
) -> Tensor:
    """Focal loss of one level, computed on the output map of the head.

    Args:
        logits: [N, C*K, H, W], any float type, any memory format.
        foreground: index tensors (image, channel, y, x), each [F]: the logits whose target is 1.
        ignored: index tensors (image, anchor of the cell, y, x), each [I]: anchors whose K logits are left out.
        class_alpha: [K] weight of foreground, 1 - alpha of background; on the device of the logits.
        image_weights: [N] factor on all losses of an image (the normaliser).
        counted: which of foreground and of ignored are counted, see AnchorLocations.

    Returns:
        The weighted sum, a float32 scalar (float64 for float64 logits), once differentiable by logits.
    """
    result: Tensor = _SparseFocal.apply(
        logits, foreground, ignored, class_alpha.double(), gamma, image_weights.detach().double(), counted
    )
    return result


class _SparseFocal(torch.autograd.Function):
    """See sparse_sigmoid_focal_loss; forward also computes the gradient, while the logits are in the cache."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        foreground: tuple[Tensor, ...],
        ignored: tuple[Tensor, ...],
        class_alpha: Tensor,
        gamma: float,
        image_weights: Tensor,
        counted: Counted,
    ) -> Tensor:
        gradient = torch.empty_like(logits, dtype=gradient_dtype(logits))
        background, run_pass = 1 - class_alpha, _find_background_pass(logits)
        total = run_pass(logits, gradient, background, image_weights, gamma=gamma)
        total -= _remove_ignored(logits, gradient, ignored, background, gamma, image_weights, counted[1])
        total += _correct_foreground(logits, gradient, foreground, class_alpha, gamma, image_weights, counted[0])
        ctx.save_for_backward(gradient)
        ctx.dtype = logits.dtype
        return total.to(wide_dtype(logits))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        if _graph_is_kept():
            gradient = gradient * grad_outputs[0]
        else:
            _scale_unless_one(gradient, grad_outputs[0])
        return gradient.to(ctx.dtype), None, None, None, None, None, None


def _find_background_pass(logits: Tensor) -> Callable[..., Tensor]:
    """The background pass for maps: the kernel's on a GPU where it can, otherwise the blocks'."""
    kernel = _find_kernel_for(logits)
    found: ModuleType = blocks if kernel is None else kernel
    return found.background_pass  # type: ignore[no-any-return]


def _scale_unless_one(gradient: Tensor, factor: Tensor) -> None:
    """Multiply in place; a factor of 1, as training without a GradScaler has it, costs no pass over the maps."""
    kernel = _find_kernel_for(gradient)
    if kernel is not None:
        kernel.scale_unless_one(gradient, factor)
    elif gradient.device.type != "cpu" or factor.item() != 1:
        gradient.mul_(factor)


def _find_kernel_for(maps: Tensor) -> ModuleType | None:
    """The module of the fused kernel, where it takes these maps."""
    kernel = find_kernel() if uses_kernel(maps.device) else None
    return kernel if kernel is not None and kernel.is_supported(maps) else None


def uses_kernel(device: torch.device) -> bool:
    """Whether maps on a device go through the fused kernel."""
    return device.type == "cuda"


@cache
def find_kernel() -> ModuleType | None:
    """The module of the fused kernel; None without Triton, which torch.compile would need too."""
    try:
        from retinanet.losses import kernel
    except ImportError:
        return None
    return kernel


def _graph_is_kept() -> bool:
    """Whether this backward pass may run again (retain_graph), so that saved tensors must not be modified."""
    ask = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return ask is None or bool(ask())


def _remove_ignored(
    logits: Tensor,
    gradient: Tensor,
    ignored: tuple[Tensor, ...],
    background: Tensor,
    gamma: float,
    image_weights: Tensor,
    counted: Tensor | None,
) -> Tensor:
    """Zero the gradient of ignored anchors; return their part of the total loss."""
    image, anchor, y, x = ignored
    by_anchor, shape = (image, anchor, slice(None), y, x), (-1, background.shape[0])
    overwrite(gradient.unflatten(1, shape), by_anchor, 0, counted)
    each = logits.unflatten(1, shape)[by_anchor]  # [I, K] of [N, C, K, H, W]
    return _sum_background(each, _of_counted(image_weights[image], counted)[:, None] * background, gamma)


def _correct_foreground(
    logits: Tensor,
    gradient: Tensor,
    foreground: tuple[Tensor, ...],
    class_alpha: Tensor,
    gamma: float,
    image_weights: Tensor,
    counted: Tensor | None,
) -> Tensor:
    """Overwrite the gradient at foreground logits; return the change of the total loss."""
    x, weight = wide(logits[foreground]), image_weights[foreground[0]]  # [F]
    alpha = class_alpha[foreground[1] % class_alpha.shape[0]]
    value, slope = focal_background(-x, gamma)
    overwrite(gradient, foreground, (-slope * (alpha * weight)).to(gradient.dtype), counted)
    weight = _of_counted(weight, counted)
    return (value * (alpha * weight)).sum() - _sum_background(x, (1 - alpha) * weight, gamma)


def overwrite(maps: Tensor, index: tuple[Any, ...], values: Tensor | int, counted: Tensor | None) -> None:
    """Set maps[index] in place; leave the maps as they are if no location of the level is counted.

    Copies of a location have its value, so the order in which they are written does not matter. The first location is
    counted if any is.
    """
    maps[index] = values if counted is None else torch.where(counted[:1], values, maps[index])


def _of_counted(weight: Tensor, counted: Tensor | None) -> Tensor:
    """Weights, 0 where a location is not counted."""
    return weight if counted is None else weight * counted


def _sum_background(logits: Tensor, weight: Tensor, gamma: float) -> Tensor:
    """What the background pass counted for these logits, a float64 scalar.

    Weights are rounded as there: a large loss has the same bits in both, so subtracting it cancels what was added.
    """
    value, _ = focal_background(wide(logits), gamma)
    return value.mul_(weight.to(value.dtype)).sum(dtype=torch.float64)
