"""Which images an epoch shows, and in which batches: functions of (seed, epoch), whatever the number of workers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from retinanet.data.records import Records
from retinanet.data.transforms import seeded

# Part of the seeds of what only repetitions draw; the crops of an image have 1 there.
REPEATS = 2
# Part of the seeds of tiles, with their corner; that of a picture's first tile is the picture's.
TILES = 3


def repeat_factors(records: Records, threshold: float) -> Tensor:
    """How often an image is shown in an epoch, on average: repeat-factor sampling (Gupta et al. 2019, LVIS).

    A class that occurs in a fraction f of the images has the factor max(1, sqrt(threshold / f)), an image the largest
    factor of its classes; an image without objects has 1. Detectron2 and LVIS use the threshold 0.001.

    Returns:
        [N] float64.
    """
    counts = records.first_box.diff()
    images = torch.arange(len(records)).repeat_interleave(counts)  # of each box
    pairs = torch.stack([images, records.labels], dim=1).unique(dim=0)  # each class of an image once
    fractions = pairs[:, 1].bincount().double() / len(records)
    factors = (threshold / fractions).sqrt().clamp(min=1)  # of classes that do not occur: infinite, and not used
    return torch.ones(len(records), dtype=torch.float64).scatter_reduce(0, pairs[:, 0], factors[pairs[:, 1]], "amax")


def images_of_epoch(num_images: int, factors: Tensor | None, *, seed: int, epoch: int) -> list[int]:
    """The images of an epoch in the order in which they are shown.

    Args:
        factors: [N] of repeat_factors; None: every image once.

    Returns:
        Indices of images; the r-th repetition of image i (r > 0) is i + r * num_images, because its augmentation
        differs. Their number is the same in every epoch: the sum of the factors, rounded down. How often an image
        comes is its factor, rounded up or down: a systematic sample of the permuted images, with a random start.
    """
    order = seeded(seed, epoch).permutation(num_images)
    if factors is None:
        shown: list[int] = order.tolist()
        return shown
    generator = seeded(seed, epoch, 0, REPEATS, 0)
    ends = factors.numpy()[order].cumsum()
    total = int(ends[-1] + 1e-6)
    ends = np.append(ends[:-1] * (total / ends[-1]), float(total))  # the last one exactly
    counts = np.diff(np.floor(ends + generator.random()), prepend=0.0).astype(int)
    repeated = np.concatenate([order[counts > times] + times * num_images for times in range(counts.max())])
    shuffled: list[int] = generator.permutation(repeated).tolist()
    return shuffled


def global_batches(
    groups: Sequence[int], batch_size: int, *, seed: int, epoch: int, factors: Tensor | None = None
) -> list[list[int]]:
    """The images of every step of an epoch: those of images_of_epoch, dealt into full batches by group.

    A batch is emitted as soon as one of the groups fills it, as in Detectron2's AspectRatioGroupedDataset, so that
    portrait and landscape images do not pad each other; what the groups have left at the end is mixed. Images that do
    not fill a batch are dropped, others in every epoch. A data set smaller than one batch is repeated.

    Args:
        groups: the group of each image; see orientations.
        factors: [N] how often each image is shown, on average; None: once.
    """
    order = images_of_epoch(len(groups), factors, seed=seed, epoch=epoch)
    order = np.resize(order, max(len(order), batch_size)).tolist()
    waiting: dict[int, list[int]] = {group: [] for group in sorted(set(groups))}
    batches = []
    for index in order:
        queue = waiting[groups[index % len(groups)]]
        queue.append(index)
        if len(queue) == batch_size:
            batches.append(queue.copy())
            queue.clear()
    rest = [index for queue in waiting.values() for index in queue]
    return batches + [rest[start : start + batch_size] for start in range(0, len(rest) - batch_size + 1, batch_size)]


def orientations(sizes: Tensor) -> list[int]:
    """Group of each image [N, 2] of height and width: 1 for portrait, 0 for landscape and square."""
    groups: list[int] = (sizes[:, 0] > sizes[:, 1]).int().tolist()
    return groups
