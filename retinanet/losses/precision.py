"""In which precision losses and their gradients are kept."""

from __future__ import annotations

import torch
from torch import Tensor


def wide_dtype(logits: Tensor) -> torch.dtype:
    """Half precision goes to float32: losses are never computed below it, autocast or not."""
    return torch.promote_types(logits.dtype, torch.float32)


def wide(logits: Tensor) -> Tensor:
    """Logits in the precision of the loss; call it on blocks, not on whole maps."""
    return logits.to(wide_dtype(logits))


def slope_dtype(logits: Tensor) -> torch.dtype:
    """Gradients wait for backward in the type of the logits, but float16 would lose most before they are scaled."""
    return torch.float32 if logits.dtype == torch.float16 else logits.dtype
