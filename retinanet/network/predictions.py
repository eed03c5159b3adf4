"""Raw head outputs, one map per pyramid level.

Criterion and post-processing work on these maps directly, because permuting and concatenating hundreds of megabytes of
logits costs more than the loss itself. An anchor is named by its flat index (0..A-1) or by its location on a map.
"""

from __future__ import annotations

from collections.abc import Sequence
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


class AnchorLocations(NamedTuple):
    """Locations of anchors on the map of one level.

    Attributes:
        rows: [R] indices into the list of anchors that was given.
        image, cell_anchor, y, x: [R] each; cell_anchor is 0..C-1.
    """

    rows: Tensor
    image: Tensor
    cell_anchor: Tensor
    y: Tensor
    x: Tensor


def locate_on_level(
    image: Tensor, anchor: Tensor, *, level: int, map_sizes: Sequence[tuple[int, int]], anchors_per_cell: int
) -> AnchorLocations:
    """Locate the anchors of a list that belong to one level.

    Args:
        image, anchor: [F] index of the image, flat index of the anchor.
        map_sizes: cells (H, W) of every level.
    """
    counts = [anchors_per_cell * height * width for height, width in map_sizes]
    first = sum(counts[:level])
    rows = torch.nonzero((anchor >= first) & (anchor < first + counts[level]))[:, 0]
    local = anchor[rows] - first
    cell = torch.div(local, anchors_per_cell, rounding_mode="floor")
    width = map_sizes[level][1]
    return AnchorLocations(
        rows=rows,
        image=image[rows],
        cell_anchor=local % anchors_per_cell,
        y=torch.div(cell, width, rounding_mode="floor"),
        x=cell % width,
    )


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
