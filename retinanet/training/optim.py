"""The optimiser, its learning rate schedule, and the moving average of the weights (EMA)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

SCHEDULES = ("steps", "cosine", "one_cycle", "constant")


def construct_optimizer(
    model: nn.Module,
    *,
    optimizer: str = "sgd",
    lr: float = 0.01,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    backbone_lr_factor: float = 1.0,
) -> torch.optim.Optimizer:
    """Build an optimiser of all trainable parameters; without weight decay of biases and norms (Detectron).

    Args:
        lr: peak learning rate for the actual batch size.
        momentum: of SGD; AdamW has its betas (0.9, 0.999).
        backbone_lr_factor: factor on lr for the parameters below `backbone`, in groups of their own, which come last
            (DETR: 0.1). At 1 there is one pair of groups, with and without decay.
    """
    groups: list[dict[str, Any]] = []
    trainable = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    for factor in dict.fromkeys((1.0, backbone_lr_factor)):
        own = [
            parameter
            for name, parameter in trainable
            if (backbone_lr_factor if name.startswith("backbone.") else 1.0) == factor
        ]
        for decay, params in (
            (weight_decay, [parameter for parameter in own if parameter.ndim > 1]),
            (0.0, [parameter for parameter in own if parameter.ndim <= 1]),
        ):
            groups += [{"params": params, "weight_decay": decay, "lr": lr * factor}] if params else []
    constructed: torch.optim.Optimizer
    if optimizer == "sgd":
        constructed = torch.optim.SGD(groups, lr=lr, momentum=momentum, fused=True)
    elif optimizer == "adamw":
        constructed = torch.optim.AdamW(groups, lr=lr, fused=True)
    else:
        raise ValueError(f"optim.optimizer is {optimizer!r}, expected sgd or adamw")
    constructed.register_load_state_dict_post_hook(match_parameter_strides)
    return constructed


def match_parameter_strides(optimizer: torch.optim.Optimizer) -> None:
    """Give the optimiser state of every parameter the strides of the parameter.

    A loaded state has the strides with which it was saved. Fused CPU kernels ignore strides: where they differ from the
    weight's, the momentum of one weight would be added to another.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def scale_lr(lr: float, lr_batch_size: int, batch_size: int) -> float:
    """The learning rate for a batch size, by linear scaling (Goyal et al. 2017)."""
    return lr * batch_size / lr_batch_size


def lr_factor(
    step: int,
    total_steps: int,
    *,
    schedule: str = "steps",
    warmup_fraction: float = 0.0,
    warmup_start: float = 0.001,
    steps: Sequence[float] = (2 / 3, 8 / 9),
    step_factor: float = 0.1,
) -> float:
    """Factor on the peak learning rate at a step (0-based).

    Args:
        warmup_fraction: of all steps; linear from warmup_start to 1 (one_cycle: half a cosine, Smith 2018).
        steps: fractions of all steps at which schedule "steps" multiplies by step_factor.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"optim.schedule is {schedule!r}, expected one of {', '.join(SCHEDULES)}")
    warmup_steps = warmup_fraction * total_steps
    if step < warmup_steps:
        progress = step / warmup_steps
        rise = (1 - math.cos(math.pi * progress)) / 2 if schedule == "one_cycle" else progress
        return warmup_start + (1 - warmup_start) * rise
    if schedule == "steps":
        return step_factor ** sum(step >= fraction * total_steps for fraction in steps)
    if schedule == "constant":
        return 1.0
    progress = (step - warmup_steps) / max(1.0, total_steps - warmup_steps)
    return (1 + math.cos(math.pi * progress)) / 2


class MovingAverage(AveragedModel):
    """Exponential moving average (EMA) of weights and buffers, as TensorFlow's ExponentialMovingAverage.

    At step t, counted from 0, the decay is min(decay, (1 + t) / (10 + t)): with a fixed decay of .9998 the average
    would still be two thirds initial weights after 2,000 steps. Buffers of integers are copied.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model, use_buffers=True)
        self.decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Move the average towards the model's weights, once per optimisation step."""
        step = int(self.n_averaged)  # on the CPU, whatever the device of the weights
        decay = min(self.decay, (1 + step) / (10 + step))
        pairs = [
            *zip(self.module.parameters(), model.parameters(), strict=True),
            *zip(self.module.buffers(), model.buffers(), strict=True),
        ]
        averages = [average for average, _ in pairs if average.is_floating_point()]
        get_ema_multi_avg_fn(decay)(averages, [new for _, new in pairs if new.is_floating_point()], self.n_averaged)
        for average, new in pairs:
            if not average.is_floating_point():
                average.copy_(new)
        self.n_averaged += 1


def construct_ema(model: nn.Module, decay: float | None) -> MovingAverage | None:
    """Build the moving average of a model's weights; None without a decay."""
    return None if decay is None else MovingAverage(model, decay)
