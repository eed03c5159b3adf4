"""The background pass of the focal loss as one Triton kernel: it reads the logits once and writes their gradient once.

The fast twin of sigmoid_focal_loss (sigmoid.py), the rule, for targets of 0. In single operations of torch (blocks.py)
the same pass moves 30 times as much: 30 GB at 16 images of 800 x 1344 px and 80 classes. Triton comes with torch's
packages for Linux. TRITON_INTERPRET=1 runs the kernel on a CPU, for tests.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024  # logits of one program


@triton.jit  # type: ignore[untyped-decorator]
def _kernel(  # type: ignore[no-untyped-def]  # pragma: no cover  # compiled by Triton, not run by Python
    logits,
    gradient,
    sums,
    background,
    image_weights,
    count,
    channels,
    image_size,
    channel_step,
    num_classes,
    gamma,
    is_two: tl.constexpr,
    is_zero: tl.constexpr,
    block: tl.constexpr,
):
    i = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = i < count
    x = tl.load(logits + i, mask=inside, other=-float("inf")).to(tl.float32)
    class_weight = tl.load(background + (i // channel_step) % channels % num_classes, mask=inside, other=0.0)
    weight = class_weight * tl.load(image_weights + i // image_size, mask=inside, other=0.0)
    e = tl.exp(-tl.abs(x))
    # log(1 + e) = 2 atanh(s): 8 terms are exact to float32, where a GPU's fast log is not near 1.
    s = e / (2 + e)
    t = s * s
    series = 1 / 9 + t * (1 / 11 + t * (1 / 13 + t / 15))
    log1p = 2 * s * (1 + t * (1 / 3 + t * (1 / 5 + t * (1 / 7 + t * series))))
    p = tl.where(x >= 0, 1 / (1 + e), e / (1 + e))
    q = tl.where(x >= 0, e / (1 + e), 1 / (1 + e))  # 1 - p
    softplus = tl.maximum(x, 0.0) + log1p
    if is_zero:
        modulator = weight
    elif is_two:
        modulator = weight * p * p
    else:
        modulator = weight * tl.exp(gamma * (tl.minimum(x, 0.0) - log1p))  # p^gamma
    slope = modulator * (gamma * q * softplus + p)
    tl.store(gradient + i, slope.to(gradient.dtype.element_ty), mask=inside)
    tl.store(sums + tl.program_id(0), tl.sum(tl.where(inside, modulator * softplus, 0.0)))


@triton.jit  # type: ignore[untyped-decorator]
def _scale_kernel(values, factor, count, block: tl.constexpr):  # type: ignore[no-untyped-def]  # pragma: no cover
    scale = tl.load(factor)
    if scale != 1.0:
        i = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
        x = tl.load(values + i, mask=i < count, other=0.0).to(tl.float32)
        tl.store(values + i, (x * scale).to(values.dtype.element_ty), mask=i < count)


def is_supported(logits: Tensor) -> bool:
    """Whether the kernel takes these maps: dense in one of the two layouts, and not float64."""
    dense = logits.is_contiguous() or logits.is_contiguous(memory_format=torch.channels_last)
    return dense and logits.dtype in (torch.float32, torch.bfloat16, torch.float16)


def background_pass(
    logits: Tensor, gradient: Tensor, background: Tensor, image_weights: Tensor, *, gamma: float
) -> Tensor:
    """Treat all logits as background: write the gradient, return the sum of the losses.

    Args:
        logits: [N, C*K, H, W], see is_supported.
        gradient: as logits, in any float type; it is overwritten.
        background: [K] weight of every class as background.
        image_weights: [N].

    Returns:
        A float64 scalar. Values are computed in float32, whatever the type of the logits.
    """
    count, channels = logits.numel(), logits.shape[1]
    programs = triton.cdiv(count, BLOCK)
    sums = torch.zeros(programs, dtype=torch.float32, device=logits.device)
    if programs:
        _kernel[(programs,)](
            logits,
            gradient,
            sums,
            background.float(),
            image_weights.float(),
            count,
            channels,
            count // logits.shape[0],
            logits.shape[2] * logits.shape[3] if logits.is_contiguous() else 1,
            background.shape[0],
            gamma,
            is_two=gamma == 2,
            is_zero=gamma == 0,
            block=BLOCK,
        )
    return sums.sum(dtype=torch.float64)


def scale_unless_one(values: Tensor, factor: Tensor) -> None:
    """Multiply maps, see is_supported, in place by a scalar on their device; a factor of 1 reads and writes none.

    The host does not know the factor, and asking for it would wait for the device.
    """
    programs = triton.cdiv(values.numel(), BLOCK)
    if programs:
        _scale_kernel[(programs,)](values, factor.float(), values.numel(), block=BLOCK)
