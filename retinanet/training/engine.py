"""The training loop, epoch by epoch: no I/O, no tracking, no rank tests."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from retinanet.data.dataset import Batch
from retinanet.training.learner import (
    Halt,
    Learner,
    compute_gradients,
    skip_step,
    sum_over_workers,
    update_weights,
)

# Looking at a loss waits for a GPU, so it is done once in so many steps; on a CPU every step.
STEPS_BETWEEN_LOOKS = 20


class EpochReport(NamedTuple):
    """What an epoch showed, over all workers.

    Attributes:
        epoch: 1-based, as finished.
        step: optimiser steps since the start of training.
        losses: means of loss, loss_cls and loss_box over the epoch's steps, without those that were skipped.
        step_losses: their sum at every step; NaN or infinite where it was skipped.
        skipped: steps of the epoch that were skipped.
        lr: of the last step.
        images_per_s: of the global batch.
        seconds: of the epoch.
    """

    epoch: int
    step: int
    losses: dict[str, float]
    step_losses: list[float]
    skipped: int
    lr: float
    images_per_s: float
    seconds: float


@dataclass
class Course:
    """How far a training is. A checkpoint holds it, so that no step is trained twice or left out.

    Attributes:
        epoch: 0-based, in progress.
        losses: loss_cls and loss_box over all workers of each step of that epoch that is done.
        images: trained in them.
        seconds: that they took.
        skipped: steps left out since the start of training.
        stop: a worker has asked all of them to stop.
    """

    epoch: int = 0
    losses: list[list[float]] = field(default_factory=list)
    images: int = 0
    seconds: float = 0.0
    skipped: int = 0
    stop: bool = False


class LossNotFiniteError(FloatingPointError):
    """A loss that is NaN or infinite.

    Attributes:
        epoch: 0-based.
        step: 0-based, in the epoch.
    """

    def __init__(self, learner: Learner, *, epoch: int, step: int, losses: list[float], since: int) -> None:
        self.epoch, self.step = epoch, step
        number, (loss_cls, loss_box) = learner.schedule.last_epoch - since + 1, losses
        super().__init__(f"loss is not finite at step {number}: loss_cls {loss_cls}, loss_box {loss_box}")


def train_epochs(
    learner: Learner,
    batches_of: Callable[[int, int], Iterable[Batch]],
    *,
    course: Course,
    epochs: int,
    checkpoint_every: int | None = None,
    halt: Callable[[], Halt] = Halt,
) -> Iterator[EpochReport | Course]:
    """Train, and report after every epoch; within an epoch pause where a checkpoint is due.

    With torch.distributed every worker runs this loop; each step has one collective for the normaliser beside those
    of the gradients, each pause and each epoch one for the losses.

    Args:
        batches_of: this worker's share of an epoch (0-based), from a step of it (0-based) on.
        course: where to begin; it is kept up to date. At or past `epochs` nothing is yielded.
        checkpoint_every: steps between two pauses, over all epochs; None: there are none.
        halt: asked at every step; what one worker asks for, all do.

    Yields:
        The report of an epoch that has ended, or the course at a pause.

    Raises:
        LossNotFiniteError: naming the step, when a loss is not finite and learner.max_skipped does not allow it.
    """
    while course.epoch < epochs:
        learner.model.train()
        leg = Leg(learner, course)
        for batch in batches_of(course.epoch, len(course.losses)):
            if leg.is_pause_due(checkpoint_every):
                leg.end()
                yield course
                leg = Leg(learner, course)
            leg.train_on(batch, halt())
        leg.end()
        report = report_of(course, learner, lr=leg.lr)
        course.epoch, course.losses, course.images, course.seconds = course.epoch + 1, [], 0, 0.0
        yield report


class Leg:
    """Steps without a pause between them: their losses stay where the network is until the leg ends."""

    def __init__(self, learner: Learner, course: Course) -> None:
        self.learner, self.course = learner, course
        self.losses: list[Tensor] = []
        self.images = 0
        self.lr = learner.optimizer.param_groups[0]["lr"]
        self.asked: Tensor | None = None
        self.begun = time.perf_counter()

    def train_on(self, batch: Batch, halt: Halt) -> None:
        """One step, unless its loss is not finite."""
        self.lr = self.learner.optimizer.param_groups[0]["lr"]
        losses, asked = compute_gradients(self.learner, batch, halt)
        self.asked = asked if self.asked is None else self.asked + asked
        self.losses.append(losses)
        self.images += len(batch.image_ids)
        if self.learner.max_skipped and not bool(sum_over_workers(losses).isfinite().all()):
            self.course.skipped += 1
            if self.course.skipped > self.learner.max_skipped:
                self.refuse(len(self.losses) - 1, losses.tolist(), since=0)
            skip_step(self.learner)
            return
        if self.learner.device.type == "cpu":
            self.check_finite(1, since=0)
        update_weights(self.learner)
        if self.learner.device.type != "cpu" and len(self.losses) % STEPS_BETWEEN_LOOKS == 0:
            self.check_finite(STEPS_BETWEEN_LOOKS, since=1)

    def check_finite(self, count: int, *, since: int) -> None:
        """Stop where one of the last `count` losses is not finite; `since` is 1 where their steps are done."""
        if self.learner.max_skipped:
            return
        first = max(len(self.losses) - count, 0)
        for place, values in enumerate(torch.stack(self.losses[first:]).tolist(), start=first):
            if not all(math.isfinite(value) for value in values):
                self.refuse(place, values, since=len(self.losses) - 1 - place + since)

    def refuse(self, place: int, losses: list[float], *, since: int) -> None:
        """End the training at a step of this leg, `since` steps ago."""
        step = len(self.course.losses) + place
        raise LossNotFiniteError(self.learner, epoch=self.course.epoch, step=step, losses=losses, since=since)

    def is_pause_due(self, checkpoint_every: int | None) -> bool:
        """Whether all workers pause now, before the next step: every worker comes to the same answer."""
        if not self.losses:
            return False
        if checkpoint_every is not None and self.learner.schedule.last_epoch % checkpoint_every == 0:
            return True
        looks = self.learner.device.type == "cpu" or len(self.losses) % STEPS_BETWEEN_LOOKS == 0
        return looks and self.asked is not None and bool(self.asked.any())

    def end(self) -> None:
        """Bring the course up to date."""
        if not self.losses:
            return
        losses = sum_over_workers(torch.stack(self.losses)).tolist()  # (sync point)
        self.check_finite(STEPS_BETWEEN_LOOKS, since=1)
        images = sum_over_workers(torch.tensor([self.images], device=self.learner.device))
        self.course.losses += losses
        self.course.images += int(images.item())
        self.course.seconds += time.perf_counter() - self.begun
        self.course.stop = self.asked is not None and bool(self.asked[1] > 0)


def report_of(course: Course, learner: Learner, *, lr: float) -> EpochReport:
    """The report of an epoch whose steps are all done."""
    by_step = torch.tensor(course.losses)  # [steps, 2]
    finite = by_step.isfinite().all(dim=1)
    loss_cls, loss_box = by_step[finite].mean(dim=0).tolist()
    return EpochReport(
        epoch=course.epoch + 1,
        step=learner.schedule.last_epoch,
        losses={"loss": loss_cls + loss_box, "loss_cls": loss_cls, "loss_box": loss_box},
        step_losses=by_step.sum(dim=1).tolist(),
        skipped=int((~finite).sum()),
        lr=lr,
        images_per_s=course.images / course.seconds,
        seconds=course.seconds,
    )
