"""Collectives between the workers of a training, which do nothing where there is one."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def world_size() -> int:
    """Number of workers."""
    return dist.get_world_size() if dist.is_initialized() else 1


def sum_over_workers(values: Tensor) -> Tensor:
    """Sum a tensor over all workers (a collective)."""
    if world_size() > 1:
        values = values.clone()
        dist.all_reduce(values)
    return values


def synchronise_gradients(model: nn.Module, is_last: bool) -> AbstractContextManager[None]:
    """Synchronise gradients only on the last micro-batch."""
    if isinstance(model, DistributedDataParallel) and not is_last:
        context: AbstractContextManager[None] = model.no_sync()
        return context
    return nullcontext()
