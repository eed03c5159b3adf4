"""The data set: a prepared split, handed out as whole batches.

An item is one worker's share of one step, so that a loader of any number of processes needs no sampler: which images a
step holds, how each is augmented and to what size the whole global batch is padded follow from (seed, epoch, step).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from retinanet.data.splits import Record, Split
from retinanet.data.transforms import Transforms, seeded


class Batch(NamedTuple):
    """Images with their truths, those of all images in one tensor: each tensor is a copy to a GPU, and a descriptor.

    Attributes:
        images: [N, 3, H, W] uint8 RGB, padded.
        boxes: [sum of M, 4] float32 px in the network's frame, image after image.
        labels: [sum of M] int64.
        counts: N times M, the truths of each image.
        image_sizes: [N, 2] height and width without padding, px.
        original_sizes: [N, 2] of the pictures, px.
        image_ids: N ids of the file.
    """

    images: Tensor
    boxes: Tensor
    labels: Tensor
    counts: list[int]
    image_sizes: Tensor
    original_sizes: Tensor
    image_ids: list[int]

    @property
    def padded_size(self) -> tuple[int, int]:
        """Height and width of the images, px."""
        return self.images.shape[2], self.images.shape[3]

    def truths(self) -> list[tuple[Tensor, Tensor]]:
        """Boxes [M, 4] and labels [M] of each image, as views."""
        return list(zip(self.boxes.split(self.counts), self.labels.split(self.counts), strict=True))


def global_batches(num_images: int, batch_size: int, *, seed: int, epoch: int) -> list[list[int]]:
    """The images of every step of an epoch: a permutation drawn from (seed, epoch), cut into full batches.

    What does not fill a batch is left out; the next epoch's permutation leaves out others. A data set smaller than one
    batch is repeated to fill it.
    """
    order = seeded(seed, epoch).permutation(num_images)
    order = np.resize(order, max(num_images, batch_size))
    return [order[start : start + batch_size].tolist() for start in range(0, len(order) - batch_size + 1, batch_size)]


class TrainingBatches(Dataset[Batch]):
    """One worker's share of every step of one epoch.

    Args:
        rank, num_workers: which share; every num_workers-th image of a global batch.
    """

    def __init__(
        self,
        split: Split,
        transforms: Transforms,
        *,
        batch_size: int,
        seed: int,
        epoch: int,
        rank: int = 0,
        num_workers: int = 1,
    ) -> None:
        if batch_size < num_workers:
            raise ValueError(
                f"train.batch_size is {batch_size}, smaller than the {num_workers} workers; use fewer workers"
            )
        if not split.records:
            raise ValueError("the training split holds no image; look at data.train and run prepare again")
        self.split, self.transforms = split, transforms
        self.seed, self.epoch, self.rank, self.num_workers = seed, epoch, rank, num_workers
        self.steps = global_batches(len(split.records), batch_size, seed=seed, epoch=epoch)

    def __len__(self) -> int:
        """Steps of the epoch."""
        return len(self.steps)

    def __getitem__(self, step: int) -> Batch:
        """This worker's share of a step, padded to the size of the whole global batch."""
        indices = self.steps[step]
        records = [self.split.records[index] for index in indices]
        drawn = [self.transforms.draw(self.seed, self.epoch, record.image_id) for record in records]
        sizes = [self.transforms.resized_size(record.size, draw) for record, draw in zip(records, drawn, strict=True)]
        canvas = self.transforms.padded_size(sizes)
        mine = range(self.rank, len(indices), self.num_workers)
        loaded = [self.transforms.apply(self.split.picture(indices[i]), records[i].boxes, drawn[i]) for i in mine]
        images = self.transforms.pad([image for image, _ in loaded], canvas)
        return pack(images, [boxes for _, boxes in loaded], [records[i] for i in mine], [sizes[i] for i in mine])


class EvaluationBatches(Dataset[Batch]):
    """A split in its own order, a few images at a time, without augmentation; workers take every num_workers-th batch.

    The batches do not depend on the number of workers, so neither does an image's padding.
    """

    def __init__(
        self, split: Split, transforms: Transforms, *, batch_size: int = 8, rank: int = 0, num_workers: int = 1
    ) -> None:
        self.split, self.transforms = split, transforms
        starts = range(0, len(split.records), batch_size)
        batches = [list(range(start, min(start + batch_size, len(split.records)))) for start in starts]
        self.batches = batches[rank::num_workers]

    def __len__(self) -> int:
        """Batches of this worker."""
        return len(self.batches)

    def __getitem__(self, position: int) -> Batch:
        """One batch, padded to its own largest image."""
        indices = self.batches[position]
        records = [self.split.records[index] for index in indices]
        unchanged = self.transforms.for_evaluation
        loaded = [
            self.transforms.apply(self.split.picture(index), record.boxes, unchanged)
            for index, record in zip(indices, records, strict=True)
        ]
        sizes = [self.transforms.resized_size(record.size, unchanged) for record in records]
        images = self.transforms.pad([image for image, _ in loaded], self.transforms.padded_size(sizes))
        return pack(images, [boxes for _, boxes in loaded], records, sizes)


def pack(images: Tensor, boxes: Sequence[Tensor], records: Sequence[Record], sizes: Sequence[tuple[int, int]]) -> Batch:
    """A batch of images [N, 3, H, W] with the boxes [M, 4] of each in the network's frame, and its size there, px.

    It holds no tensor of the records: one that a loader process sends stays in shared memory, with a descriptor, for as
    long as it lives there.
    """
    return Batch(
        images=images,
        boxes=torch.cat(list(boxes)),
        labels=torch.cat([record.labels for record in records]),
        counts=[len(record.labels) for record in records],
        image_sizes=torch.tensor(sizes),
        original_sizes=torch.tensor([record.size for record in records]),
        image_ids=[record.image_id for record in records],
    )


def split_batch(batch: Batch, num_images: int | None) -> Iterator[Batch]:
    """Cut a batch into parts of at most num_images, for accumulation; None: one part."""
    total = len(batch.image_ids)
    size = total if num_images is None else num_images
    first_truths = [0, *accumulate(batch.counts)]
    for start in range(0, total, size):
        rows = slice(start, min(start + size, total))
        truths = slice(first_truths[rows.start], first_truths[rows.stop])
        yield Batch(
            batch.images[rows],
            batch.boxes[truths],
            batch.labels[truths],
            batch.counts[rows],
            batch.image_sizes[rows],
            batch.original_sizes[rows],
            batch.image_ids[rows],
        )


def move_batch(batch: Batch, device: torch.device | str) -> Batch:
    """The batch on a device, in three copies; sizes, counts and ids stay where they are."""
    return batch._replace(
        images=batch.images.to(device, non_blocking=True),
        boxes=batch.boxes.to(device, non_blocking=True),
        labels=batch.labels.to(device, non_blocking=True),
    )
