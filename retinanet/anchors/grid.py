"""The anchor grid over the levels of the feature pyramid (paper, section 4, "Anchors").

Rows are ordered level by level, within a level by y, then x, then the C anchors of a cell; within a cell ratio by
ratio, each with all sizes. A ratio is height / width, so w = sqrt(area / ratio) and h = w * ratio.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

STRIDES = (8, 16, 32, 64, 128)  # px, of P3..P7
# Image sizes whose anchors are cached, 3 MB each at 800 x 1333 px. Multi-scale training has hundreds of sizes: those of
# a new one are made in 3 ms.
CACHED_SIZES = 32


class Shapes(NamedTuple):
    """The anchor grid by shape: the anchors of one shape on one level form a regular grid; S = L * C, level by level.

    Attributes:
        corners: [S, 4] float64 px, around the centre of a cell.
        origins: [S, 2] float64 px, x and y of the first cell's centre.
        strides: [S, 2] float64 px from cell to cell in x and y.
        cells: [S, 2] int64, in x and y.
        first: [S] int64 flat index of the first cell's anchor; the next in x is C further, in y C * cells in x.
        anchors_per_cell: C.
    """

    corners: Tensor
    origins: Tensor
    strides: Tensor
    cells: Tensor
    first: Tensor
    anchors_per_cell: int


@dataclass(frozen=True)
class Grid:
    """The anchor grid of every level; anchors.json stores it.

    Attributes:
        strides: px per cell, per level.
        sizes: sides in px, per level.
        aspect_ratios: height / width.
        offset: centre of a level's first anchor, in strides.
        rounded: sizes and corners are whole pixels, as in torchvision.
        strides_from_image: stride = padded side // map side, as in torchvision, which differs from 2^level wherever
            the side is no multiple of it.
    """

    strides: tuple[int, ...]
    sizes: tuple[tuple[float, ...], ...]
    aspect_ratios: tuple[float, ...]
    offset: float = 0.5
    rounded: bool = False
    strides_from_image: bool = False

    @property
    def anchors_per_cell(self) -> int:
        """C, the same on every level."""
        return len(self.sizes[0]) * len(self.aspect_ratios)

    def map_sizes(self, image_size: tuple[int, int]) -> list[tuple[int, int]]:
        """Cells (H, W) per level of an image of H x W px: each halving of a side rounds up."""
        height, width = image_size
        return [(-(-height // stride), -(-width // stride)) for stride in self.strides]

    def anchors_per_level(self, image_size: tuple[int, int]) -> list[int]:
        """Number of anchors of each level."""
        return [self.anchors_per_cell * height * width for height, width in self.map_sizes(image_size)]

    def anchors(self, image_size: tuple[int, int], device: torch.device | str = "cpu") -> Tensor:
        """All anchors of an image of that (padded) size.

        Returns:
            [A, 4] float32, px, not clipped to the image. Cached per size and device: do not write into it.
        """
        return _anchors(self, image_size, torch.device(device))

    def shapes(self, image_size: tuple[int, int], device: torch.device | str = "cpu") -> Shapes:
        """The same anchors by shape. Cached per size and device: do not write into them."""
        return _shapes(self, image_size, torch.device(device))

    def strides_on(self, level: int, image_size: tuple[int, int]) -> tuple[int, int]:
        """Distance between neighbouring anchors in y and in x, px."""
        if not self.strides_from_image:
            return self.strides[level], self.strides[level]
        height, width = self.map_sizes(image_size)[level]
        return image_size[0] // height, image_size[1] // width

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for anchors.json."""
        return {
            "strides": list(self.strides),
            "sizes": [list(level) for level in self.sizes],
            "aspect_ratios": list(self.aspect_ratios),
            "offset": self.offset,
            "rounded": self.rounded,
            "strides_from_image": self.strides_from_image,
        }

    @staticmethod
    def from_dict(content: Mapping[str, Any]) -> Grid:
        """The inverse of to_dict."""
        return Grid(
            strides=tuple(content["strides"]),
            sizes=tuple(tuple(level) for level in content["sizes"]),
            aspect_ratios=tuple(content["aspect_ratios"]),
            offset=content["offset"],
            rounded=content["rounded"],
            strides_from_image=content["strides_from_image"],
        )


def build_grid(
    *,
    base_scale: float = 4.0,
    scales_per_octave: int | None = 3,
    sizes: Sequence[Sequence[float]] | None = None,
    aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
    offset: float = 0.5,
    rounded: bool = False,
    strides_from_image: bool = False,
) -> Grid:
    """Build the grid over P3..P7 from the parameters of section `anchors`; sizes override base_scale."""
    if sizes is None:
        if scales_per_octave is None:
            raise ValueError("anchors need sizes or scales_per_octave; give one of them")
        octave = [2.0 ** (i / scales_per_octave) for i in range(scales_per_octave)]
        sizes = [[base_scale * stride * factor for factor in octave] for stride in STRIDES]
    if len(sizes) != len(STRIDES):
        raise ValueError(
            f"anchors.sizes has {len(sizes)} entries, but the pyramid has 5 levels (P3..P7); give one list per level"
        )
    if rounded:
        sizes = [[float(int(side)) for side in level] for level in sizes]
    return Grid(
        strides=STRIDES,
        sizes=tuple(tuple(float(side) for side in level) for level in sizes),
        aspect_ratios=tuple(float(ratio) for ratio in aspect_ratios),
        offset=offset,
        rounded=rounded,
        strides_from_image=strides_from_image,
    )


def cell_anchors(sizes: Sequence[float], aspect_ratios: Sequence[float], *, rounded: bool = False) -> Tensor:
    """The anchors of one cell, centred at the origin.

    Args:
        sizes: sides in px of the square anchor of the same area.
        aspect_ratios: height / width.

    Returns:
        [C, 4] float64, px, so that they are rounded to float32 only once, after the centres are added.
    """
    side = torch.tensor(sizes, dtype=torch.float64)
    ratio = torch.tensor(aspect_ratios, dtype=torch.float64)
    # area = s * s and h = w * ratio, so w = s / sqrt(ratio)
    widths = (side[None, :] / ratio.sqrt()[:, None]).flatten()  # [C], ratio by ratio
    heights = (side[None, :] * ratio.sqrt()[:, None]).flatten()
    corners = torch.stack([-widths, -heights, widths, heights], dim=1) / 2
    return corners.round() if rounded else corners


@lru_cache(maxsize=CACHED_SIZES)
def _anchors(grid: Grid, image_size: tuple[int, int], device: torch.device) -> Tensor:
    """All anchors of a grid; see Grid.anchors."""
    levels = []
    for level, (height, width) in enumerate(grid.map_sizes(image_size)):
        stride_y, stride_x = grid.strides_on(level, image_size)
        cell = cell_anchors(grid.sizes[level], grid.aspect_ratios, rounded=grid.rounded)  # [C, 4]
        # The rows of a map share their y, the columns their x: H + W sums instead of H * W.
        y = spread(height, stride_y, grid.offset, cell[:, 1::2])  # [H, C, 2]
        x = spread(width, stride_x, grid.offset, cell[:, 0::2])  # [W, C, 2]
        anchors = torch.empty(height, width, len(cell), 4)
        anchors[..., 0::2] = x
        anchors[..., 1::2] = y[:, None]
        levels.append(anchors.view(-1, 4))
    return torch.cat(levels).to(device)


def spread(cells: int, stride: int, offset: float, edges: Tensor) -> Tensor:
    """Low and high edges of the anchors along one axis.

    Args:
        edges: [C, 2] float64, of the anchors of a cell around its centre.

    Returns:
        [cells, C, 2] float32 px.
    """
    centres = (torch.arange(cells, dtype=torch.float64) + offset) * stride
    return (centres[:, None, None] + edges).float()


@lru_cache(maxsize=CACHED_SIZES)
def _shapes(grid: Grid, image_size: tuple[int, int], device: torch.device) -> Shapes:
    """The shapes of a grid; see Grid.shapes."""
    per_cell, sizes, first = grid.anchors_per_cell, grid.map_sizes(image_size), 0
    corners, rows = [], []
    for level, (height, width) in enumerate(sizes):
        stride_y, stride_x = grid.strides_on(level, image_size)
        corners.append(cell_anchors(grid.sizes[level], grid.aspect_ratios, rounded=grid.rounded))
        rows += [[stride_x, stride_y, width, height, first + c] for c in range(per_cell)]
        first += per_cell * height * width
    table = torch.tensor(rows)  # [S, 5]
    strides = table[:, :2].double()
    return Shapes(
        corners=torch.cat(corners).to(device),
        origins=(grid.offset * strides).to(device),
        strides=strides.to(device),
        cells=table[:, 2:4].to(device),
        first=table[:, 4].to(device),
        anchors_per_cell=per_cell,
    )
