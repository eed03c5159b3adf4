"""The background pass of the focal loss in operations of torch, block by block in the CPU cache.

The fast twin of sigmoid_focal_loss (sigmoid.py), the rule, for targets of 0. It runs on a CPU, and on a GPU where
kernel.py cannot. A block without confident logits, which is nearly every one early in a training, takes a shorter way.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from retinanet.losses.precision import wide, wide_dtype
from retinanet.losses.sigmoid import focal_background

# Logits per block and thread: the temporaries of a block fit the cache, and the number of calls stays small.
CPU_BLOCK = 2**18
# On other devices a block has several temporaries of its size: at most 64 MB each, but at least one row.
DEVICE_BLOCK = 2**24
# Up to this logit log(1 - p) is exact from p to three roundings, and a float32 sum of losses is exact enough.
MODERATE_LOGIT = 2.0


def background_pass(
    logits: Tensor, gradient: Tensor, background: Tensor, image_weights: Tensor, *, gamma: float
) -> Tensor:
    """Treat all logits as background: write the gradient, return the sum of the losses.

    Args:
        logits: [N, C*K, H, W], any float type, any memory format.
        gradient: as logits, in any float type; it is overwritten.
        background: [K] weight of every class as background.
        image_weights: [N].

    Returns:
        A float64 scalar. Values are computed in float32 or wider.
    """
    total = torch.zeros((), dtype=torch.float64, device=logits.device)
    weights = image_weights[:, None] * background.repeat(logits.shape[1] // background.shape[0])  # [N, C*K]
    weights = weights.to(wide_dtype(logits))[:, :, None, None].expand_as(logits)
    for x, out, weight in _blocks(logits, gradient, weights):
        total += _background(x, out, weight, gamma)
    return total


def _blocks(*maps: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Split maps [N, C*K, H, W] alike: images, then rows of their outer axis in memory, which is C*K or H."""
    logits = maps[0]
    if logits.numel() == 0:
        return
    order = (0, 1, 2, 3) if logits.is_contiguous() else (0, 2, 3, 1)
    size = CPU_BLOCK * torch.get_num_threads() if logits.device.type == "cpu" else DEVICE_BLOCK
    for image in zip(*(part.permute(order) for part in maps), strict=True):
        rows = max(1, size // image[0][0].numel())
        yield from zip(*(part.split(rows) for part in image), strict=True)


def _background(x: Tensor, out: Tensor, weight: Tensor, gamma: float) -> Tensor:
    """The weighted sum of the losses of a block, float64; their gradient is written to `out`."""
    x = wide(x)
    if x.device.type != "cpu" or x.amax() > MODERATE_LOGIT:
        value, slope = focal_background(x, gamma)
        out.copy_(slope.mul_(weight))
        return value.mul_(weight).sum(dtype=torch.float64)
    # Here softplus(x) follows from p, and the gradient from the loss: dFL/dx = (1 - p) gamma FL + p modulator.
    p = torch.sigmoid(x)
    modulator = (p * p if gamma == 2 else p**gamma).mul_(weight)
    value = torch.neg(p).log1p_().mul_(modulator)  # -FL
    total = -value.sum().double()
    out.copy_(value.mul_(-gamma).lerp_(modulator, p))
    return total
