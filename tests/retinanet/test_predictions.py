"""The laws of retinanet/network/predictions.py."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retinanet.anchors.grid import build_grid
from retinanet.network.predictions import locate_anchors, permute_from_N_A_K, permute_to_N_A_K

MAP_SIZES = [(2, 3), (1, 2), (1, 1)]
C, K = 2, 3
A = C * sum(height * width for height, width in MAP_SIZES)  # 2 * (6 + 2 + 1) = 18


def test_channels_hold_anchor_by_anchor_all_classes() -> None:
    level = torch.arange(C * K * 6.0).reshape(1, C * K, 2, 3)  # value = channel * 6 + y * 3 + x
    flat = permute_to_N_A_K([level], K)
    assert flat.shape == (1, 12, 3)
    # row 0: cell (0, 0), anchor 0, channels 0..2; row 1: the same cell, anchor 1, channels 3..5
    assert flat[0, 0].tolist() == [0, 6, 12]
    assert flat[0, 1].tolist() == [18, 24, 30]
    # row 2: one cell further along x; row 2 * 3: one cell further along y
    assert flat[0, 2].tolist() == [1, 7, 13]
    assert flat[0, 6].tolist() == [3, 9, 15]


@pytest.mark.parametrize("channels_last", [False, True])
def test_flattening_and_its_inverse_cancel(generator: torch.Generator, channels_last: bool) -> None:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    maps = [torch.randn(2, C * K, *size, generator=generator).contiguous(memory_format=layout) for size in MAP_SIZES]
    flat = permute_to_N_A_K(maps, K)
    assert flat.shape == (2, A, K)
    again = permute_from_N_A_K(flat, MAP_SIZES)
    assert all(torch.equal(first, second) for first, second in zip(again, maps, strict=True))


def test_levels_follow_each_other_as_the_anchors_do() -> None:
    grid = build_grid()
    image_size = (64, 96)
    maps = [torch.full((1, 9, *size), float(level)) for level, size in enumerate(grid.map_sizes(image_size))]
    levels = permute_to_N_A_K(maps, 1)[0, :, 0]
    assert levels.long().bincount().tolist() == grid.anchors_per_level(image_size)
    assert (levels.diff() >= 0).all()


@given(anchors=st.lists(st.tuples(st.integers(0, 1), st.integers(0, A - 1)), max_size=20))
def test_locations_and_flat_indices_name_the_same_anchors(anchors: list[tuple[int, int]]) -> None:
    image = torch.tensor([image for image, _ in anchors], dtype=torch.int64)
    anchor = torch.tensor([index for _, index in anchors], dtype=torch.int64)
    flat = torch.arange(2.0 * A * K).reshape(2, A, K)
    located, order = locate_anchors(image, anchor, map_sizes=MAP_SIZES, anchors_per_cell=C)
    assert sorted(order.tolist()) == list(range(len(anchors)))
    assert torch.equal(located.image, image[order]) and torch.equal(located.anchor, anchor[order])
    found = [
        level_map.unflatten(1, (C, K))[at.image, at.cell_anchor, :, at.y, at.x]
        for level_map, at in zip(permute_from_N_A_K(flat, MAP_SIZES), located.levels(), strict=True)
    ]
    assert torch.equal(torch.cat(found), flat[located.image, located.anchor])


def test_location_of_an_anchor_worked_by_hand() -> None:
    # Anchor 9 of level 0 (2 x 3 cells of 2): cell 4, so y 1, x 1, anchor 1. Anchor 12 + 3: level 1, cell 1, anchor 1.
    image, anchor = torch.tensor([1, 0, 1]), torch.tensor([15, 9, 8])
    located, order = locate_anchors(image, anchor, map_sizes=MAP_SIZES, anchors_per_cell=C)
    assert located.counts[:2] == [2, 1] and sum(located.counts) == 3
    assert order.tolist() == [1, 2, 0]  # level by level, in the given order
    first, second, *_ = located.levels()
    assert [field.tolist() for field in first[:4]] == [[0, 1], [1, 0], [1, 1], [1, 1]]
    assert [field.tolist() for field in second[:4]] == [[1], [1], [0], [1]]
