"""Collectives between the workers of a training, which do nothing where there is one."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
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


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Sum the gradients over all workers in place (one collective)."""
    if world_size() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    summed = sum_over_workers(torch.cat([gradient.flatten() for gradient in gradients]))
    for gradient, values in zip(gradients, summed.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(values.view_as(gradient))


def broadcast_state(network: nn.Module) -> None:
    """Give all workers the weights and buffers of the first one (collectives)."""
    if world_size() > 1:
        for values in network.state_dict().values():
            dist.broadcast(values, src=0)
