"""Target assignment of all truths of a split at once, as counts.

Training's matcher (retinanet.anchors.matcher) holds one number for every anchor of an image, 200,000 at COCO's scale.
The counts here need only the anchors that overlap a truth, and hold them sorted, for many images of one size. Tests
compare them with the matcher's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from retinanet.anchors.grid import Grid
from retinanet.anchors.overlaps import AnchorPairs, lowest_best_iou, overlapping_pairs

BOXES_AT_ONCE = 1000  # with the pairs of so many boxes the processor's cache is not exceeded


class Counts(NamedTuple):
    """The assignment of some images of one size.

    Attributes:
        best_iou: [M] float32 best IoU of every truth with any anchor; 0 without overlap.
        foreground: low_quality -> [M, L] int64 foreground anchors of every truth per level.
        ignored: low_quality -> [L] int64 ignored anchors.
    """

    best_iou: Tensor
    foreground: dict[str, Tensor]
    ignored: dict[str, Tensor]


class Batch(NamedTuple):
    """Images of one size.

    Attributes:
        images: their indices, ascending.
        size: padded height and width, px.
    """

    images: list[int]
    size: tuple[int, int]
    num_boxes: int


def count_assigned(
    boxes: Tensor,
    image: Tensor,
    grid: Grid,
    image_size: tuple[int, int],
    *,
    foreground_iou: float,
    background_iou: float,
) -> Counts:
    """Count the anchors that the matcher assigns, under every setting of low_quality.

    Args:
        boxes: [M, 4] float32 px.
        image: [M] int64 number of the image of each box, ascending.
        image_size: padded height and width of all these images, px.
    """
    overlaps = _Overlaps(boxes, image, grid, image_size, reached=background_iou or foreground_iou)
    reaches = overlaps.iou >= foreground_iou
    claimed = reaches | overlaps.is_claimed
    rules = {
        "truth": (overlaps.last_claim(), claimed),
        "anchor": (overlaps.own_of_claimed(), claimed),
        "none": (overlaps.own, reaches),
    }
    foreground, ignored = {}, {}
    for low_quality, (owner, positive) in rules.items():
        foreground[low_quality] = overlaps.per_box_and_level(owner, positive)
        ignored[low_quality] = overlaps.per_level(~positive & (overlaps.iou >= background_iou))
        if background_iou == 0:  # no anchor of an image with truths is background
            every = torch.tensor(grid.anchors_per_level(image_size)) * len(image.unique())
            ignored[low_quality] = every - foreground[low_quality].sum(0)
    return Counts(overlaps.best_iou, foreground, ignored)


class _Overlaps:
    """The U anchors that overlap boxes, ascending by image, level and place; see count_assigned.

    Attributes:
        best_iou: [M] of every box with any anchor.
        iou: [U] best IoU of every anchor, where it is at least `reached`; may be too small below.
        own: [U] the first of the boxes with this IoU.
        is_claimed: [U] is one of the best anchors of a box.
    """

    def __init__(
        self, boxes: Tensor, image: Tensor, grid: Grid, image_size: tuple[int, int], *, reached: float
    ) -> None:
        self.boxes, self.image, self.reached = boxes, image, reached
        self.anchors, shapes = grid.anchors(image_size), grid.shapes(image_size)
        least = lowest_best_iou(boxes, shapes).clamp(max=reached)[:, None]
        parts = list(overlapping_pairs(boxes, self.anchors, shapes, least)) or [no_pairs(boxes)]
        pairs = AnchorPairs(*(torch.cat(columns) for columns in zip(*parts, strict=True)))
        self.best_iou = pairs.iou.new_zeros(len(boxes)).scatter_reduce_(0, pairs.truth, pairs.iou, "amax")
        flat, self.row = torch.unique(image[pairs.truth] * len(self.anchors) + pairs.anchor, return_inverse=True)
        self.anchor_image, self.anchor = flat // len(self.anchors), flat % len(self.anchors)
        self.first_of_level = shapes.first[:: grid.anchors_per_cell].contiguous()
        self.level = torch.bucketize(self.anchor, self.first_of_level, right=True) - 1
        self.iou, self.own = best_boxes(self.row, pairs.iou, pairs.truth, len(flat))
        claims = torch.nonzero((pairs.iou == self.best_iou[pairs.truth]) & (pairs.iou > 0)).flatten()
        self.claimed, self.claimant = self.row[claims], pairs.truth[claims]
        self.is_claimed = torch.zeros(len(flat), dtype=torch.bool).index_fill_(0, self.claimed, True)

    def last_claim(self) -> Tensor:
        """[U] the last box whose best anchor this is, else the anchor's own best box."""
        last = torch.full_like(self.own, -1).scatter_reduce_(0, self.claimed, self.claimant, "amax")
        return torch.where(self.is_claimed, last, self.own)

    def own_of_claimed(self) -> Tensor:
        """[U] own best boxes, which are computed where an anchor is claimed and its best IoU is not yet known."""
        unknown = torch.nonzero(self.is_claimed & (self.iou < self.reached)).flatten()
        first = torch.searchsorted(self.image, self.anchor_image[unknown])
        counts = torch.searchsorted(self.image, self.anchor_image[unknown], right=True) - first
        row = torch.repeat_interleave(counts)  # every unknown anchor with all boxes of its image
        box = torch.arange(len(row)) + (first - counts.cumsum(0) + counts)[row]
        iou = paired_iou(self.boxes[box], self.anchors[self.anchor[unknown[row]]])
        return self.own.index_copy(0, unknown, best_boxes(row, iou, box, len(unknown))[1])

    def per_level(self, rows: Tensor) -> Tensor:
        """[L] the number of these anchors ([U] bool)."""
        return torch.bincount(self.level[rows], minlength=len(self.first_of_level))

    def per_box_and_level(self, owner: Tensor, rows: Tensor) -> Tensor:
        """[M, L] the number of these anchors ([U] bool) by their box ([U])."""
        levels = len(self.first_of_level)
        counts = torch.bincount(owner[rows] * levels + self.level[rows], minlength=len(self.boxes) * levels)
        return counts.view(-1, levels)


def no_pairs(boxes: Tensor) -> AnchorPairs:
    """No pair of a box and an anchor."""
    none = torch.zeros(0, dtype=torch.int64)
    return AnchorPairs(none, none, boxes.new_zeros(0))


def best_boxes(row: Tensor, iou: Tensor, box: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The highest IoU of every row and its box, of equals the first.

    Args:
        row, iou, box: [P], one per pair; row is below count, box below 2^32.

    Returns:
        [count] float32 and [count] int64; undefined for rows without any pair.
    """
    # The bits of a float that is not negative are ordered as the float is.
    keys = (iou.view(torch.int32).long() << 32) + (0xFFFF_FFFF - box)
    best = keys.new_zeros(count).scatter_reduce_(0, row, keys, "amax")
    return (best >> 32).to(torch.int32).view(torch.float32), 0xFFFF_FFFF - (best & 0xFFFF_FFFF)


def paired_iou(boxes: Tensor, anchors: Tensor) -> Tensor:
    """[P, 4] and [P, 4] to [P], to the same bits as torchvision's box_iou; 0 where nothing is shared."""
    shared = torch.minimum(boxes[:, 2:], anchors[:, 2:]) - torch.maximum(boxes[:, :2], anchors[:, :2])
    sides, anchor_sides = boxes[:, 2:] - boxes[:, :2], anchors[:, 2:] - anchors[:, :2]
    inter = shared.clamp(min=0).prod(dim=1)
    union = sides.prod(dim=1) + anchor_sides.prod(dim=1) - inter
    return torch.where(inter > 0, inter / union, 0.0)


def batches_of_one_size(images: Sequence[tuple[int, tuple[int, int]]]) -> Iterator[Batch]:
    """Group images by their padded size, then into batches of about BOXES_AT_ONCE boxes.

    Args:
        images: number of boxes and padded size of each.
    """
    by_size: dict[tuple[int, int], list[int]] = {}
    for index, (_, size) in enumerate(images):
        by_size.setdefault(size, []).append(index)
    for size, indices in by_size.items():
        batch, boxes = list[int](), 0
        for index in indices:
            batch.append(index)
            boxes += images[index][0]
            if boxes >= BOXES_AT_ONCE:
                yield Batch(batch, size, boxes)
                batch, boxes = [], 0
        if batch:
            yield Batch(batch, size, boxes)
