"""What learns, and one step of it: gradients of a batch, and what the optimiser makes of them."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from retinanet.data.dataset import Batch, move_batch, split_batch
from retinanet.losses.criterion import Assignment, Criterion, Truths
from retinanet.network.model import memory_format, normalise_images
from retinanet.network.precision import autocast, convolving_float32, float32_of


@dataclass
class Learner:
    """Everything that learns, in one hand: what a step changes and what a checkpoint holds.

    Attributes:
        model: a RetinaNet, wrapped in DistributedDataParallel where there are several workers.
        precision: fp32, tf32, bf16 or fp16 of the convolutions; losses are float32.
        images_per_step: a worker's images at once; None: all of its share.
        max_skipped: steps of the whole training that may be left out because their loss is not finite.
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

    def __post_init__(self) -> None:
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")

    @property
    def network(self) -> nn.Module:
        """The model without its wrapping."""
        return self.model.module if isinstance(self.model, DistributedDataParallel) else self.model

    @property
    def judged(self) -> nn.Module:
        """The weights to evaluate and to keep: the moving average where there is one."""
        return self.network if self.ema is None else self.ema.module

    def state_dict(self) -> dict[str, object]:
        """All that a resumed training needs to go on as if it had not stopped."""
        return {
            "model": self.network.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": {"last_epoch": self.schedule.last_epoch, "last_lr": self.schedule.get_last_lr()},
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, object]) -> None:
        """The inverse of state_dict."""
        self.network.load_state_dict(state["model"])  # type: ignore[arg-type]
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])  # type: ignore[arg-type]
        self.optimizer.load_state_dict(state["optimizer"])  # type: ignore[arg-type]
        schedule: dict[str, object] = state["schedule"]  # type: ignore[assignment]
        self.schedule.last_epoch = schedule["last_epoch"]  # type: ignore[assignment]
        self.schedule._last_lr = schedule["last_lr"]  # type: ignore[assignment]
        self.scaler.load_state_dict(state["scaler"])  # type: ignore[arg-type]


class Halt(NamedTuple):
    """What a worker asks of all of them: to keep what they have, or to keep it and stop."""

    pause: bool = False
    stop: bool = False


class Step(NamedTuple):
    """What a step has found out before the weights change.

    Attributes:
        losses: [2] this worker's part of loss_cls and loss_box, detached; the parts of all workers add up.
        halt: [2] how many workers ask for a pause, and for a stop.
    """

    losses: Tensor
    halt: Tensor


def train_step(learner: Learner, batch: Batch) -> Tensor:
    """One optimiser step on this worker's share of a global batch; the losses as of Step."""
    step = compute_gradients(learner, batch)
    update_weights(learner)
    return step.losses


def compute_gradients(learner: Learner, batch: Batch, halt: Halt = Halt()) -> Step:  # noqa: B008  # it is a tuple
    """Losses and gradients of this worker's share of a global batch, summed over its parts and the workers."""
    parts = [move_batch(part, learner.device) for part in split_batch(batch, learner.images_per_step)]
    # The normaliser counts the foreground anchors of the global batch, which the truths alone decide: so it is known
    # before the network runs, and every part's loss is final.
    assignments = [assign(learner.criterion, part) for part in parts]
    mass = torch.stack([learner.criterion.mass(assignment) for assignment in assignments]).sum()
    asked = torch.tensor(halt, dtype=mass.dtype, device=mass.device)
    total_mass, *asked_by_all = sum_over_workers(torch.stack([mass, *asked]))  # one collective for all three

    learner.optimizer.zero_grad(set_to_none=True)
    losses = torch.zeros(2, device=learner.device)
    for i, (part, assignment) in enumerate(zip(parts, assignments, strict=True)):
        last = i == len(parts) - 1
        with synchronise_gradients(learner.model, last), convolving_float32(float32_of(learner.precision)):
            part_loss = part_losses(learner, part, assignment, total_mass)
            # DistributedDataParallel averages over the workers, but the parts of a loss add up.
            learner.scaler.scale(part_loss.sum() * num_workers()).backward()
        losses += part_loss.detach()
    return Step(losses, torch.stack(asked_by_all))


def update_weights(learner: Learner) -> None:
    """Let the optimiser, the schedule and the moving average take their step."""
    learner.scaler.unscale_(learner.optimizer)
    if learner.clip_grad_norm is not None:
        nn.utils.clip_grad_norm_(learner.model.parameters(), learner.clip_grad_norm)
    learner.scaler.step(learner.optimizer)
    learner.scaler.update()
    learner.schedule.step()
    if learner.ema is not None:
        learner.ema.update_parameters(learner.network)


def skip_step(learner: Learner) -> None:
    """Leave the weights as they are; the schedule goes on, since it counts batches."""
    learner.optimizer.zero_grad(set_to_none=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
        learner.schedule.step()


def assign(criterion: Criterion, batch: Batch) -> Assignment:
    """Match the anchors of a batch with its truths."""
    truths = [Truths(boxes, labels) for boxes, labels in batch.truths()]
    return criterion.assign(truths, batch.padded_size)


def part_losses(learner: Learner, part: Batch, assignment: Assignment, total_mass: Tensor) -> Tensor:
    """[2] loss_cls and loss_box of a part of a batch."""
    images = normalise_images(part.images, learner.mean, learner.std)
    images = images.contiguous(memory_format=memory_format(learner.network))
    with autocast(learner.device, learner.precision):
        predictions = learner.model(images)
    losses = learner.criterion(predictions, assignment, total_mass)
    return torch.stack([losses["loss_cls"], losses["loss_box"]])


def synchronise_gradients(model: nn.Module, last: bool) -> AbstractContextManager[None]:
    """Gradients travel between workers with the last part of a batch only."""
    if isinstance(model, DistributedDataParallel) and not last:
        context: AbstractContextManager[None] = model.no_sync()
        return context
    return nullcontext()


def num_workers() -> int:
    """Processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def sum_over_workers(values: Tensor) -> Tensor:
    """The sum over all workers (a collective), or the values themselves where there is one."""
    if num_workers() > 1:
        values = values.clone()
        dist.all_reduce(values)
    return values
