"""The matcher of anchors and ground truth: the fast twin of dense_matcher.py, which states the rule. Read that first.

Nearly all anchors of an image are background. So only the overlapping pairs of `overlaps` are looked at, and each is
encoded as one integer, the bits of the IoU above those of the box: the best box of an anchor is a maximum. On one
thread that is 70 to 130 times as fast as torchvision, which computes every IoU (bench/RESULTS.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from retinanet.anchors.grid import Grid
from retinanet.anchors.overlaps import AnchorPairs, lowest_best_iou, overlapping_pairs

BACKGROUND = -1
IGNORED = -2
LOW_QUALITY = ("truth", "anchor", "none")
# Above the bits of every IoU (those of 2.0): the anchor is one of the best anchors of a box.
CLAIMED = 0x4000_0000 << 32


class AnchorMatches(NamedTuple):
    """The anchors of a batch that are not background. Anchor a of image i has the flat index i * A + a.

    Attributes:
        foreground: [F] flat indices, ascending.
        truth: [F] index of the matched box among the boxes of the whole batch.
        ignored: [I] flat indices, ascending.
        best_iou: [M] best IoU of every box of the batch with any anchor; 0 without overlap.
    """

    foreground: Tensor
    truth: Tensor
    ignored: Tensor
    best_iou: Tensor


def match_anchors(
    truths: Sequence[Tensor],
    grid: Grid,
    image_size: tuple[int, int],
    *,
    foreground_iou: float = 0.5,
    background_iou: float = 0.4,
    low_quality: str = "truth",
) -> AnchorMatches:
    """Match every anchor of a batch with a ground-truth box, with the background, or with neither.

    Args:
        truths: per image [M, 4] float32 px; M may be 0.
        image_size: padded height and width of the batch, px.
        foreground_iou: in (0, 1].
        background_iou: in [0, foreground_iou].
        low_quality: label of the best anchors of a box (all that tie, of IoU > 0), whatever their IoU:
            "truth": foreground for this box; among several boxes with one best anchor the last wins (mmdetection).
            "anchor": foreground for the anchor's own best box (maskrcnn-benchmark, detectron2, torchvision).
            "none": no special label, as in the paper.
    """
    if low_quality not in LOW_QUALITY:
        raise ValueError(f"low_quality is {low_quality!r}, expected one of {', '.join(LOW_QUALITY)}")
    best_boxes = _BestBoxes(truths, grid, image_size)
    claims, best_iou = best_boxes.enter_best(background_iou if background_iou > 0 else foreground_iou)
    if low_quality == "truth":
        best_boxes.match_with_boxes(claims)
    elif low_quality == "anchor":
        best_boxes.match_with_own_best(claims)
    index, key = best_boxes.filled()
    iou, truth = _unpack(key, num_truths=best_boxes.boxes.shape[0])
    claimed = key >= CLAIMED
    if low_quality == "truth":
        truth = torch.where(claimed, key - CLAIMED, truth)
    foreground = claimed | (iou >= foreground_iou)
    ignored = index[~foreground & (iou >= background_iou)]
    if background_iou == 0:  # no anchor of an image with ground truth is background
        ignored = best_boxes.all_but(index[foreground])
    return AnchorMatches(index[foreground], truth[foreground], ignored, best_iou)


class _BestBoxes:
    """One key per anchor of a batch: 0, or the bits of its best IoU above those of its best box.

    The box is encoded as num_truths - index, so that of equal IoUs the first box has the largest key.
    """

    def __init__(self, truths: Sequence[Tensor], grid: Grid, image_size: tuple[int, int]) -> None:
        self.boxes = torch.cat(list(truths)).float()  # [M, 4]
        device = self.boxes.device
        self.counts = torch.tensor([len(boxes) for boxes in truths], device=device)
        self.image = torch.repeat_interleave(self.counts, output_size=self.boxes.shape[0])  # [M]
        self.anchors, self.shapes = grid.anchors(image_size, device), grid.shapes(image_size, device)
        self.keys = torch.zeros(len(truths) * self.anchors.shape[0], dtype=torch.int64, device=device)  # [N * A]

    def enter_best(self, reached_iou: float) -> tuple[AnchorPairs, Tensor]:
        """Enter every pair of at least that IoU.

        Returns:
            The pairs of each box and its best anchors, and [M] the IoU of these.
        """
        lowest = lowest_best_iou(self.boxes, self.shapes)  # [M]
        near = []
        for pairs in self.pairs(lowest.clamp(max=reached_iou)[:, None]):
            self.enter(_select(pairs, pairs.iou >= reached_iou))
            near.append(_select(pairs, pairs.iou >= lowest.index_select(0, pairs.truth)))
        none = self.image[:0]
        claims = (
            AnchorPairs(*(torch.cat(parts) for parts in zip(*near, strict=True)))
            if near
            else AnchorPairs(none, none, lowest[:0])
        )
        best = torch.zeros_like(lowest).scatter_reduce_(0, claims.truth, claims.iou, "amax")
        return _select(claims, (claims.iou == best[claims.truth]) & (claims.iou > 0)), best

    def pairs(self, least: Tensor) -> Iterator[AnchorPairs]:
        """The pairs of at least that IoU; see overlapping_pairs."""
        return overlapping_pairs(self.boxes, self.anchors, self.shapes, least)

    def index_of(self, pairs: AnchorPairs) -> Tensor:
        """[P] flat indices of the anchors of pairs."""
        return self.image.index_select(0, pairs.truth) * self.anchors.shape[0] + pairs.anchor

    def enter(self, pairs: AnchorPairs) -> None:
        """Update the best box of each anchor with these pairs."""
        keys = (pairs.iou.view(torch.int32).long() << 32) + (self.boxes.shape[0] - pairs.truth)
        self.keys.scatter_reduce_(0, self.index_of(pairs), keys, "amax")

    def match_with_boxes(self, claims: AnchorPairs) -> None:
        """Match the anchors with these boxes, of several with the last."""
        self.keys.scatter_reduce_(0, self.index_of(claims), CLAIMED + claims.truth, "amax")

    def match_with_own_best(self, claims: AnchorPairs) -> None:
        """Match the anchors with their own best box, which is computed where it is not yet known."""
        index = self.index_of(claims)
        unknown = self.keys[index] == 0
        wanted = torch.zeros_like(self.keys, dtype=torch.bool)
        wanted[index[unknown]] = True
        for pairs in self.pairs(self.lowest_per_shape(_select(claims, unknown))):
            self.enter(_select(pairs, wanted.index_select(0, self.index_of(pairs))))
        self.keys[index] |= CLAIMED

    def lowest_per_shape(self, claims: AnchorPairs) -> Tensor:
        """[M, S] the lowest IoU of these pairs per shape in the image of the box; 2 without any."""
        per_cell, num_shapes = self.shapes.anchors_per_cell, self.shapes.first.shape[0]
        level = torch.searchsorted(self.shapes.first[::per_cell].contiguous(), claims.anchor, right=True) - 1
        shape = level * per_cell + (claims.anchor - self.shapes.first[level * per_cell]) % per_cell
        lowest = claims.iou.new_full((self.counts.shape[0] * num_shapes,), 2.0)
        lowest.scatter_reduce_(0, self.image[claims.truth] * num_shapes + shape, claims.iou, "amin")
        return lowest.view(-1, num_shapes)[self.image]

    def filled(self) -> tuple[Tensor, Tensor]:
        """Flat indices of the anchors with a key, ascending, and the keys."""
        index = torch.nonzero(self.keys)[:, 0]
        return index, self.keys[index]

    def all_but(self, index: Tensor) -> Tensor:
        """All other anchors of images with ground truth."""
        others = (self.counts > 0).repeat_interleave(self.anchors.shape[0])
        others[index] = False
        return torch.nonzero(others)[:, 0]


def _select(pairs: AnchorPairs, mask: Tensor) -> AnchorPairs:
    rows = torch.nonzero(mask)[:, 0]
    return AnchorPairs(*(column.index_select(0, rows) for column in pairs))


def _unpack(keys: Tensor, *, num_truths: int) -> tuple[Tensor, Tensor]:
    """IoU and box of keys as _BestBoxes.enter encodes them."""
    return (keys >> 32).to(torch.int32).view(torch.float32), num_truths - (keys & 0xFFFF_FFFF)
