"""Raw head outputs, one map per pyramid level.

Criterion and post-processing work on these maps directly, because permuting and concatenating hundreds of megabytes of
logits costs more than the loss itself. An anchor is named by its flat index (0..A-1) or by its location on a map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Predictions(NamedTuple):
    """The output of the network for a batch.

    Attributes:
        class_logits: per level [N, C*K, H, W]; channel c*K + k is class k of the cell's anchor c.
        box_deltas: per level [N, C*4, H, W], the box code.
    """

    class_logits: list[Tensor]
    box_deltas: list[Tensor]


class LevelLocations(NamedTuple):
    """Locations of anchors on the map of one level: [R] int64 each; cell_anchor is 0..C-1; counted as below."""

    image: Tensor
    cell_anchor: Tensor
    y: Tensor
    x: Tensor
    counted: Tensor | None


class AnchorLocations(NamedTuple):
    """Anchors of a batch with their locations on the maps, level by level.

    Attributes:
        counts: the number of anchors on each level; their sum is R.
        indices: [5, R] int64: image, flat index of the anchor (0..A-1), anchor of the cell (0..C-1), y, x. One tensor,
            because each costs a copy to the device.
        counted: [R] bool, where the locations are padded to a fixed number on each level (losses/fixed_shapes.py):
            False for copies of the last anchor of the level, or of location 0 if it has none; None: all are counted.
    """

    counts: list[int]
    indices: Tensor
    counted: Tensor | None = None

    @property
    def image(self) -> Tensor:
        """[R] the index of each anchor's image."""
        return self.indices[0]

    @property
    def anchor(self) -> Tensor:
        """[R] the flat index of each anchor."""
        return self.indices[1]

    def levels(self) -> list[LevelLocations]:
        """The locations on each level, as views."""
        counted = [None] * len(self.counts) if self.counted is None else self.counted.split(self.counts)
        levels = zip(self.indices.split(self.counts, dim=1), counted, strict=True)
        return [LevelLocations(level[0], level[2], level[3], level[4], own) for level, own in levels]

    def map(self, function: Callable[[Tensor], Tensor]) -> AnchorLocations:
        """Apply a function to every tensor."""
        return AnchorLocations(
            self.counts, function(self.indices), None if self.counted is None else function(self.counted)
        )


def locate_anchors(
    image: Tensor, anchor: Tensor, *, map_sizes: Sequence[tuple[int, int]], anchors_per_cell: int
) -> tuple[AnchorLocations, Tensor]:
    """Locate anchors on the maps of their levels; the anchors of a level keep their order.

    Args:
        image, anchor: [R] index of the image, flat index of the anchor.
        map_sizes: cells (H, W) of every level.

    Returns:
        The locations, and [R] which of the given anchors each is.
    """
    sizes = torch.tensor(map_sizes, device=anchor.device)  # [L, 2]
    ends = (anchors_per_cell * sizes.prod(dim=1)).cumsum(0)
    level = torch.bucketize(anchor, ends, right=True)
    level, order = level.sort(stable=True)
    image, anchor = image[order], anchor[order]
    local = anchor - (ends - anchors_per_cell * sizes.prod(dim=1))[level]
    cell = torch.div(local, anchors_per_cell, rounding_mode="floor")
    width = sizes[level, 1]
    y, x = torch.div(cell, width, rounding_mode="floor"), cell % width
    counts = torch.bincount(level, minlength=len(map_sizes)).tolist()
    return AnchorLocations(counts, torch.stack([image, anchor, local % anchors_per_cell, y, x])), order


def permute_to_N_A_K(maps: Sequence[Tensor], num_channels: int) -> Tensor:
    """All levels' maps [N, C*K, H, W] as one [N, A, K] in the order of the anchors: for tests and pictures."""
    flat = []
    for level in maps:
        by_anchor = level.unflatten(1, (-1, num_channels))  # [N, C, K, H, W]
        flat.append(by_anchor.permute(0, 3, 4, 1, 2).reshape(level.shape[0], -1, num_channels))
    return torch.cat(flat, dim=1)


def permute_from_N_A_K(flat: Tensor, map_sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """The inverse of permute_to_N_A_K: [N, A, K] to maps [N, C*K, H, W]."""
    anchors_per_cell = flat.shape[1] // sum(height * width for height, width in map_sizes)
    maps, first = [], 0
    for height, width in map_sizes:
        count = anchors_per_cell * height * width
        level = flat[:, first : first + count].reshape(flat.shape[0], height, width, -1)  # [N, H, W, C*K]
        maps.append(level.permute(0, 3, 1, 2).contiguous())
        first += count
    return maps
