"""Coverage of the ground truth of a split by anchors: the assignment of every truth, one row each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from tqdm import tqdm

from pipeline.anchor_stats.assignment import Batch, Counts, batches_of_one_size, count_assigned
from pipeline.params.detector import Matcher
from retinanet.anchors.grid import Grid
from retinanet.anchors.matcher import LOW_QUALITY
from retinanet.data.records import Record


@dataclass(frozen=True)
class Coverage:
    """The assignment of all truths of a split.

    Attributes:
        grid: the anchors.
        matcher: in force.
        num_images: with and without truths.
        image_size: height and width that hold every image, px.
        boxes: [M, 4] px at training scale.
        image, labels: [M] int64 of each truth: index of its image, its class.
        best_iou: [M] with any anchor.
        foreground: low_quality -> [M, L] int64 foreground anchors of each truth per level.
        ignored: [L] int64 ignored anchors of all images under the matcher in force.
        anchors: [L] int64 all anchors of all images.
    """

    grid: Grid
    matcher: Matcher
    num_images: int
    image_size: tuple[int, int]
    boxes: Tensor
    image: Tensor
    labels: Tensor
    best_iou: Tensor
    foreground: dict[str, Tensor]
    ignored: Tensor
    anchors: Tensor

    @property
    def assigned(self) -> Tensor:
        """[M, L] foreground anchors of each truth per level under the matcher in force."""
        return self.foreground[self.matcher.low_quality]

    @property
    def owned(self) -> Tensor:
        """[M] foreground anchors of each truth under the matcher in force."""
        return self.assigned.sum(dim=1)

    def images_of(self, rows: Tensor) -> int:
        """Number of images that hold these truths ([M] bool)."""
        return len(self.image[rows].unique())


def cover(scaled: Sequence[tuple[Record, Tensor, tuple[int, int]]], grid: Grid, matcher: Matcher) -> Coverage:
    """Assign the anchors of all images.

    Args:
        scaled: as at_training_scale returns them.
    """
    batches = list(batches_of_one_size([(len(boxes), size) for _, boxes, size in scaled]))
    order = [index for batch in batches for index in batch.images]
    boxes = torch.cat([torch.zeros(0, 4), *(scaled[index][1] for index in order)])
    labels = torch.cat([torch.zeros(0, dtype=torch.int64), *(scaled[index][0].labels for index in order)])
    counts = torch.tensor([len(scaled[index][1]) for index in order], dtype=torch.int64)
    image = torch.tensor(order, dtype=torch.int64).repeat_interleave(counts)
    found = assign_batches(batches, boxes, image, grid, matcher)
    sizes = Counter(size for _, _, size in scaled)
    return Coverage(
        grid=grid,
        matcher=matcher,
        num_images=len(scaled),
        image_size=enclosing_size(sizes),
        boxes=boxes,
        image=image,
        labels=labels,
        best_iou=torch.cat([part.best_iou for part in found]),
        foreground={name: torch.cat([part.foreground[name] for part in found]) for name in LOW_QUALITY},
        ignored=torch.stack([part.ignored[matcher.low_quality] for part in found]).sum(0),
        anchors=sum(
            (count * torch.tensor(grid.anchors_per_level(size)) for size, count in sizes.items()),
            torch.zeros(len(grid.strides), dtype=torch.int64),
        ),
    )


def enclosing_size(sizes: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """The height and width that hold images of all these sizes; 0 without any."""
    heights, widths = zip((0, 0), *sizes, strict=True)
    return max(heights), max(widths)


def assign_batches(
    batches: Sequence[Batch], boxes: Tensor, image: Tensor, grid: Grid, matcher: Matcher
) -> list[Counts]:
    """Count the assigned anchors of every batch, and first of none.

    Args:
        boxes, image: [M, 4] px and [M], in the order of the batches.
    """
    count = partial(
        count_assigned, grid=grid, foreground_iou=matcher.foreground_iou, background_iou=matcher.background_iou
    )
    found, lengths = [count(boxes[:0], image[:0], image_size=(1, 1))], [batch.num_boxes for batch in batches]
    with tqdm(total=sum(len(batch.images) for batch in batches), disable=None, unit="image") as progress:
        for batch, rows, of in zip(batches, boxes.split(lengths), image.split(lengths), strict=True):
            found.append(count(rows, of, image_size=batch.size))
            progress.update(len(batch.images))
    return found
