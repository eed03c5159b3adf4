"""The matcher: which anchor answers for which truth (paper, section 4, "Anchors").

An anchor's best truth is the one with the highest IoU (the first of equals). With IoU >= foreground_iou the anchor is
foreground for it, below background_iou it is background, between the two it is ignored: exactly .5 is foreground,
exactly .4 ignored. On top of the paper, a truth that no anchor reaches keeps its best anchors (36.2 AP against 35.5,
facebookresearch/maskrcnn-benchmark#102). An anchor that overlaps nothing never matches.

Nearly all anchors of an image overlap nothing well enough. So the labels are written into one number per anchor, from
the few pairs of `overlaps`: the bits of the IoU above those of the truth, of which an anchor keeps the largest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from retinanet.anchors.grid import Grid
from retinanet.anchors.overlaps import Pairs, lowest_best_iou, overlapping_pairs

BACKGROUND = -1
IGNORED = -2
LOW_QUALITY = ("truth", "anchor", "none")
# Above the bits of every IoU (those of 2.0): the anchor is some truth's best.
CLAIMED = 0x4000_0000 << 32


class Matches(NamedTuple):
    """The anchors of a batch that are not background. Place a of image i is i * A + a.

    Attributes:
        foreground: [F] places, ascending.
        truth: [F] row of each one's truth in the truths of the whole batch.
        ignored: [I] places, ascending.
        best_iou: [M] of every truth of the batch with any anchor; 0 where it overlaps none.
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
) -> Matches:
    """Assign every anchor of a batch to a truth, to the background, or to neither.

    Args:
        truths: per image [M, 4] float32 px; M may be 0.
        image_size: padded height and width of the batch, px.
        foreground_iou: in (0, 1].
        background_iou: in [0, foreground_iou].
        low_quality: what a truth's best anchors (all that tie, of IoU > 0) become, whatever that IoU:
            "truth": foreground for this truth; where several truths claim one anchor the last wins (mmdetection).
            "anchor": foreground for the anchor's own best truth (maskrcnn-benchmark, detectron2, torchvision).
            "none": nothing, as in the paper.
    """
    if low_quality not in LOW_QUALITY:
        raise ValueError(f"low_quality is {low_quality!r}, expected one of {', '.join(LOW_QUALITY)}")
    slots = _Slots(truths, grid, image_size)
    claims, best_iou = slots.enter_best(background_iou if background_iou > 0 else foreground_iou)
    if low_quality == "truth":
        slots.claim_for_truths(claims)
    elif low_quality == "anchor":
        slots.claim_for_anchors(claims)
    place, key = slots.filled()
    iou, truth = _unpack(key, num_truths=slots.boxes.shape[0])
    claimed = key >= CLAIMED
    if low_quality == "truth":
        truth = torch.where(claimed, key - CLAIMED, truth)
    foreground = claimed | (iou >= foreground_iou)
    ignored = place[~foreground & (iou >= background_iou)]
    if background_iou == 0:  # then nothing is background where there are truths
        ignored = slots.all_but(place[foreground])
    return Matches(place[foreground], truth[foreground], ignored, best_iou)


class _Slots:
    """One number per anchor of a batch: 0, or the bits of its best IoU above those of its best truth.

    The truth is written as num_truths - row, so that of equal IoUs the first truth is the largest number.
    """

    def __init__(self, truths: Sequence[Tensor], grid: Grid, image_size: tuple[int, int]) -> None:
        self.boxes = torch.cat(list(truths)).float()  # [M, 4]
        device = self.boxes.device
        self.counts = torch.tensor([len(boxes) for boxes in truths], device=device)
        self.image = torch.repeat_interleave(self.counts, output_size=self.boxes.shape[0])  # [M]
        self.anchors, self.shapes = grid.anchors(image_size, device), grid.shapes(image_size, device)
        self.keys = torch.zeros(len(truths) * self.anchors.shape[0], dtype=torch.int64, device=device)  # [N * A]

    def enter_best(self, reached_iou: float) -> tuple[Pairs, Tensor]:
        """Enter every pair of at least that IoU.

        Returns:
            The truths with their best anchors, and [M] the IoU of these.
        """
        lowest = lowest_best_iou(self.boxes, self.shapes)  # [M]
        near = []
        for pairs in self.pairs(lowest.clamp(max=reached_iou)[:, None]):
            self.enter(_select(pairs, pairs.iou >= reached_iou))
            near.append(_select(pairs, pairs.iou >= lowest.index_select(0, pairs.truth)))
        none = self.image[:0]
        claims = (
            Pairs(*(torch.cat(parts) for parts in zip(*near, strict=True))) if near else Pairs(none, none, lowest[:0])
        )
        best = torch.zeros_like(lowest).scatter_reduce_(0, claims.truth, claims.iou, "amax")
        return _select(claims, (claims.iou == best[claims.truth]) & (claims.iou > 0)), best

    def pairs(self, least: Tensor) -> Iterator[Pairs]:
        """Those of at least that IoU; see overlapping_pairs."""
        return overlapping_pairs(self.boxes, self.anchors, self.shapes, least)

    def place(self, pairs: Pairs) -> Tensor:
        """[P] where the anchors of some pairs stand in the batch."""
        return self.image.index_select(0, pairs.truth) * self.anchors.shape[0] + pairs.anchor

    def enter(self, pairs: Pairs) -> None:
        """Every anchor keeps the best of what it has and these."""
        keys = (pairs.iou.view(torch.int32).long() << 32) + (self.boxes.shape[0] - pairs.truth)
        self.keys.scatter_reduce_(0, self.place(pairs), keys, "amax")

    def claim_for_truths(self, claims: Pairs) -> None:
        """The anchors answer for these truths, of several for the last."""
        self.keys.scatter_reduce_(0, self.place(claims), CLAIMED + claims.truth, "amax")

    def claim_for_anchors(self, claims: Pairs) -> None:
        """The anchors answer for their own best truth, which is entered where it is not yet known."""
        place = self.place(claims)
        unknown = self.keys[place] == 0
        wanted = torch.zeros_like(self.keys, dtype=torch.bool)
        wanted[place[unknown]] = True
        for pairs in self.pairs(self.lowest_per_shape(_select(claims, unknown))):
            self.enter(_select(pairs, wanted.index_select(0, self.place(pairs))))
        self.keys[place] |= CLAIMED

    def lowest_per_shape(self, claims: Pairs) -> Tensor:
        """[M, S] the lowest IoU among these with a shape in the truth's image; 2 where there is none."""
        per_cell, num_shapes = self.shapes.anchors_per_cell, self.shapes.first.shape[0]
        level = torch.searchsorted(self.shapes.first[::per_cell].contiguous(), claims.anchor, right=True) - 1
        shape = level * per_cell + (claims.anchor - self.shapes.first[level * per_cell]) % per_cell
        lowest = claims.iou.new_full((self.counts.shape[0] * num_shapes,), 2.0)
        lowest.scatter_reduce_(0, self.image[claims.truth] * num_shapes + shape, claims.iou, "amin")
        return lowest.view(-1, num_shapes)[self.image]

    def filled(self) -> tuple[Tensor, Tensor]:
        """Places of the anchors with a number, ascending, and the numbers."""
        place = torch.nonzero(self.keys)[:, 0]
        return place, self.keys[place]

    def all_but(self, places: Tensor) -> Tensor:
        """All other places of images with truths."""
        others = (self.counts > 0).repeat_interleave(self.anchors.shape[0])
        others[places] = False
        return torch.nonzero(others)[:, 0]


def _select(pairs: Pairs, mask: Tensor) -> Pairs:
    rows = torch.nonzero(mask)[:, 0]
    return Pairs(*(column.index_select(0, rows) for column in pairs))


def _unpack(keys: Tensor, *, num_truths: int) -> tuple[Tensor, Tensor]:
    """IoU and truth of numbers as _Slots.enter writes them."""
    return (keys >> 32).to(torch.int32).view(torch.float32), num_truths - (keys & 0xFFFF_FFFF)
