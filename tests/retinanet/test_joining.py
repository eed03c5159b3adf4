"""Laws of joining the detections of a picture's tiles."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import batched_nms

from retinanet.data.tiles import Tiles, cut_boxes
from retinanet.inference.joining import TileDetections, join_pictures, join_tiles
from retinanet.inference.postprocess import Detections

Window = tuple[int, int, int, int]
LEFT, RIGHT = (0, 0, 40, 40), (20, 0, 60, 40)  # they share x from 20 to 40
Found = tuple[Sequence[float], float, int]  # box in px of the picture, score, label


def tile(window: Window, *found: Found, image_id: int = 1) -> TileDetections:
    """Detections, best first, given in px of the picture."""
    best_first = sorted(found, key=lambda each: -each[1])
    boxes = torch.tensor([list(box) for box, _, _ in best_first], dtype=torch.float32).reshape(-1, 4)
    shift = torch.tensor([*window[:2], *window[:2]], dtype=torch.float32)
    scores, labels = (torch.tensor([each[i] for each in best_first]) for i in (1, 2))
    return TileDetections(image_id, window, Detections(boxes - shift, scores.float(), labels.long()))


def join(*tiles: TileDetections, nms_iou: float = 0.5, most: int | None = 100) -> list[tuple[list[float], float, int]]:
    joined = join_tiles(tiles, nms_iou=nms_iou, max_detections=most)
    rows = zip(joined.boxes.tolist(), joined.scores.tolist(), joined.labels.tolist(), strict=True)
    return [(box, pytest.approx(score), label) for box, score, label in rows]


# ---- by hand ---------------------------------------------------------------------------------------------------------


def test_object_that_two_tiles_show_whole_is_one_with_the_box_of_the_better() -> None:
    first, second = ([22, 10, 32, 20], 0.6, 0), ([23, 10, 33, 20], 0.8, 0)  # IoU 90 / 110
    assert join(tile(LEFT, first), tile(RIGHT, second)) == [([23, 10, 33, 20], 0.8, 0)]


@pytest.mark.parametrize("scores", [(0.9, 0.6), (0.6, 0.9)])
def test_part_of_an_object_that_another_tile_shows_whole_is_joined_with_it(scores: tuple[float, float]) -> None:
    # The right tile shows x from 20 on: IoU of the part with the whole 200 / 400, in the shared region 1.
    whole, part = ([10, 10, 30, 30], scores[0], 2), ([20, 10, 30, 30], scores[1], 2)
    assert join(tile(LEFT, whole), tile(RIGHT, part)) == [([10, 10, 30, 30], 0.9, 2)]


def test_object_larger_than_the_overlap_is_put_together_from_its_parts() -> None:
    # No tile shows it whole; both show x from 20 to 40.
    parts = tile(LEFT, ([5, 10, 40, 20], 0.7, 0)), tile(RIGHT, ([20, 9, 55, 20], 0.8, 0))
    assert join(*parts) == [([5, 9, 55, 20], 0.8, 0)]  # top and right as the better one saw them


def test_object_across_three_tiles_is_joined_through_the_middle_one() -> None:
    last = (40, 0, 80, 40)  # it shares nothing with the first
    outer = tile(LEFT, ([5, 10, 40, 20], 0.9, 0)), tile(last, ([40, 10, 70, 20], 0.8, 0))
    assert join(*outer, tile(RIGHT, ([20, 10, 60, 20], 0.3, 0))) == [([5, 10, 70, 20], 0.9, 0)]
    assert len(join(*outer)) == 2


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (([5, 5, 35, 35], 0.9, 0), ([22, 22, 28, 28], 0.8, 0)),  # inside another: IoU 36 / 450 where both tiles look
        (([10, 10, 23, 20], 0.9, 0), ([22, 10, 32, 20], 0.8, 0)),  # beside: 10 / 120; SAHI's measure is 10 / 30 there
        (([10, 10, 20, 20], 0.9, 0), ([20, 10, 30, 20], 0.8, 0)),  # touching
        (([22, 10, 32, 20], 0.9, 0), ([22, 10, 32, 20], 0.8, 1)),  # of another class
        (([2, 10, 12, 20], 0.9, 0), ([45, 10, 55, 20], 0.8, 0)),  # outside the shared region
    ],
)
def test_different_objects_stay_two(first: Found, second: Found) -> None:
    assert join(tile(LEFT, first), tile(RIGHT, second)) == [first, second]


def test_detections_of_one_tile_are_not_joined_with_each_other() -> None:
    # IoU 80 / 120: they would be one under another threshold than that of the tile itself.
    pair = ([22, 10, 32, 20], 0.9, 0), ([24, 10, 34, 20], 0.8, 0)
    assert join(tile(LEFT, *pair), tile(RIGHT)) == list(pair)


def test_picture_keeps_its_best_detections() -> None:
    found = [([10.0 * i, 0.0, 10.0 * i + 5, 5.0], 0.9 - 0.1 * i, i % 2) for i in range(4)]
    assert join(tile(LEFT, *found[:2]), tile((20, 0, 60, 40), *found[2:]), most=3) == found[:3]
    assert join(tile(LEFT), tile(RIGHT), most=3) == []


def test_single_tile_is_not_changed() -> None:
    own = Detections(torch.tensor([[0.1, 0.2, 3.3, 4.4]] * 3), torch.tensor([0.5] * 3), torch.tensor([2, 0, 1]))
    assert join_tiles([TileDetections(1, (0, 0, 9, 9), own)], nms_iou=0.5, max_detections=100) is own


def test_tiles_are_joined_picture_by_picture() -> None:
    found = ([22, 10, 32, 20], 0.5, 0)
    tiles = [tile(window, found, image_id=image_id) for image_id in (7, 3) for window in (LEFT, RIGHT)]
    joined = list(join_pictures(iter(tiles), nms_iou=0.5, max_detections=100))
    assert [(image_id, len(detections.scores)) for image_id, detections in joined] == [(7, 1), (3, 1)]


# ---- laws ------------------------------------------------------------------------------------------------------------

CUTS = st.builds(
    Tiles, st.lists(st.integers(20, 60), min_size=2, max_size=2), st.floats(0.05, 0.8), min_visible=st.just(0.0)
)


@st.composite
def objects_apart(draw: st.DrawFn) -> Tensor:
    """Boxes of a picture of 100 x 140 px that do not overlap; they may be larger than a tile: [M, 4]."""
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    boxes = []
    for row in range(rows):
        for column in range(columns):
            x, y = 140 // columns * column, 100 // rows * row
            left, right = sorted(draw(st.lists(st.integers(0, 140 // columns), min_size=2, max_size=2, unique=True)))
            top, bottom = sorted(draw(st.lists(st.integers(0, 100 // rows), min_size=2, max_size=2, unique=True)))
            boxes.append([x + left, y + top, x + right, y + bottom])
    return torch.tensor(boxes, dtype=torch.float32)


def perfect(boxes: Tensor, tiles: Tiles, seed: int) -> list[TileDetections]:
    """What a detector without error finds on every tile: each object as far as the tile shows it."""
    windows = tiles.windows((100, 140))
    cut, kept = cut_boxes(boxes, windows, 0.0)
    drawn = torch.Generator().manual_seed(seed)
    scores = torch.where(kept, torch.rand(kept.shape, generator=drawn), 0.0)
    found = []
    for window, own, score in zip(windows.tolist(), cut, scores, strict=True):
        order = score.argsort(descending=True)[: int((score > 0).sum())]
        found.append(TileDetections(1, tuple(window), Detections(own[order], score[order], torch.zeros_like(order))))
    return found


@given(objects_apart(), CUTS, st.integers(0, 100))
def test_joined_detections_of_a_perfect_detector_are_the_objects(boxes: Tensor, tiles: Tiles, seed: int) -> None:
    joined = join_tiles(perfect(boxes, tiles, seed), nms_iou=0.5, max_detections=None)
    assert sorted(joined.boxes.tolist()) == sorted(boxes.tolist())
    assert bool((joined.scores.diff() <= 0).all())


@settings(max_examples=30)
@given(st.integers(0, 1000), st.integers(2, 4), st.sampled_from([3, None]))
def test_order_of_the_tiles_changes_nothing(seed: int, num_tiles: int, most: int | None) -> None:
    tiles = [equalise(each) for each in anything(seed, [(20 * i, 0, 20 * i + 40, 40) for i in range(num_tiles)])]
    shuffled = random.Random(seed).sample(tiles, len(tiles))
    first, second = (join_tiles(each, nms_iou=0.5, max_detections=most) for each in (tiles, shuffled))
    assert all(torch.equal(*fields) for fields in zip(first, second, strict=True))


@given(st.integers(0, 1000), st.sampled_from([0.3, 0.5, 0.7]), st.sampled_from([5, 100]))
def test_where_both_tiles_look_joining_is_non_maximum_suppression(seed: int, nms_iou: float, most: int) -> None:
    tiles = anything(seed, [(0, 0, 40, 40), (0, 0, 41, 40)], nms_iou=nms_iou)
    joined = join_tiles(tiles, nms_iou=nms_iou, max_detections=most)
    boxes, scores, labels = (torch.cat(fields) for fields in zip(*(each.detections for each in tiles), strict=True))
    kept = batched_nms(boxes.double(), scores.double(), labels, nms_iou)[:most]
    assert torch.equal(joined.boxes, boxes[kept]) and torch.equal(joined.scores, scores[kept])
    assert torch.equal(joined.labels, labels[kept])


def equalise(found: TileDetections) -> TileDetections:
    """With many equal scores."""
    return found._replace(detections=found.detections._replace(scores=(found.detections.scores * 50).ceil() / 50))


def anything(seed: int, windows: Sequence[Window], *, nms_iou: float = 0.5) -> list[TileDetections]:
    """Random detections within 40 x 40 px of each tile, suppressed and best first, all scores different."""
    drawn = torch.Generator().manual_seed(seed)
    scores = 0.01 + torch.randperm(20 * len(windows), generator=drawn) / 1000
    found = []
    for window, own in zip(windows, scores.split(20), strict=True):
        low = torch.rand(20, 2, generator=drawn) * 25
        boxes = torch.cat([low, low + 5 + 10 * torch.rand(20, 2, generator=drawn)], dim=1)
        labels = torch.randint(0, 2, (20,), generator=drawn)
        kept = batched_nms(boxes.double(), own.double(), labels, nms_iou)
        found.append(TileDetections(1, window, Detections(boxes[kept], own[kept], labels[kept])))
    return found
