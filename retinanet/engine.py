"""The loop: train epoch by epoch, and predict. It knows no file, no tracker and no rank."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from retinanet.criterion import Assignment, Criterion, Truths
from retinanet.dataset import Batch, move_batch, split_batch
from retinanet.model import normalise_images
from retinanet.postprocess import Detections, Postprocess, rescale_detections

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
# Looking at a loss waits for a GPU, so it is done once in so many steps; on a CPU every step.
STEPS_BETWEEN_LOOKS = 20


class EpochReport(NamedTuple):
    """What an epoch showed, over all workers.

    Attributes:
        epoch: 1-based, as finished.
        step: optimiser steps since the start of training.
        losses: means over the epoch's steps of loss, loss_cls and loss_box.
        step_losses: their sum at every step.
        lr: of the last step.
        images_per_s: of the global batch.
        seconds: of the epoch.
    """

    epoch: int
    step: int
    losses: dict[str, float]
    step_losses: list[float]
    lr: float
    images_per_s: float
    seconds: float


@dataclass
class Learner:
    """Everything that learns, in one hand: what a step changes and what a checkpoint holds.

    Attributes:
        model: a RetinaNet, wrapped in DistributedDataParallel where there are several workers.
        precision: fp32, bf16 or fp16 of the convolutions; losses are float32.
        images_per_step: a worker's images at once; None: all of its share.
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


def train_epochs(
    learner: Learner, batches_of: Callable[[int], Iterable[Batch]], *, first_epoch: int, epochs: int
) -> Iterator[EpochReport]:
    """Train, and report after every epoch.

    With torch.distributed every worker runs this loop; each step has one collective for the normaliser beside those
    of the gradients, each epoch one for the losses.

    Args:
        batches_of: this worker's share of the steps of an epoch (0-based).
        first_epoch: 0-based; a resumed training starts later. At or past `epochs` nothing is yielded.

    Raises:
        FloatingPointError: naming the step, when a loss is not finite.
    """
    for epoch in range(first_epoch, epochs):
        learner.model.train()
        start = time.perf_counter()
        losses: list[Tensor] = []
        num_images = 0
        for batch in batches_of(epoch):
            lr = learner.optimizer.param_groups[0]["lr"]
            losses.append(train_step(learner, batch))
            num_images += len(batch.image_ids)
            if learner.device.type == "cpu" or len(losses) % STEPS_BETWEEN_LOOKS == 0:
                check_finite(losses[-STEPS_BETWEEN_LOOKS:], learner.schedule.last_epoch, batch)
        by_step = sum_over_workers(torch.stack(losses))  # [steps, 2] (sync point)
        check_finite(list(by_step), learner.schedule.last_epoch, batch)
        seconds = time.perf_counter() - start
        total_images = sum_over_workers(torch.tensor([num_images], device=learner.device))
        loss_cls, loss_box = by_step.mean(dim=0).tolist()
        yield EpochReport(
            epoch=epoch + 1,
            step=learner.schedule.last_epoch,
            losses={"loss": loss_cls + loss_box, "loss_cls": loss_cls, "loss_box": loss_box},
            step_losses=by_step.sum(dim=1).tolist(),
            lr=lr,
            images_per_s=total_images.item() / seconds,
            seconds=seconds,
        )


def train_step(learner: Learner, batch: Batch) -> Tensor:
    """One optimiser step on this worker's share of a global batch.

    Returns:
        [2] this worker's part of loss_cls and loss_box, detached; the parts of all workers add up.
    """
    parts = [move_batch(part, learner.device) for part in split_batch(batch, learner.images_per_step)]
    # The normaliser counts the foreground anchors of the global batch, which the truths alone decide: so it is known
    # before the network runs, and every part's loss is final.
    assignments = [assign(learner.criterion, part) for part in parts]
    mass = torch.stack([learner.criterion.mass(assignment) for assignment in assignments]).sum()
    total_mass = sum_over_workers(mass)

    learner.optimizer.zero_grad(set_to_none=True)
    step_losses = torch.zeros(2, device=learner.device)
    for i, (part, assignment) in enumerate(zip(parts, assignments, strict=True)):
        last = i == len(parts) - 1
        with synchronise_gradients(learner.model, last):
            losses = part_losses(learner, part, assignment, total_mass)
            # DistributedDataParallel averages over the workers, but the parts of a loss add up.
            learner.scaler.scale(losses.sum() * num_workers()).backward()
        step_losses += losses.detach()

    learner.scaler.unscale_(learner.optimizer)
    if learner.clip_grad_norm is not None:
        nn.utils.clip_grad_norm_(learner.model.parameters(), learner.clip_grad_norm)
    learner.scaler.step(learner.optimizer)
    learner.scaler.update()
    learner.schedule.step()
    if learner.ema is not None:
        learner.ema.update_parameters(learner.network)
    return step_losses


def assign(criterion: Criterion, batch: Batch) -> Assignment:
    """Match the anchors of a batch with its truths."""
    truths = [Truths(boxes, labels) for boxes, labels in zip(batch.boxes, batch.labels, strict=True)]
    return criterion.assign(truths, padded_size(batch))


def padded_size(batch: Batch) -> tuple[int, int]:
    """Height and width of a batch, px."""
    return batch.images.shape[2], batch.images.shape[3]


def part_losses(learner: Learner, part: Batch, assignment: Assignment, total_mass: Tensor) -> Tensor:
    """[2] loss_cls and loss_box of a part of a batch."""
    images = normalise_images(part.images, learner.mean, learner.std)
    images = images.contiguous(memory_format=memory_format(learner.network))
    with autocast(learner.device, learner.precision):
        predictions = learner.model(images)
    losses = learner.criterion(predictions, assignment, total_mass)
    return torch.stack([losses["loss_cls"], losses["loss_box"]])


def memory_format(model: nn.Module) -> torch.memory_format:
    """Channels last where the model's own weights are."""
    weight = next(parameter for parameter in model.parameters() if parameter.ndim == 4)
    last = weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Convolutions in half precision, or nothing for fp32."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=AUTOCAST[precision])


def synchronise_gradients(model: nn.Module, last: bool) -> AbstractContextManager[None]:
    """Gradients travel between workers with the last part of a batch only."""
    if isinstance(model, DistributedDataParallel) and not last:
        context: AbstractContextManager[None] = model.no_sync()
        return context
    return nullcontext()


def native_precision(gpu: bool) -> str:
    """bf16 where the hardware multiplies it natively, else fp32; emulated, bf16 would be slower than fp32."""
    if gpu:
        return (
            "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
        )
    capabilities = torch.cpu.get_capabilities()
    return "bf16" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "fp32"


def num_workers() -> int:
    """Processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def sum_over_workers(values: Tensor) -> Tensor:
    """The sum over all workers (a collective), or the values themselves where there is one."""
    if num_workers() > 1:
        values = values.clone()
        dist.all_reduce(values)
    return values


def check_finite(losses: list[Tensor], step: int, batch: Batch) -> None:
    """Stop where a loss is not finite.

    Raises:
        FloatingPointError: with the step, the losses and the images of the last batch.
    """
    values = torch.stack(losses).tolist()
    for i, (loss_cls, loss_box) in enumerate(values):
        if not (math.isfinite(loss_cls) and math.isfinite(loss_box)):
            raise FloatingPointError(
                f"loss is not finite at step {step - len(values) + i + 1}: loss_cls {loss_cls}, loss_box {loss_box}, "
                f"last images {batch.image_ids}; lower optim.lr or set optim.clip_grad_norm"
            )


@torch.no_grad()
def predict(
    model: nn.Module,
    postprocess: Postprocess,
    batches: Iterable[Batch],
    *,
    mean: list[float],
    std: list[float],
    device: torch.device,
) -> Iterator[tuple[int, Detections]]:
    """Detect on batches, in float32 whatever training used.

    Yields:
        Image id and its detections in the original image's frame, on the CPU.
    """
    model.eval()
    for batch in batches:
        images = normalise_images(batch.images.to(device), mean, std).contiguous(memory_format=memory_format(model))
        found = postprocess(model(images), batch.image_sizes.to(device), padded_size(batch))
        for i, detections in enumerate(found):
            factor_y, factor_x = (batch.original_sizes[i] / batch.image_sizes[i]).tolist()
            scaled = rescale_detections(detections, factor_y, factor_x)
            yield batch.image_ids[i], Detections(*(field.cpu() for field in scaled))
