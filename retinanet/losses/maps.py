"""The sigmoid form of the focal loss on the output maps of the heads, sparse in the targets.

One pass treats all logits as background and computes loss and gradient together, block by block in the CPU cache; the
few logits of foreground and ignored anchors are corrected afterwards. So no target of the size of the logits is built,
nothing is permuted, and the gradient is the only tensor of that size. On a GPU that pass is one kernel (kernel.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import repeat
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from retinanet.losses.precision import gradient_dtype, wide, wide_dtype
from retinanet.losses.sigmoid import focal_background

# Logits per block and thread: the temporaries of a block fit the cache, and the number of calls stays small.
CPU_BLOCK = 2**18
# On other devices a block has several temporaries of its size: at most 64 MB each, but at least one image.
DEVICE_BLOCK = 2**24
# Up to this logit log(1 - p) is exact from p to three roundings, and a float32 sum of losses is exact enough.
MODERATE_LOGIT = 2.0
# From this logit on softplus(x) = x, and exp(x) approaches the range of float32.
LARGE_LOGIT = 80.0

Weight = float | Tensor


def sparse_sigmoid_focal_loss(
    logits: Tensor,
    foreground: tuple[Tensor, Tensor, Tensor, Tensor],
    ignored: tuple[Tensor, Tensor, Tensor, Tensor],
    *,
    class_alpha: Tensor,
    gamma: float,
    image_weights: Tensor,
) -> Tensor:
    """Focal loss of one level, computed on the output map of the head.

    Args:
        logits: [N, C*K, H, W], any float type, any memory format.
        foreground: index tensors (image, channel, y, x), each [F]: the logits whose target is 1.
        ignored: index tensors (image, anchor of the cell, y, x), each [I]: anchors whose K logits are left out.
        class_alpha: [K] weight of foreground, 1 - alpha of background; on the device of the logits.
        image_weights: [N] factor on all losses of an image (the normaliser).

    Returns:
        The weighted sum, a float32 scalar (float64 for float64 logits), once differentiable by logits.
    """
    result: Tensor = _SparseFocal.apply(
        logits, foreground, ignored, class_alpha.double(), gamma, image_weights.detach().double()
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
    ) -> Tensor:
        gradient = torch.empty_like(logits, dtype=gradient_dtype(logits))
        total = _background_pass(logits, gradient, 1 - class_alpha, gamma, image_weights)
        total -= _remove_ignored(logits, gradient, ignored, 1 - class_alpha, gamma, image_weights)
        total += _correct_foreground(logits, gradient, foreground, class_alpha, gamma, image_weights)
        ctx.save_for_backward(gradient)
        ctx.dtype = logits.dtype
        return total.to(wide_dtype(logits))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        if _graph_is_kept():
            gradient = gradient * grad_outputs[0]
        elif gradient.device.type != "cpu" or grad_outputs[0].item() != 1:
            gradient.mul_(grad_outputs[0])
        return gradient.to(ctx.dtype), None, None, None, None, None


def _background_pass(
    logits: Tensor, gradient: Tensor, background: Tensor, gamma: float, image_weights: Tensor
) -> Tensor:
    """Write the gradient of all logits as background; return the sum of their losses, a float64 scalar."""
    kernel = find_kernel() if uses_kernel(logits.device) else None
    if kernel is not None and kernel.is_supported(logits):
        fused: Tensor = kernel.background_pass(logits, gradient, background, image_weights, gamma=gamma)
        return fused
    total = torch.zeros((), dtype=torch.float64, device=logits.device)
    for x, out, weight in _blocks(logits, gradient, background, image_weights):
        total += _background(x, weight, gamma, out)
    return total


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


def _blocks(
    logits: Tensor, gradient: Tensor, background: Tensor, image_weights: Tensor
) -> Iterator[tuple[Tensor, Tensor, Weight]]:
    """Split a map into blocks in memory order: logits, output for their gradient, weight.

    Args:
        background: [K] float64 weight of every class as background.
    """
    if logits.numel() == 0:
        return
    per_channel = background.repeat(logits.shape[1] // background.shape[0])  # [C*K]
    channels_last = not logits.is_contiguous()
    maps = [part.permute(0, 2, 3, 1) if channels_last else part for part in (logits, gradient)]
    if logits.device.type != "cpu" or not all(part.is_contiguous() for part in maps):
        weights = image_weights[:, None, None, None] * per_channel[:, None, None]
        size = max(1, DEVICE_BLOCK // logits[0].numel())
        yield from zip(logits.split(size), gradient.split(size), weights.split(size), strict=True)
        return
    same_class = bool((background == background[0]).all())
    if same_class and bool((image_weights == image_weights[0]).all()):
        maps, image_weights = [part[None] for part in maps], image_weights[:1]
    for x, out, image_weight in zip(*maps, image_weights.tolist(), strict=True):
        if same_class:
            yield from _split(x.flatten(), out.flatten(), float(background[0]) * image_weight)
        elif channels_last:
            yield from _split(x.flatten(0, 1), out.flatten(0, 1), (per_channel * image_weight)[None])  # [H*W, C*K]
        else:
            yield from _split(x.flatten(1), out.flatten(1), (per_channel * image_weight)[:, None])  # [C*K, H*W]


def _split(x: Tensor, out: Tensor, weight: Weight) -> Iterator[tuple[Tensor, Tensor, Weight]]:
    """Split along the first axis; the weight may have that axis or not."""
    rows = max(1, CPU_BLOCK * torch.get_num_threads() // x[0].numel())
    with_rows = isinstance(weight, Tensor) and weight.shape[0] > 1
    weights = weight.split(rows) if with_rows else repeat(weight)  # type: ignore[union-attr]
    yield from zip(x.split(rows), out.split(rows), weights, strict=False)


def _background(x: Tensor, weight: Weight, gamma: float, out: Tensor | None = None) -> Tensor:
    """Weighted background losses of logits, summed in float64; their gradient is written to `out`.

    The loss of a logit above MODERATE_LOGIT has the same bits in every block, so subtracting it cancels exactly what
    was added.
    """
    x = wide(x)
    if isinstance(weight, Tensor):
        weight = weight.to(x.dtype)
    if x.device.type != "cpu":
        value, slope = focal_background(x, gamma)
        if out is not None:
            out.copy_(slope.mul_(weight))
        return value.mul_(weight).sum(dtype=torch.float64)
    largest = x.amax().item() if x.numel() else 0.0
    p, softplus, sign = _sigmoid_and_softplus(x, largest)
    modulator = _modulator(p, gamma, weight)
    if largest > LARGE_LOGIT and out is not None:  # gamma FL may be infinite
        out.copy_((1 - p).mul_(softplus).mul_(min(gamma, 1e30)).add_(p).mul_(modulator))
    value = softplus.mul_(modulator)
    total = value.sum(dtype=torch.float64 if largest > MODERATE_LOGIT else None).double() * sign
    if largest > LARGE_LOGIT or out is None:
        return total
    # dFL/dx = (1 - p) gamma FL + p modulator
    value = value.mul_(sign * min(gamma, 1e30))
    if out.dtype == value.dtype:
        torch.lerp(value, modulator, p, out=out)
    else:
        out.copy_(value.lerp_(modulator, p))
    return total


def _sigmoid_and_softplus(x: Tensor, largest: float) -> tuple[Tensor, Tensor, int]:
    """Sigmoid, softplus times a sign, and the sign, by the cheapest method that is exact up to the largest logit."""
    if largest <= MODERATE_LOGIT:
        p = torch.sigmoid(x)
        return p, torch.neg(p).log1p_(), -1
    u = x.clamp(max=LARGE_LOGIT).exp_() if largest > LARGE_LOGIT else x.exp()
    softplus = u.log1p()
    if largest > LARGE_LOGIT:
        softplus += (x - LARGE_LOGIT).clamp_(min=0)
    return u.div_(u + 1), softplus, 1


def _modulator(p: Tensor, gamma: float, weight: Weight) -> Tensor:
    """The weight times p^gamma; a number and a tensor of it give the same bits."""
    if gamma != 2:
        return (p**gamma).mul_(weight)
    if isinstance(weight, Tensor):
        return (p * weight).mul_(p)
    return torch.addcmul(p.new_zeros(()), p, p, value=weight)  # (weight * p) * p in one pass


def _remove_ignored(
    logits: Tensor,
    gradient: Tensor,
    ignored: tuple[Tensor, ...],
    background: Tensor,
    gamma: float,
    image_weights: Tensor,
) -> Tensor:
    """Zero the gradient of ignored anchors; return their part of the total loss."""
    image, anchor, y, x = ignored
    by_anchor = (image, anchor, slice(None), y, x)
    shape = (-1, background.shape[0])
    gradient.unflatten(1, shape)[by_anchor] = 0
    return _background(
        logits.unflatten(1, shape)[by_anchor],  # [I, K] of [N, C, K, H, W]
        image_weights[image, None] * background,
        gamma,
    )


def _correct_foreground(
    logits: Tensor,
    gradient: Tensor,
    foreground: tuple[Tensor, ...],
    class_alpha: Tensor,
    gamma: float,
    image_weights: Tensor,
) -> Tensor:
    """Overwrite the gradient at foreground logits; return the change of the total loss."""
    x, weight = wide(logits[foreground]), image_weights[foreground[0]]  # [F]
    alpha = class_alpha[foreground[1] % class_alpha.shape[0]]
    value, slope = focal_background(-x, gamma)
    gradient[foreground] = (-slope * (alpha * weight)).to(gradient.dtype)
    return (value * (alpha * weight)).sum() - _background(x, (1 - alpha) * weight, gamma)
