"""Training batches with their targets, read by processes that live as long as the training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from retinanet.data.dataset import Batch, TrainingBatches, loader_context, split_batch
from retinanet.losses.criterion import Assignment, Criterion, ImageGroundTruth

Position = tuple[int, int]
"""Epoch and step, both 0-based."""


class AssignedBatch(NamedTuple):
    """One worker's share of a step.

    Attributes:
        batch: on the CPU.
        assignments: of its micro-batches, on the CPU.
    """

    batch: Batch
    assignments: list[Assignment]


def assign_batch(batch: Batch, criterion: Criterion, images_per_step: int | None) -> AssignedBatch:
    """Assign the anchors of each micro-batch to its ground truth: 1.5 ms for two images of 800 x 1344 px."""
    return AssignedBatch(batch, [assign_targets(criterion, part) for part in split_batch(batch, images_per_step)])


def assign_targets(criterion: Criterion, batch: Batch) -> Assignment:
    """Assign the anchors of a batch to its ground truth."""
    return criterion.assign([ImageGroundTruth(boxes, labels) for boxes, labels in batch.truths()], batch.padded_size)


class AssignedSteps(Dataset[AssignedBatch]):
    """The steps of a whole training by (epoch, step).

    Args:
        of_epoch: the steps of an epoch (0-based); picklable.
    """

    def __init__(
        self, of_epoch: Callable[[int], TrainingBatches], criterion: Criterion, images_per_step: int | None
    ) -> None:
        self.of_epoch, self.criterion, self.images_per_step = of_epoch, criterion, images_per_step
        self._current: tuple[int, TrainingBatches] | None = None

    def __getitem__(self, position: Position) -> AssignedBatch:
        """One step, with its targets."""
        epoch, step = position
        if self._current is None or self._current[0] != epoch:
            self._current = epoch, self.of_epoch(epoch)
        return assign_batch(self._current[1][step], self.criterion, self.images_per_step)


class RestOfEpoch(Sampler[Position]):
    """The positions of an epoch from a step on; the epoch changes between two iterations."""

    def __init__(self, steps: int) -> None:
        self.steps, self.epoch, self.first_step = steps, 0, 0

    def __len__(self) -> int:
        """Steps that are left of the epoch."""
        return self.steps - self.first_step

    def __iter__(self) -> Iterator[Position]:
        """(epoch, step) from the first step on."""
        return ((self.epoch, step) for step in range(self.first_step, self.steps))


class TrainingLoader:
    """Reads the steps of a training ahead, into pinned memory for a GPU.

    Args:
        steps: of an epoch.
        processes: that read, decode and assign targets; they start with the first step and end with the training.
            0: each step is read when it is asked for.
    """

    def __init__(self, batches: AssignedSteps, *, steps: int, processes: int, device: torch.device) -> None:
        self.position = RestOfEpoch(steps)
        self.loader: DataLoader[AssignedBatch] = DataLoader(
            batches,
            batch_size=None,
            sampler=self.position,
            num_workers=processes,
            multiprocessing_context=loader_context(processes),
            persistent_workers=processes > 0,
            pin_memory=device.type == "cuda",
        )

    def __call__(self, epoch: int, first_step: int) -> Iterator[AssignedBatch]:
        """The steps of an epoch (0-based) from a step on."""
        self.position.epoch, self.position.first_step = epoch, first_step
        return iter(self.loader)
