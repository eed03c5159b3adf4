"""Tiles: overlapping windows of large pictures. A tile is a record of its own; its pixels are a view of the picture.

A window is x1, y1, x2, y2 in whole px of the picture, without its last column and row, as a box.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor

from retinanet.data.records import Record, Records, first_of


@dataclass(frozen=True)
class Tiles:
    """How pictures are cut, with the parameters of `transforms.tiles`.

    Attributes:
        size: height and width of a tile, px in the picture; a number: of a square.
        overlap: fraction of a tile's side that adjacent tiles share, at least; below 1.
        min_visible: a tile keeps a box of which it shows at least this fraction of the area. The tiles that show the
            most of a box keep it whatever the fraction, so no box is lost.
    """

    size: int | Sequence[int]
    overlap: float = 0.2
    min_visible: float = 0.25

    @staticmethod
    def from_dict(section: Mapping[str, Any] | None) -> Tiles | None:
        """The tiles of plain values, as the description of a detector holds them; None: there are none."""
        return None if section is None else Tiles(**section)

    def windows(self, size: tuple[int, int]) -> Tensor:
        """The windows of a picture of this height and width, row by row: [T, 4] int64, all of one size.

        A side that is not longer than a tile is not cut.
        """
        sides = [self.size] * 2 if isinstance(self.size, int) else list(self.size)
        tops, lefts = (starts(length, side, self.overlap) for length, side in zip(size, sides, strict=True))
        height, width = min(size[0], sides[0]), min(size[1], sides[1])
        return torch.tensor([[left, top, left + width, top + height] for top, left in product(tops, lefts)])


def starts(length: int, tile: int, overlap: float) -> list[int]:
    """Where tiles begin along a side of that length, px: as few as overlap enough, at even distances."""
    if length <= tile:
        return [0]
    step = max(1, int(tile * (1 - overlap)))
    last = -(-(length - tile) // step)
    return [i * (length - tile) // last for i in range(last + 1)]


def cut_boxes(boxes: Tensor, windows: Tensor, min_visible: float) -> tuple[Tensor, Tensor]:
    """Clip the boxes of a picture to its windows, by the rule of Tiles.min_visible.

    Args:
        boxes: [M, 4] px in the picture, of positive area.
        windows: [T, 4].

    Returns:
        [T, M, 4] boxes in the frame of each window, undefined where they are not kept; [T, M] whether they are kept.
    """
    windows = windows.to(boxes)[:, None]  # [T, 1, 4]
    first = torch.maximum(boxes[:, :2], windows[..., :2])  # [T, M, 2]
    last = torch.minimum(boxes[:, 2:], windows[..., 2:])
    shown = (last - first).clamp(min=0).prod(dim=-1)  # [T, M] px^2
    enough = min_visible * (boxes[:, 2:] - boxes[:, :2]).prod(dim=-1)
    kept = (shown > 0) & ((shown >= enough) | (shown == shown.amax(dim=0)))
    return torch.cat([first, last], dim=-1) - windows[..., :2].repeat(1, 1, 2), kept


def cut_record(record: Record, tiles: Tiles) -> list[Record]:
    """The tiles of a picture, those without boxes too."""
    windows = tiles.windows(record.size)
    boxes, kept = cut_boxes(record.boxes, windows, tiles.min_visible)
    cut = []
    for (left, top, right, bottom), own, here in zip(windows.tolist(), boxes, kept, strict=True):
        size = bottom - top, right - left
        cut.append(replace(record, corner=(top, left), size=size, boxes=own[here], labels=record.labels[here]))
    return cut


def cut_records(pictures: Records, tiles: Tiles) -> Records:
    """The tiles of all pictures, in their order; paths and digests are shared."""
    numbered = [(number, tile) for number, record in enumerate(pictures) for tile in cut_record(record, tiles)]
    records = [tile for _, tile in numbered]
    result = copy.copy(pictures)
    result.pictures = torch.tensor([number for number, _ in numbered], dtype=torch.int64)
    result.image_ids = pictures.image_ids[result.pictures]
    result.corners = torch.tensor([record.corner for record in records], dtype=torch.int64).reshape(-1, 2)
    result.sizes = torch.tensor([record.size for record in records], dtype=torch.int64).reshape(-1, 2)
    result.boxes = torch.cat([pictures.boxes[:0], *(record.boxes for record in records)])
    result.labels = torch.cat([pictures.labels[:0], *(record.labels for record in records)])
    result.first_box = first_of(len(record.labels) for record in records)
    return result
