"""The precision of losses and of their gradients."""

from __future__ import annotations

import torch
from torch import Tensor


def wide_dtype(logits: Tensor) -> torch.dtype:
    """At least float32: losses are never computed in half precision, with or without autocast."""
    return torch.promote_types(logits.dtype, torch.float32)


def wide(logits: Tensor) -> Tensor:
    """Logits in the precision of the loss; for blocks, not for whole maps."""
    return logits.to(wide_dtype(logits))


def gradient_dtype(logits: Tensor) -> torch.dtype:
    """Type of gradients saved for backward: that of the logits, but not float16, which would underflow."""
    return torch.float32 if logits.dtype == torch.float16 else logits.dtype
