"""Data sets whose items are whole batches of a prepared split.

An item is one worker's share of one step, so a DataLoader with any number of processes needs no sampler: the images of
a step, their augmentation and the padded size of the global batch follow from (seed, epoch, step).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain, groupby
from multiprocessing.context import BaseContext
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from retinanet.data.records import Record
from retinanet.data.sampling import REPEATS, TILES, global_batches, orientations
from retinanet.data.splits import Split
from retinanet.data.transforms import Augmentation, Transforms


class Batch(NamedTuple):
    """Images with their ground truth, in one tensor for all images: every tensor costs a copy and a file descriptor.

    Attributes:
        images: [N, 3, H, W] uint8 RGB, padded.
        boxes: [sum of M, 4] float32 px in the network's frame, ordered by image.
        labels: [sum of M] int64.
        counts: N numbers M, the boxes of each image.
        image_sizes: [N, 2] height and width without padding, px.
        original_sizes: [N, 2] of the pictures or tiles, px.
        image_ids: N ids of the prepared file; tiles have that of their picture.
        corners: N times top and left of a tile in its picture, px; 0 and 0 of a picture.
    """

    images: Tensor
    boxes: Tensor
    labels: Tensor
    counts: list[int]
    image_sizes: Tensor
    original_sizes: Tensor
    image_ids: list[int]
    corners: list[tuple[int, int]]

    @property
    def padded_size(self) -> tuple[int, int]:
        """Height and width of the images, px."""
        return self.images.shape[2], self.images.shape[3]

    def truths(self) -> list[tuple[Tensor, Tensor]]:
        """Boxes [M, 4] and labels [M] of each image, as views."""
        return list(zip(self.boxes.split(self.counts), self.labels.split(self.counts), strict=True))


def aspect_ratio(size: tuple[int, int]) -> float:
    """Height / width."""
    height, width = size
    return height / width


class TrainingBatches(Dataset[Batch]):
    """One worker's share of every step of one epoch; where the transforms have tiles, an epoch shows every tile.

    Args:
        rank, num_workers: of the training; a share is every num_workers-th image of a global batch.
        factors: [N] how often each image is shown in an epoch, on average; None: once.
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
        factors: Tensor | None = None,
    ) -> None:
        if batch_size < num_workers:
            raise ValueError(
                f"train.batch_size is {batch_size}, smaller than the {num_workers} workers; use fewer workers"
            )
        if not split.records:
            raise ValueError(
                "the training split is empty, expected at least one image; check data.train and run prepare again"
            )
        self.split, self.transforms = split.tiled(transforms.tiles), transforms
        self.seed, self.epoch, self.rank, self.num_workers = seed, epoch, rank, num_workers
        groups = orientations(self.split.records.sizes)
        self.steps = global_batches(groups, batch_size, seed=seed, epoch=epoch, factors=factors)

    def __len__(self) -> int:
        """Steps of the epoch."""
        return len(self.steps)

    def __getitem__(self, step: int) -> Batch:
        """This worker's share of a step, padded to the size of the whole global batch."""
        repetitions, indices = zip(*(divmod(image, len(self.split.records)) for image in self.steps[step]), strict=True)
        records = [self.split.records[index] for index in indices]
        drawn = [
            self.transforms.draw(self.seed, self.epoch, *seed_of(record, times))
            for record, times in zip(records, repetitions, strict=True)
        ]
        sizes = [self.transforms.resized_size(record.size, draw) for record, draw in zip(records, drawn, strict=True)]
        padded_size = self.transforms.training_size_of(sizes)
        mine = range(self.rank, len(indices), self.num_workers)
        loaded = [load(self.split, indices[i], self.transforms, drawn[i]) for i in mine]
        images = self.transforms.pad([image for image, _, _ in loaded], padded_size)
        shown = [(boxes, records[i].labels[kept]) for i, (_, boxes, kept) in zip(mine, loaded, strict=True)]
        return pack(images, shown, [records[i] for i in mine], [sizes[i] for i in mine])


class EvaluationBatches(Dataset[Batch]):
    """A split without augmentation, ordered by aspect ratio; a worker gets every num_workers-th batch.

    Images of one aspect ratio keep the order of the file. The batches do not depend on the number of workers, so
    neither does the padding of an image. Where the transforms have tiles, one worker gets all tiles of a picture, in
    sequence.
    """

    def __init__(
        self, split: Split, transforms: Transforms, *, batch_size: int = 8, rank: int = 0, num_workers: int = 1
    ) -> None:
        self.split, self.transforms = split.tiled(transforms.tiles), transforms
        records = self.split.records
        order = sorted(range(len(records)), key=lambda index: aspect_ratio(records.size(index)))
        groups = whole_pictures(order, records.pictures.tolist(), batch_size)[rank::num_workers]
        self.batches = [group[i : i + batch_size] for group in groups for i in range(0, len(group), batch_size)]

    def __len__(self) -> int:
        """Batches of this worker."""
        return len(self.batches)

    def __getitem__(self, position: int) -> Batch:
        """One batch, padded to its own largest image."""
        indices = self.batches[position]
        records = [self.split.records[index] for index in indices]
        unchanged = self.transforms.for_evaluation
        loaded = [load(self.split, index, self.transforms, unchanged) for index in indices]
        sizes = [self.transforms.resized_size(record.size, unchanged) for record in records]
        images = self.transforms.pad([image for image, _, _ in loaded], self.transforms.padded_size_of(sizes))
        shown = [(boxes, record.labels) for record, (_, boxes, _) in zip(records, loaded, strict=True)]
        return pack(images, shown, records, sizes)


def seed_of(record: Record, times: int) -> list[int]:
    """The part of an augmentation's seed that differs between images, tiles and repetitions of them."""
    corner = [TILES, *record.corner] if any(record.corner) else []
    return [record.image_id, *corner, *([REPEATS, times] if times else [])]


def whole_pictures(order: Sequence[int], pictures: Sequence[int], least: int) -> list[list[int]]:
    """Cut an order of records into groups of at least that many, only the last is smaller, between pictures.

    Args:
        pictures: the picture of each record.
    """
    groups: list[list[int]] = []
    for _, tiles in groupby(order, key=lambda index: pictures[index]):
        if not groups or len(groups[-1]) >= least:
            groups.append([])
        groups[-1] += tiles
    return groups


def load(split: Split, index: int, transforms: Transforms, drawn: Augmentation) -> tuple[Tensor, Tensor, Tensor]:
    """Decode and transform one record, with its boxes; returns as Transforms.apply."""
    record = split.records[index]
    image = split.picture(index, transforms.reduction(record.size))
    return transforms.apply(image, record.boxes, drawn, size=record.size)


def prefetch(batches: Dataset[Batch], *, processes: int, device: torch.device) -> DataLoader[Batch]:
    """Read the batches of a data set ahead, into pinned memory for a GPU.

    Args:
        processes: that read and decode; 0: none, each batch is read when it is asked for.
    """
    return DataLoader(
        batches,
        batch_size=None,
        num_workers=processes,
        multiprocessing_context=loader_context(processes),
        pin_memory=device.type == "cuda",
    )


def loader_context(processes: int) -> BaseContext | None:
    """How loader processes start: forked from a server process that has neither CUDA nor the threads of Ray.

    A process that is forked while another thread holds a lock may wait for it for ever.
    """
    if processes == 0:
        return None
    context = torch.multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", __name__])  # torch is imported once, not in every process
    return context


def pack(
    images: Tensor,
    truths: Sequence[tuple[Tensor, Tensor]],
    records: Sequence[Record],
    sizes: Sequence[tuple[int, int]],
) -> Batch:
    """Build a batch of images [N, 3, H, W] with boxes [M, 4] and labels [M] of each and its size without padding, px.

    It shares no tensor with the records: a tensor sent by a loader process stays in shared memory, with a file
    descriptor, as long as it is referenced there.
    """
    return Batch(
        images=images,
        boxes=torch.cat([boxes for boxes, _ in truths]),
        labels=torch.cat([labels for _, labels in truths]),
        counts=[len(labels) for _, labels in truths],
        image_sizes=torch.tensor(sizes),
        original_sizes=torch.tensor([record.size for record in records]),
        image_ids=[record.image_id for record in records],
        corners=[record.corner for record in records],
    )


def split_batch(batch: Batch, num_images: int | None) -> Iterator[Batch]:
    """Split a batch into micro-batches of at most num_images, for gradient accumulation; None: one micro-batch."""
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
            batch.corners[rows],
        )


def merge_batches(batches: Iterable[Batch], num_images: int) -> Iterator[Batch]:
    """Merge batches that follow each other and have one padded size, to at most num_images unless one has more."""
    for _, group in groupby(batches, key=lambda batch: batch.padded_size):
        waiting: list[Batch] = []
        for batch in group:
            if waiting and sum(len(other.image_ids) for other in (*waiting, batch)) > num_images:
                yield _merge(waiting)
                waiting = []
            waiting.append(batch)
        yield _merge(waiting)


def _merge(batches: Sequence[Batch]) -> Batch:
    """Merge batches of one padded size."""
    if len(batches) == 1:
        return batches[0]
    images, boxes, labels, counts, image_sizes, original_sizes, image_ids, corners = zip(*batches, strict=True)
    return Batch(
        torch.cat(images),
        torch.cat(boxes),
        torch.cat(labels),
        [*chain.from_iterable(counts)],
        torch.cat(image_sizes),
        torch.cat(original_sizes),
        [*chain.from_iterable(image_ids)],
        [*chain.from_iterable(corners)],
    )


def copy_to(values: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device without waiting for it: to a GPU from pinned memory."""
    return (pinned(values) if device.type == "cuda" else values).to(device, non_blocking=True)


def pinned(values: Tensor) -> Tensor:
    """A tensor that can be copied to a GPU without waiting: on a GPU, or in pinned memory."""
    return values.pin_memory() if values.device.type == "cpu" and not values.is_pinned() else values
