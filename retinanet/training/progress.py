"""Progress of a training: what a checkpoint stores of it, what an epoch reports, and losses that are not finite."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from retinanet.training.distributed import sum_over_workers
from retinanet.training.state import TrainingState

# Reading a loss waits for a GPU, so it is done once in this many steps; on a CPU every step.
STEPS_BETWEEN_CHECKS = 20


class CheckpointRequest(NamedTuple):
    """A request to all workers: checkpoint, or checkpoint and stop."""

    checkpoint: bool = False
    stop: bool = False


class EpochReport(NamedTuple):
    """Metrics of one epoch, reduced over workers.

    Attributes:
        epoch: 1-based, as finished.
        step: optimiser steps since the start of training.
        losses: means of loss, loss_cls and loss_box over the epoch's steps, without those that were skipped.
        step_losses: their sum at every step; NaN or infinite where it was skipped.
        skipped: steps of the epoch that were skipped.
        lr: learning rate of the last step.
        grad_norm, grad_norm_max: mean and maximum over the epoch's updates of the gradient's 2-norm before clipping;
            None where no update had a finite one.
        images_per_s: of the global batch.
        seconds: of the epoch.
    """

    epoch: int
    step: int
    losses: dict[str, float]
    step_losses: list[float]
    skipped: int
    lr: float
    grad_norm: float | None
    grad_norm_max: float | None
    images_per_s: float
    seconds: float


@dataclass
class TrainingProgress:
    """Position of a training. A checkpoint stores it, so that no step is repeated or left out.

    Attributes:
        epoch: 0-based, in progress.
        losses: loss_cls and loss_box, summed over the workers, of each finished step of that epoch.
        grad_norms: 2-norm of the gradient before clipping, of each of these steps that was not skipped.
        images: trained in these steps.
        seconds: duration of these steps.
        skipped: steps skipped since the start of training.
        lr: learning rate of the last step.
        stop: a worker has requested all of them to stop.
    """

    epoch: int = 0
    losses: list[list[float]] = field(default_factory=list)
    grad_norms: list[float] = field(default_factory=list)
    images: int = 0
    seconds: float = 0.0
    skipped: int = 0
    lr: float = 0.0
    stop: bool = False

    def end_epoch(self, *, step: int) -> EpochReport:
        """Report an epoch whose steps are all finished, and move on to the next.

        Args:
            step: optimiser steps since the start of training.
        """
        by_step = torch.tensor(self.losses)  # [steps, 2]
        finite = by_step.isfinite().all(dim=1)
        loss_cls, loss_box = by_step[finite].mean(dim=0).tolist()
        # Where fp16 overflows, the gradient is infinite and GradScaler leaves the update out.
        norms = [norm for norm in self.grad_norms if math.isfinite(norm)]
        report = EpochReport(
            epoch=self.epoch + 1,
            step=step,
            losses={"loss": loss_cls + loss_box, "loss_cls": loss_cls, "loss_box": loss_box},
            step_losses=by_step.sum(dim=1).tolist(),
            skipped=int((~finite).sum()),
            lr=self.lr,
            grad_norm=sum(norms) / len(norms) if norms else None,
            grad_norm_max=max(norms, default=None),
            images_per_s=self.images / self.seconds,
            seconds=self.seconds,
        )
        self.epoch, self.losses, self.grad_norms, self.images, self.seconds = self.epoch + 1, [], [], 0, 0.0
        return report


class LossNotFiniteError(FloatingPointError):
    """A loss that is NaN or infinite.

    Attributes:
        epoch: 0-based.
        step: 0-based, in the epoch.
    """

    def __init__(self, state: TrainingState, *, epoch: int, step: int, losses: list[float], steps_ago: int) -> None:
        self.epoch, self.step = epoch, step
        number, (loss_cls, loss_box) = state.schedule.last_epoch - steps_ago + 1, losses
        super().__init__(f"loss is not finite at step {number}: loss_cls {loss_cls}, loss_box {loss_box}")


class StepLog:
    """Losses and gradient norms of the steps since the last pause. They stay on the device until `flush`."""

    def __init__(self, state: TrainingState, progress: TrainingProgress) -> None:
        self.state, self.progress = state, progress
        self.losses: list[Tensor] = []
        self.grad_norms: list[Tensor] = []
        self.images = 0
        self.requests: Tensor | None = None
        self.started = time.perf_counter()

    def add(self, losses: Tensor, requests: Tensor, *, num_images: int) -> None:
        """Log a step before its update.

        Args:
            losses: [2] this worker's loss_cls and loss_box, detached.
            requests: [2] number of workers that request a checkpoint, and a stop.
        """
        self.losses.append(losses)
        self.requests = requests if self.requests is None else self.requests + requests
        self.images += num_images
        self.progress.lr = self.state.optimizer.param_groups[0]["lr"]

    def add_grad_norm(self, norm: Tensor) -> None:
        """Log the gradient [] of the same step, if it is not skipped."""
        self.grad_norms.append(norm)

    def is_checkpoint_due(self, checkpoint_every: int | None) -> bool:
        """Whether to checkpoint before the next step: every worker gets the same answer."""
        if not self.losses:
            return False
        if checkpoint_every is not None and self.state.schedule.last_epoch % checkpoint_every == 0:
            return True
        reads = self.state.device.type == "cpu" or len(self.losses) % STEPS_BETWEEN_CHECKS == 0
        return reads and self.requests is not None and bool(self.requests.any())

    def must_skip(self) -> bool:
        """Whether to skip the update of this step, because its loss is not finite on some worker.

        Raises:
            LossNotFiniteError: when too many steps were skipped, or none may be and the device is a CPU.
        """
        if not self.state.max_skipped:
            if self.state.device.type == "cpu":
                self._check_finite(1, steps_ago=0)
            return False
        if bool(sum_over_workers(self.losses[-1]).isfinite().all()):
            return False
        self.progress.skipped += 1
        if self.progress.skipped > self.state.max_skipped:
            self._refuse(len(self.losses) - 1, self.losses[-1].tolist(), steps_ago=0)
        return True

    def check_recent_losses(self) -> None:
        """After the update, every STEPS_BETWEEN_CHECKS steps on a GPU: check the losses since the last check."""
        if self.state.device.type != "cpu" and len(self.losses) % STEPS_BETWEEN_CHECKS == 0:
            self._check_finite(STEPS_BETWEEN_CHECKS, steps_ago=1)

    def flush(self) -> None:
        """Add the logged steps to the progress, summed over the workers."""
        if not self.losses:
            return
        losses = sum_over_workers(torch.stack(self.losses)).tolist()  # (sync point)
        self._check_finite(STEPS_BETWEEN_CHECKS, steps_ago=1)
        images = sum_over_workers(torch.tensor([self.images], device=self.state.device))
        self.progress.losses += losses
        if self.grad_norms:
            self.progress.grad_norms += torch.stack(self.grad_norms).tolist()
        self.progress.images += int(images.item())
        self.progress.seconds += time.perf_counter() - self.started
        self.progress.stop = self.requests is not None and bool(self.requests[1] > 0)

    def _check_finite(self, count: int, *, steps_ago: int) -> None:
        """Raise if one of the last `count` losses is not finite; steps_ago: updates since the last of them."""
        if self.state.max_skipped:
            return
        first = max(len(self.losses) - count, 0)
        for index, values in enumerate(torch.stack(self.losses[first:]).tolist(), start=first):
            if not all(math.isfinite(value) for value in values):
                self._refuse(index, values, steps_ago=len(self.losses) - 1 - index + steps_ago)

    def _refuse(self, index: int, losses: list[float], *, steps_ago: int) -> None:
        step = len(self.progress.losses) + index
        raise LossNotFiniteError(self.state, epoch=self.progress.epoch, step=step, losses=losses, steps_ago=steps_ago)
