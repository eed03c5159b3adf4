"""The sigmoid form of the focal loss on the maps of the heads, as fast as memory and logarithms allow.

All logits are taken as background in one pass, which makes loss and gradient together, block by block in the cache; the
few logits of foreground and ignored anchors are then put right. So no target of the size of the logits is ever made,
nothing is permuted, and the gradient is the only tensor of that size.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from retinanet.losses.precision import slope_dtype, wide, wide_dtype
from retinanet.losses.sigmoid import focal_background

# Logits handled at once per thread: the temporaries of a block stay in the cache, and the calls stay few.
CPU_BLOCK = 2**18
# On other devices a block needs several temporaries of its size: at most 64 MB each, but at least an image's.
DEVICE_BLOCK = 2**24
# Up to this logit log(1 - p) is exact from p alone, to three roundings; and a float32 sum of losses is exact enough.
CALM = 2.0
# From this logit on softplus(x) = x, and exp(x) nears the end of float32.
LARGE = 80.0

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
    """Focal loss of one level, straight on the head's own map.

    Args:
        logits: [N, C*K, H, W], any float type, any memory format.
        foreground: index tensors (image, channel, y, x), each [F]: the logits whose target is 1.
        ignored: index tensors (image, anchor of the cell, y, x), each [I]: anchors whose K logits do not count.
        class_alpha: [K] weight of foreground, 1 - alpha of background; best on the CPU, wherever the logits are.
        image_weights: [N] factor on all losses of an image (the normaliser).

    Returns:
        The weighted sum, a float32 scalar (float64 for float64 logits), once differentiable by logits.
    """
    result: Tensor = _SparseFocal.apply(
        logits, foreground, ignored, class_alpha.double(), gamma, image_weights.detach().double()
    )
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
        gradient = torch.empty_like(logits, dtype=slope_dtype(logits))
        total = torch.zeros((), dtype=torch.float64, device=logits.device)
        for x, out, weight in _blocks(logits, gradient, 1 - class_alpha, image_weights):
            total += _background(x, weight, gamma, out)
        class_alpha = class_alpha.to(logits.device)
        total -= _erase_ignored(logits, gradient, ignored, 1 - class_alpha, gamma, image_weights)
        total += _turn_foreground(logits, gradient, foreground, class_alpha, gamma, image_weights)
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


def _graph_is_kept() -> bool:
    """Whether the running backward pass may be run again, so that what was saved must stay as it is."""
    ask = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return ask is None or bool(ask())


def _blocks(
    logits: Tensor, gradient: Tensor, background: Tensor, image_weights: Tensor
) -> Iterator[tuple[Tensor, Tensor, Weight]]:
    """Cut a map into blocks in the order of its memory: logits, where their gradient goes, their weight.

    Args:
        background: [K] float64, of every class.
    """
    if logits.numel() == 0:
        return
    per_channel = background.repeat(logits.shape[1] // background.shape[0])  # [C*K]
    channels_last = not logits.is_contiguous()
    maps = [part.permute(0, 2, 3, 1) if channels_last else part for part in (logits, gradient)]
    if logits.device.type != "cpu" or not all(part.is_contiguous() for part in maps):
        weights = image_weights[:, None, None, None] * per_channel.to(logits.device)[:, None, None]
        size = max(1, DEVICE_BLOCK // logits[0].numel())
        yield from zip(logits.split(size), gradient.split(size), weights.split(size), strict=True)
        return
    same_class = bool((background == background[0]).all())
    if same_class and bool((image_weights == image_weights[0]).all()):
        maps, image_weights = [part[None] for part in maps], image_weights[:1]
    for x, out, image_weight in zip(*maps, image_weights.tolist(), strict=True):
        if same_class:
            yield from _cut(x.flatten(), out.flatten(), float(background[0]) * image_weight)
        elif channels_last:
            yield from _cut(x.flatten(0, 1), out.flatten(0, 1), (per_channel * image_weight)[None])  # [H*W, C*K]
        else:
            yield from _cut(x.flatten(1), out.flatten(1), (per_channel * image_weight)[:, None])  # [C*K, H*W]


def _cut(x: Tensor, out: Tensor, weight: Weight) -> Iterator[tuple[Tensor, Tensor, Weight]]:
    """Cut along the first axis, which the weight has too or not."""
    rows = max(1, CPU_BLOCK * torch.get_num_threads() // x[0].numel())
    with_rows = isinstance(weight, Tensor) and weight.shape[0] > 1
    weights = weight.split(rows) if with_rows else repeat(weight)  # type: ignore[union-attr]
    yield from zip(x.split(rows), out.split(rows), weights, strict=False)


def _background(x: Tensor, weight: Weight, gamma: float, out: Tensor | None = None) -> Tensor:
    """Weighted losses of some logits as background, summed in float64; their gradient goes to `out`.

    One logit has the same loss to the last bit in whatever block it stands, as far as it is larger than CALM: so a
    confident logit leaves the sum without a trace when it is taken out again.
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
    if largest > LARGE and out is not None:  # where gamma FL might be infinite
        out.copy_((1 - p).mul_(softplus).mul_(min(gamma, 1e30)).add_(p).mul_(modulator))
    value = softplus.mul_(modulator)
    total = value.sum(dtype=torch.float64 if largest > CALM else None).double() * sign
    if largest > LARGE or out is None:
        return total
    # dFL/dx = (1 - p) gamma FL + p modulator
    value = value.mul_(sign * min(gamma, 1e30))
    if out.dtype == value.dtype:
        torch.lerp(value, modulator, p, out=out)
    else:
        out.copy_(value.lerp_(modulator, p))
    return total


def _sigmoid_and_softplus(x: Tensor, largest: float) -> tuple[Tensor, Tensor, int]:
    """Sigmoid, softplus times a sign, and the sign: by the cheapest way that the largest logit allows."""
    if largest <= CALM:
        p = torch.sigmoid(x)
        return p, torch.neg(p).log1p_(), -1
    u = x.clamp(max=LARGE).exp_() if largest > LARGE else x.exp()
    softplus = u.log1p()
    if largest > LARGE:
        softplus += (x - LARGE).clamp_(min=0)
    return u.div_(u + 1), softplus, 1


def _modulator(p: Tensor, gamma: float, weight: Weight) -> Tensor:
    """The weight times p^gamma; for a number the same to the last bit as for a tensor of it."""
    if gamma != 2:
        return (p**gamma).mul_(weight)
    if isinstance(weight, Tensor):
        return (p * weight).mul_(p)
    return torch.addcmul(p.new_zeros(()), p, p, value=weight)  # (weight * p) * p in one pass


def _erase_ignored(
    logits: Tensor,
    gradient: Tensor,
    ignored: tuple[Tensor, ...],
    background: Tensor,
    gamma: float,
    image_weights: Tensor,
) -> Tensor:
    """Zero the gradient of ignored anchors, and return what they added to the sum."""
    image, anchor, y, x = ignored
    by_anchor = (image, anchor, slice(None), y, x)
    shape = (-1, background.shape[0])
    gradient.unflatten(1, shape)[by_anchor] = 0
    return _background(
        logits.unflatten(1, shape)[by_anchor],  # [I, K] of [N, C, K, H, W]
        image_weights[image, None] * background,
        gamma,
    )


def _turn_foreground(
    logits: Tensor,
    gradient: Tensor,
    foreground: tuple[Tensor, ...],
    class_alpha: Tensor,
    gamma: float,
    image_weights: Tensor,
) -> Tensor:
    """Put the gradient of the foreground logits right, and return what that changes in the sum."""
    x, weight = wide(logits[foreground]), image_weights[foreground[0]]  # [F]
    alpha = class_alpha[foreground[1] % class_alpha.shape[0]]
    value, slope = focal_background(-x, gamma)
    gradient[foreground] = (-slope * (alpha * weight)).to(gradient.dtype)
    return (value * (alpha * weight)).sum() - _background(x, (1 - alpha) * weight, gamma)
