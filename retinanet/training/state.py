"""Training state: what an optimisation step updates and a checkpoint stores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from retinanet.losses.criterion import Criterion
from retinanet.training.graph import StepGraph


@dataclass
class TrainingState:
    """Model, optimiser, schedule, EMA and scaler: all state that a step updates and a checkpoint stores.

    Attributes:
        model: a RetinaNet, wrapped in DistributedDataParallel where there are several workers.
        precision: fp32, tf32, bf16 or fp16 of the convolutions; losses are float32.
        images_per_step: size of a micro-batch, in images of one worker; None: its whole share of the batch.
        max_skipped: steps of the whole training that may be skipped because their loss is not finite.
        graph: the CUDA graph of forward pass, loss and backward pass; None: without one. The model is then not wrapped.
    """

    model: nn.Module
    criterion: Criterion
    optimizer: torch.optim.Optimizer
    schedule: LRScheduler
    mean: list[float]
    std: list[float]
    device: torch.device
    precision: str = "fp32"
    clip_grad_norm: float | None = None
    images_per_step: int | None = None
    ema: AveragedModel | None = None
    max_skipped: int = 0
    graph: StepGraph | None = None

    def __post_init__(self) -> None:
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")

    @property
    def network(self) -> nn.Module:
        """The model without DistributedDataParallel."""
        return self.model.module if isinstance(self.model, DistributedDataParallel) else self.model

    @property
    def inference_network(self) -> nn.Module:
        """The weights to evaluate and to export: the moving average where there is one."""
        return self.network if self.ema is None else self.ema.module

    def state_dict(self) -> dict[str, Any]:
        """The state from which a resumed training continues as if it had not stopped."""
        return {
            "model": self.network.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": {"last_epoch": self.schedule.last_epoch, "last_lr": self.schedule.get_last_lr()},
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, content: dict[str, Any]) -> None:
        """The inverse of state_dict."""
        self.network.load_state_dict(content["model"])
        if self.ema is not None:
            self.ema.load_state_dict(content["ema"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.schedule.last_epoch = content["schedule"]["last_epoch"]
        self.schedule._last_lr = content["schedule"]["last_lr"]
        self.scaler.load_state_dict(content["scaler"])
