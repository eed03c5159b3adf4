"""The laws of retinanet/anchors/grid.py."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from retinanet.anchors.grid import STRIDES, Grid, build_grid, cell_anchors

Golden = Callable[[str], dict[str, Tensor]]
# The parameters under which our anchors are those of each peer.
PEERS: dict[str, dict[str, Any]] = {
    "yhenon": {},
    "mmdet_offset0": {"offset": 0.0},
    "torchvision": {"offset": 0.0, "rounded": True, "strides_from_image": True},
}

pixels = st.integers(1, 1500)


def test_anchors_of_a_cell_worked_by_hand() -> None:
    # ratio = h / w and w * h = 32 * 32, so ratio 1/4: w = 64, h = 16; ratio 1: 32 x 32; ratio 4: w = 16, h = 64
    cell = cell_anchors([32.0], [0.25, 1.0, 4.0])
    assert cell.tolist() == [[-32, -8, 32, 8], [-16, -16, 16, 16], [-8, -32, 8, 32]]
    assert cell.dtype == torch.float64


def test_rows_of_a_cell_go_ratio_by_ratio_and_within_it_size_by_size() -> None:
    cell = cell_anchors([32.0, 64.0], [1.0, 4.0])
    assert cell[:, 2].tolist() == [16, 32, 8, 16]  # half widths: 32, 64 at ratio 1, then at ratio 4


def test_rounded_corners_are_whole_pixels() -> None:
    # ratio 2 of side 32: w = 32 / sqrt(2) = 22.6, halves 11.3 -> 11; h = 45.3, halves 22.6 -> 23 (torchvision)
    assert cell_anchors([32.0], [2.0], rounded=True).tolist() == [[-11, -23, 11, 23]]
    # 32 * 2^(1/3) = 40.3 -> 40, 32 * 2^(2/3) = 50.8 -> 50
    assert build_grid(rounded=True).sizes[0] == (32, 40, 50)


def test_sizes_of_a_level_are_an_octave_from_base_scale_strides() -> None:
    grid = build_grid(base_scale=2.0, scales_per_octave=2)
    assert grid.sizes[0] == (16.0, 16.0 * math.sqrt(2))  # 2 strides of 8 px, and half an octave more
    assert grid.sizes[4][0] == 2 * 128
    assert grid.anchors_per_cell == 2 * 3


def test_given_sizes_win_over_base_scale() -> None:
    grid = build_grid(sizes=[[10], [20], [40], [80], [160]], aspect_ratios=[1.0])
    assert grid.anchors_per_cell == 1
    # the first cell of P3: centre (.5 * 8, .5 * 8), side 10
    assert grid.anchors((16, 16))[0].tolist() == [-1, -1, 9, 9]


def test_centres_lie_half_a_stride_inside_and_run_along_x_first() -> None:
    grid = build_grid(scales_per_octave=1, aspect_ratios=[1.0])  # one anchor per cell
    anchors = grid.anchors((24, 16))  # P3: 3 x 2 cells, P4: 2 x 1, then 1 each
    centres = ((anchors[:, :2] + anchors[:, 2:]) / 2).tolist()
    assert centres[:6] == [[4, 4], [12, 4], [4, 12], [12, 12], [4, 20], [12, 20]]
    assert centres[6:] == [[8, 8], [8, 24], [16, 16], [32, 32], [64, 64]]
    assert anchors.dtype == torch.float32


def test_strides_from_the_image_differ_where_the_side_is_no_multiple() -> None:
    grid = build_grid(scales_per_octave=1, aspect_ratios=[1.0], offset=0.0, strides_from_image=True)
    anchors = grid.anchors((800, 1216))[-7 * 10 :]  # P7: 7 x 10 cells; 800 // 7 = 114, 1216 // 10 = 121
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    assert centres[1].tolist() == [121, 0]
    assert centres[10].tolist() == [0, 114]


@pytest.mark.parametrize(
    ("image_size", "count"), [((64, 96), 1161), ((256, 256), 12276), ((333, 500), 31986), ((800, 1216), 182403)]
)
def test_number_of_anchors(golden: Golden, image_size: tuple[int, int], count: int) -> None:
    grid = build_grid()
    assert grid.anchors(image_size).shape == (count, 4)
    height, width = image_size
    assert grid.anchors_per_level(image_size) == golden("anchors")[f"yhenon_{height}x{width}__per_level"].tolist()


@given(height=pixels, width=pixels)
def test_cells_of_a_level_are_halvings_that_round_up(height: int, width: int) -> None:
    sides = [height, width]
    for level, cells in enumerate([None, None, *build_grid().map_sizes((height, width))]):
        sides = [(side + 1) // 2 for side in sides]
        assert cells is None or cells == tuple(sides), level


@pytest.mark.parametrize("peer", PEERS)
def test_anchors_are_those_of_the_peers(golden: Golden, peer: str) -> None:
    arrays = golden("anchors")
    # 1e-3 px: the peers add in float32, we round once
    assert_close(build_grid(**PEERS[peer]).anchors((64, 96)), arrays[f"{peer}_64x96"], rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("peer", "size"),
    [
        (peer, size)
        for peer in PEERS
        for size in ("256x256", "333x500", "800x1216")
        if (peer, size) != ("torchvision", "333x500")
    ]
    + [("torchvision", "352x512")],
)
def test_anchors_of_larger_images_are_those_of_the_peers(golden: Golden, peer: str, size: str) -> None:
    arrays = golden("anchors")
    height, width = (int(side) for side in size.split("x"))
    anchors = build_grid(**PEERS[peer]).anchors((height, width))
    rows, values = arrays[f"{peer}_{size}__rows"].long(), arrays[f"{peer}_{size}__values"]
    assert len(anchors) == arrays[f"{peer}_{size}__count"]
    assert_close(anchors[rows], values, rtol=0, atol=1e-3)
    assert_close(anchors.double().sum(0), arrays[f"{peer}_{size}__sum64"], rtol=1e-6, atol=1.0)
    assert_close(anchors.double().square().sum(0), arrays[f"{peer}_{size}__sumsq64"], rtol=1e-6, atol=1.0)


def test_a_larger_image_holds_the_anchors_of_a_smaller_one() -> None:
    grid = build_grid()
    small, large = grid.anchors((128, 128)), {tuple(row) for row in grid.anchors((256, 384)).tolist()}
    assert all(tuple(row) in large for row in small.tolist())


@pytest.mark.parametrize("parameters", [{}, PEERS["torchvision"], {"sizes": [[9.5, 12]] * 5, "aspect_ratios": [0.7]}])
def test_a_grid_survives_its_way_through_json(parameters: dict[str, Any]) -> None:
    grid = build_grid(**parameters)
    again = Grid.from_dict(json.loads(json.dumps(grid.to_dict())))
    assert again == grid
    assert torch.equal(again.anchors((70, 90)), grid.anchors((70, 90)))


def test_anchors_of_a_size_are_made_once_and_not_all_sizes_are_kept() -> None:
    grid = build_grid(scales_per_octave=1)
    assert grid.anchors((96, 64)) is grid.anchors((96, 64))
    first = grid.anchors((8, 8))
    # multi-scale training meets hundreds of sizes of a few MB each
    for side in range(9, 109):
        grid.anchors((side, 8))
    assert grid.anchors((8, 8)) is not first


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"sizes": [[32], [64], [128]]}, r"sizes has 3 entries.*5 levels"),
        ({"scales_per_octave": None}, r"sizes or scales_per_octave"),
    ],
)
def test_a_grid_that_fits_no_pyramid_is_refused(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_grid(**parameters)


def test_one_anchor_list_per_stride_of_the_pyramid() -> None:
    assert STRIDES == (8, 16, 32, 64, 128) == build_grid().strides


@given(
    image_size=st.tuples(st.integers(33, 300), st.integers(33, 300)),
    offset=st.sampled_from([0.0, 0.25, 0.5]),
    flags=st.tuples(st.booleans(), st.booleans()),
)
def test_shapes_of_a_grid_give_its_anchors(
    image_size: tuple[int, int], offset: float, flags: tuple[bool, bool]
) -> None:
    grid = build_grid(offset=offset, rounded=flags[0], strides_from_image=flags[1])
    anchors, shapes = grid.anchors(image_size), grid.shapes(image_size)
    assert len(shapes.first) == 5 * grid.anchors_per_cell
    for shape, (corners, origin, stride, cells, first) in enumerate(zip(*shapes[:5], strict=True)):
        num_x, num_y = cells.tolist()
        assert (num_y, num_x) == grid.map_sizes(image_size)[shape // grid.anchors_per_cell]
        x, y = num_x - 1, num_y // 2
        centre = origin + stride * torch.tensor([x, y])
        found = anchors[first + shapes.anchors_per_cell * (y * num_x + x)]
        assert torch.equal((centre.repeat(2) + corners).float(), found)
