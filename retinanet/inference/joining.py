"""Joining the detections of a picture's tiles.

Two tiles may show the same object twice, one of them, or both, only a part of it. So two detections are of one object
if they agree where both tiles look: the IoU of their boxes, clipped to the region that the tiles share, is above
nms_iou. For boxes inside that region this is non-maximum suppression. The best detection stays; its box grows only on
sides where the object leaves its tile.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from retinanet.inference.postprocess import Detections

ROUNDING = 0.01  # px, of boxes at the edge of a tile: they are scaled from the network's frame


class TileDetections(NamedTuple):
    """The detections of one tile.

    Attributes:
        image_id: of the picture.
        window: x1, y1, x2, y2 of the tile in the picture, px.
        detections: in the frame of the tile.
    """

    image_id: int
    window: tuple[int, int, int, int]
    detections: Detections


def join_pictures(
    tiles: Iterable[TileDetections], *, nms_iou: float, max_detections: int | None
) -> Iterator[tuple[int, Detections]]:
    """Join the tiles of every picture, which follow each other; image ids with detections in px of the pictures."""
    for image_id, own in groupby(tiles, key=lambda tile: tile.image_id):
        yield image_id, join_tiles(list(own), nms_iou=nms_iou, max_detections=max_detections)


def join_tiles(tiles: Sequence[TileDetections], *, nms_iou: float, max_detections: int | None) -> Detections:
    """The detections of one picture in its frame, best first; those of a single tile are not changed.

    Detections of one tile are never joined with each other, because they have been suppressed already. The order of
    the tiles changes nothing.

    Args:
        nms_iou, max_detections: as of Postprocess, here for the picture.
    """
    if len(tiles) == 1:
        return tiles[0].detections
    counts = torch.tensor([len(tile.detections.scores) for tile in tiles])
    windows = torch.tensor([tile.window for tile in tiles], dtype=torch.float32)
    windows = windows.repeat_interleave(counts, dim=0)  # [D, 4], of each detection
    boxes, scores, labels = (torch.cat(fields) for fields in zip(*(tile.detections for tile in tiles), strict=True))
    boxes = boxes + windows[:, :2].repeat(1, 2)
    order = torch.from_numpy(np.lexsort([*windows.T.numpy(), *boxes.T.numpy(), labels.numpy(), -scores.numpy()]))
    windows, boxes, scores, labels = windows[order], boxes[order], scores[order], labels[order]
    kept, grown = join_boxes(boxes, windows, labels, nms_iou=nms_iou, most=max_detections)
    return Detections(grown, scores[kept], labels[kept])


def join_boxes(
    boxes: Tensor, windows: Tensor, labels: Tensor, *, nms_iou: float, most: int | None
) -> tuple[Tensor, Tensor]:
    """Join boxes that are ordered best first.

    Args:
        boxes: [D, 4] px in the picture; windows: [D, 4] of their tiles; labels: [D].
        most: number of joined boxes after which it ends; None: all.

    Returns:
        Indices of the best box of each object, [J], and the box grown to the whole object, [J, 4].
    """
    left = torch.ones(len(boxes), dtype=torch.bool)
    kept: list[int] = []
    grown = [boxes[:0]]
    while bool(left.any()) and len(kept) != most:
        best = int(left.int().argmax())
        same = parts_of(best, boxes, windows, left & (labels == labels[best]), nms_iou=nms_iou)
        left[same] = False
        kept.append(best)
        grown.append(grow(boxes[best], windows[best], boxes[same])[None])
    return torch.tensor(kept, dtype=torch.int64), torch.cat(grown)


def parts_of(best: int, boxes: Tensor, windows: Tensor, among: Tensor, *, nms_iou: float) -> Tensor:
    """Indices of the boxes that show the object of the best one, with its own.

    A part that leaves the tile of the best box leads to further ones: of an object across three tiles, the outer parts
    have no region in common.

    Args:
        among: [D] which boxes are candidates.
    """
    found, waiting = torch.zeros_like(among), [best]
    found[best] = True
    while waiting:
        part = waiting.pop(0)
        rest = torch.nonzero(among & ~found).flatten()
        overlaps = shared_iou(boxes[part], windows[part], boxes[rest], windows[rest])
        new = rest[(overlaps > nms_iou) & (windows[rest] != windows[part]).any(dim=1)]
        found[new] = True
        waiting += new[leaves(boxes[new], windows[best]).any(dim=1)].tolist()
    return torch.nonzero(found).flatten()


def shared_iou(box: Tensor, window: Tensor, boxes: Tensor, windows: Tensor) -> Tensor:
    """IoU of a box with others, each pair clipped to the region that their tiles share: [R] float64, 0 without region.

    Args:
        box, window: [4]; boxes, windows: [R, 4].
    """
    low = torch.maximum(window[:2], windows[:, :2]).double()
    high = torch.minimum(window[2:], windows[:, 2:]).double()
    first, second = (clip(each.double(), low, high) for each in (box[None], boxes))
    both = area(clip(first, second[:, :2], second[:, 2:]))
    either = area(first) + area(second) - both
    return torch.where(either > 0, both / either, 0.0)


def clip(boxes: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Clip boxes [R, 4] to regions with the corners low and high, [R, 2]; a box outside gets no positive size."""
    return torch.cat([torch.maximum(boxes[:, :2], low), torch.minimum(boxes[:, 2:], high)], dim=1)


def area(boxes: Tensor) -> Tensor:
    """Areas of boxes [R, 4] in px^2; 0 where a size is not positive."""
    return (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(dim=1)


def leaves(boxes: Tensor, window: Tensor) -> Tensor:
    """On which sides boxes [R, 4] leave a window [4], by more than a rounding: [R, 4]."""
    return torch.cat([boxes[:, :2] < window[:2] - ROUNDING, boxes[:, 2:] > window[2:] + ROUNDING], dim=1)


def grow(box: Tensor, window: Tensor, parts: Tensor) -> Tensor:
    """A box [4] grown to its parts [P, 4], on the sides where these leave its window."""
    seen = torch.where(leaves(parts, window), parts, box)
    return torch.cat([seen[:, :2].amin(dim=0), seen[:, 2:].amax(dim=0)])
