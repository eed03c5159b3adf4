"""Sparse IoU of ground-truth boxes and grid anchors.

The anchors of one shape on one level are arranged in rows and columns. So their intersection with a box is the product
of one number per column and one per row, and the anchors that can reach a given IoU form a rectangle of cells, the
window. Windows are computed in float64 with a margin, so that none is missed; the IoU of the pairs in them is computed
in float32 with the arithmetic of torchvision's box_iou, to the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from retinanet.anchors.grid import Shapes

# AnchorPairs per chunk: about 15 MB, which fits a CPU cache. Memory does not grow with the number of boxes.
PAIRS_AT_ONCE = 2**17
# Largest relative error of an IoU in float32: eight operations of 6e-8 each.
ROUNDING = 1e-6


class AnchorPairs(NamedTuple):
    """Overlapping pairs of a ground-truth box and an anchor.

    Attributes:
        truth, anchor: [P] index of the box, flat index of the anchor.
        iou: [P] float32.
    """

    truth: Tensor
    anchor: Tensor
    iou: Tensor


class _Windows(NamedTuple):
    """[V] each: box, shape, lowest IoU that counts, first cell and number of cells in x and y."""

    truth: Tensor
    shape: Tensor
    least: Tensor
    x: Tensor
    num_x: Tensor
    y: Tensor
    num_y: Tensor

    def part(self, rows: slice) -> _Windows:
        """A slice of the windows."""
        return _Windows(*(column[rows] for column in self))


def lowest_best_iou(truths: Tensor, shapes: Shapes) -> Tensor:
    """[M, 4] px to [M] float32: a tight lower bound of each box's best IoU with any anchor.

    Among the anchors of one shape, the one with the nearest centre has the largest IoU.
    """
    slack, overlaps = _slack(shapes), []
    for axis in (0, 1):
        low, high = truths[:, axis, None].double(), truths[:, axis + 2, None].double()  # [M, 1]
        left, right = shapes.corners[:, axis], shapes.corners[:, axis + 2]  # [S]
        origin, stride, cells = shapes.origins[:, axis], shapes.strides[:, axis], shapes.cells[:, axis]
        cell = torch.round(((low + high - left - right) / 2 - origin) / stride)  # [M, S]
        centre = origin + stride * torch.minimum(cell.clamp(min=0), cells - 1)
        overlaps.append(torch.minimum(high, centre + right) - torch.maximum(low, centre + left) - slack)
    inter = overlaps[0].clamp(min=0) * overlaps[1].clamp(min=0)
    width, height = _sides(shapes.corners)
    union = _area(truths.double())[:, None] + (width + slack) * (height + slack) - inter
    best = torch.where(inter > 0, inter / union, 0.0).amax(dim=1)
    return (best * (1 - ROUNDING)).float()


def overlapping_pairs(truths: Tensor, anchors: Tensor, shapes: Shapes, least: Tensor) -> Iterator[AnchorPairs]:
    """All pairs whose IoU is at least a given number, in chunks.

    Args:
        truths: [M, 4] float32 px; boxes without area are in no pair.
        anchors: [A, 4] float32 px, of the shapes.
        least: [M, S] or [M, 1] float32, the lowest IoU that counts for a box and a shape; above 1: none does.
    """
    windows = _find_windows(truths, shapes, least)
    ends = (windows.num_x * windows.num_y).cumsum(0)  # [V]
    if ends.shape[0] == 0:
        return
    marks = torch.arange(PAIRS_AT_ONCE, max(int(ends[-1]), PAIRS_AT_ONCE), PAIRS_AT_ONCE, device=ends.device)
    cuts = [0, *torch.searchsorted(ends, marks, right=True).tolist(), ends.shape[0]]
    for first, last in pairwise(cuts):
        if last > first:
            yield _pairs_in(windows.part(slice(first, last)), truths, anchors, shapes)


def _find_windows(truths: Tensor, shapes: Shapes, least: Tensor) -> _Windows:
    """The windows in which anchors can have that IoU.

    IoU >= t means inter >= t / (1 + t) * (area + area), and inter is at most the overlap in x times the smaller
    height. So the overlap in x has a lower bound, and the centre of the anchor lies in an interval.
    """
    slack = _slack(shapes)
    t = least.double() * (1 - ROUNDING)
    truth_sides, sides = _sides(truths.double()[:, None]), _sides(shapes.corners)  # [M, 1], [S]
    smallest = (sides[0] - slack).clamp(min=0) * (sides[1] - slack).clamp(min=0)
    inter = t / (1 + t) * (truth_sides[0] * truth_sides[1] + smallest)  # [M, S]
    most = [torch.minimum(one, other + slack) for one, other in zip(truth_sides, sides, strict=True)]
    found = (truth_sides[0] > 0) & (truth_sides[1] > 0) & (inter <= most[0] * most[1])
    bounds = []
    for axis in (0, 1):
        low, high = truths[:, axis, None].double(), truths[:, axis + 2, None].double()
        left, right = shapes.corners[:, axis], shapes.corners[:, axis + 2]
        margin = inter / most[1 - axis] - slack
        origin, stride, cells = shapes.origins[:, axis], shapes.strides[:, axis], shapes.cells[:, axis]
        first = torch.ceil((low - right + margin - origin) / stride).clamp(min=0)
        last = torch.minimum(torch.floor((high - left - margin - origin) / stride), cells - 1)
        found = found & (first <= last)
        bounds += [first, last - first + 1]
    truth, shape = torch.nonzero(found, as_tuple=True)
    chosen = [bound[truth, shape].long() for bound in bounds]
    return _Windows(truth, shape, least.expand(found.shape)[truth, shape], *chosen)


def _pairs_in(windows: _Windows, truths: Tensor, anchors: Tensor, shapes: Shapes) -> AnchorPairs:
    """The pairs of windows: first their columns and rows, then every row with every column."""
    boxes, first = truths[windows.truth], shapes.first[windows.shape]  # [V, 4], [V]
    step_x, step_y = shapes.anchors_per_cell, shapes.anchors_per_cell * shapes.cells[windows.shape, 0]
    of_column, x = _count_up(windows.x, windows.num_x)
    of_row, y = _count_up(windows.y, windows.num_y)
    from_first, anchor_of_row = step_x * x, first[of_row] + step_y[of_row] * y
    overlap_x, width = _overlap(boxes[of_column], anchors[first[of_column] + from_first], 0)
    overlap_y, height = _overlap(boxes[of_row], anchors[anchor_of_row], 1)
    # Every row pairs with all columns of its window. index_select is faster here than indexing.
    first_column = windows.num_x.cumsum(0) - windows.num_x  # [V]
    row, column = _count_up(first_column[of_row], windows.num_x[of_row])  # [P]
    inter = overlap_x.index_select(0, column) * overlap_y.index_select(0, row)
    area = width.index_select(0, column) * height.index_select(0, row)
    iou = inter / (_area(boxes)[of_row].index_select(0, row) + area - inter)
    kept = torch.nonzero(iou >= windows.least[of_row].index_select(0, row))[:, 0]
    row, column = row.index_select(0, kept), column.index_select(0, kept)
    anchor = anchor_of_row.index_select(0, row) + from_first.index_select(0, column)
    return AnchorPairs(windows.truth[of_row].index_select(0, row), anchor, iou.index_select(0, kept))


def _count_up(starts: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Concatenate ranges start, start + 1, ..: the range that each number belongs to, and the number."""
    ends = counts.cumsum(0)
    total = int(ends[-1])
    run = torch.repeat_interleave(counts, output_size=total)
    return run, torch.arange(total, device=starts.device) + (starts - ends + counts).index_select(0, run)


def _overlap(boxes: Tensor, anchors: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Along one axis: the overlap of box and anchor, and the anchor's side, as box_iou computes them."""
    low, high = anchors[:, axis], anchors[:, axis + 2]
    shared = torch.minimum(boxes[:, axis + 2], high) - torch.maximum(boxes[:, axis], low)
    return shared.clamp(min=0), high - low


def _sides(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """[..., 4] to width and height."""
    return boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]


def _area(boxes: Tensor) -> Tensor:
    width, height = _sides(boxes)
    return width * height


def _slack(shapes: Shapes) -> Tensor:
    """Largest error of a side or an overlap, px, because anchors are stored in float32."""
    reach = (shapes.origins + shapes.strides * shapes.cells).abs().amax() + shapes.corners.abs().amax()
    return reach * 2.0**-22
