"""Laws of tiles: where they lie, which boxes they keep, and that they are views of their pictures."""

from __future__ import annotations

import pickle
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.ops import clip_boxes_to_image

from retinanet.data import splits
from retinanet.data.dataset import Batch, EvaluationBatches, TrainingBatches, seed_of, whole_pictures
from retinanet.data.records import Records
from retinanet.data.splits import Split, load_split
from retinanet.data.tiles import Tiles, cut_boxes, cut_record, cut_records, starts
from retinanet.data.transforms import Transforms
from tests.small_world import SIZES, SmallWorld

TILES = Tiles(size=[40, 48], overlap=0.25)
TRANSFORMS = Transforms(short_side=[48, 64], long_side=96, brightness=0.3, tiles=TILES)
ANY = st.builds(Tiles, st.integers(20, 60), st.floats(0, 0.6), st.floats(0, 1))


@pytest.fixture
def whole(small_world: SmallWorld) -> Split:
    return load_split(small_world.train)


# ---- where they lie --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "tile", "overlap", "expected"),
    [
        (40, 40, 0.2, [0]),
        (30, 40, 0.2, [0]),
        (41, 40, 0.2, [0, 1]),
        (72, 40, 0.2, [0, 32]),  # 40 + 32 = 72
        (73, 40, 0.2, [0, 16, 33]),  # 33 px in two steps of at most 32
        (100, 25, 0.0, [0, 25, 50, 75]),
        (4000, 512, 0.2, [0, 387, 775, 1162, 1550, 1937, 2325, 2712, 3100, 3488]),  # 3488 px in 9 steps of at most 409
    ],
)
def test_tiles_begin_at_even_distances(length: int, tile: int, overlap: float, expected: list[int]) -> None:
    assert starts(length, tile, overlap) == expected


@given(st.integers(1, 500), st.integers(1, 100), st.floats(0, 0.9))
def test_tiles_reach_from_edge_to_edge_and_overlap_enough(length: int, tile: int, overlap: float) -> None:
    begins = starts(length, tile, overlap)
    assert begins[0] == 0 and begins[-1] == max(0, length - tile)
    step = max(1, int(tile * (1 - overlap)))
    assert all(0 < after - before <= step for before, after in pairwise(begins))
    # With one tile less they could not.
    assert len(begins) == 1 or (len(begins) - 2) * step < length - tile


def test_windows_lie_row_by_row_and_have_one_size() -> None:
    assert Tiles(40, overlap=0.2).windows((72, 50)).tolist() == [
        [0, 0, 40, 40],
        [10, 0, 50, 40],
        [0, 32, 40, 72],
        [10, 32, 50, 72],
    ]
    assert Tiles([20, 100]).windows((20, 50)).tolist() == [[0, 0, 50, 20]]


# ---- which boxes they keep -------------------------------------------------------------------------------------------


def test_a_tile_keeps_a_box_of_which_it_shows_enough() -> None:
    windows = torch.tensor([[0, 0, 40, 40], [30, 0, 70, 40]])
    boxes = torch.tensor(
        [
            [10.0, 5, 20, 15],  # in the first only
            [20, 0, 40, 10],  # whole in the first, half in the second
            [13, 0, 33, 10],  # whole in the first, 3 of 20 px in the second: less than a quarter
            [0, 10, 70, 30],  # 40 of 70 px in each
            [32, 10, 38, 20],  # whole in both
        ]
    )
    cut, kept = cut_boxes(boxes, windows, 0.25)
    assert kept.tolist() == [[True, True, True, True, True], [False, True, False, True, True]]
    assert cut[0].tolist() == [[10, 5, 20, 15], [20, 0, 40, 10], [13, 0, 33, 10], [0, 10, 40, 30], [32, 10, 38, 20]]
    assert cut[1, [1, 3, 4]].tolist() == [[0, 0, 10, 10], [0, 10, 40, 30], [2, 10, 8, 20]]


def test_example_of_the_documentation() -> None:
    windows = Tiles(512).windows((512, 4000))[:2]
    assert windows.tolist() == [[0, 0, 512, 512], [387, 0, 899, 512]]
    cut, kept = cut_boxes(torch.tensor([[500.0, 0, 540, 40], [505, 0, 545, 40]]), windows, 0.25)
    assert kept.tolist() == [[True, False], [True, True]]
    assert cut[0, 0].tolist() == [500, 0, 512, 40]


def test_the_tile_that_shows_the_most_of_a_box_keeps_it_however_little_that_is() -> None:
    # 200 x 200 px, of which a tile of 20 x 20 shows at most a hundredth.
    _, kept = cut_boxes(torch.tensor([[0.0, 0, 200, 200]]), torch.tensor([[190, 0, 210, 20], [90, 90, 110, 110]]), 0.25)
    assert kept.tolist() == [[False], [True]]


@given(ANY, st.integers(0, 1000))
def test_every_box_stays_in_a_tile_and_where_it_stays_it_is_clipped(tiles: Tiles, seed: int) -> None:
    drawn = torch.Generator().manual_seed(seed)
    low = torch.rand(20, 2, generator=drawn) * torch.tensor([80.0, 60.0])
    boxes = torch.cat([low, low + 0.1 + (torch.tensor([89.0, 69.0]) - low) * torch.rand(20, 2, generator=drawn)], dim=1)
    windows = tiles.windows((70, 90))
    cut, kept = cut_boxes(boxes, windows, tiles.min_visible)
    assert bool(kept.any(dim=0).all())
    for (left, top, right, bottom), own, here in zip(windows.tolist(), cut, kept, strict=True):
        shift = torch.tensor([left, top, left, top])
        expected = clip_boxes_to_image(boxes[here] - shift, (bottom - top, right - left))
        torch.testing.assert_close(own[here], expected, rtol=0, atol=1e-4)
        assert bool((own[here, 2:] > own[here, :2]).all())


@given(ANY, st.integers(0, 1000))
def test_an_object_that_fits_into_the_overlap_is_whole_in_a_tile(tiles: Tiles, seed: int) -> None:
    assert isinstance(tiles.size, int)
    side = tiles.size - max(1, int(tiles.size * (1 - tiles.overlap)))  # px that adjacent tiles share at least
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0, 200 - side), rng.uniform(0, 150 - side)
    windows = tiles.windows((150, 200)).double()
    box = torch.tensor([x, y, x + side, y + side], dtype=torch.float64)
    holds = (windows[:, :2] <= box[:2] + 1e-9).all(dim=1) & (windows[:, 2:] >= box[2:] - 1e-9).all(dim=1)
    assert bool(holds.any())


def test_tiles_without_boxes_stay(whole: Split) -> None:
    cut = whole.tiled(TILES).records
    assert sum(len(record.labels) == 0 for record in cut) > 0
    assert set(cut.image_ids.tolist()) == set(whole.records.image_ids.tolist())
    assert len(cut) == sum(len(TILES.windows(size)) for size in SIZES)


def test_records_of_tiles_are_the_tiles_of_each_record(whole: Split) -> None:
    expected = [tile for record in whole.records for tile in cut_record(record, TILES)]
    packed = list(cut_records(whole.pictures, TILES))
    for own, other in zip(packed, expected, strict=True):
        assert torch.equal(own.boxes, other.boxes) and torch.equal(own.labels, other.labels)
        assert [getattr(own, name) for name in ("image_id", "path", "size", "sha256", "corner")] == [
            getattr(other, name) for name in ("image_id", "path", "size", "sha256", "corner")
        ]


def test_no_pictures_no_tiles(small_world: SmallWorld) -> None:
    empty = cut_records(Records({**small_world.content(), "images": [], "annotations": []}), TILES)
    assert len(empty) == 0 and empty.boxes.shape == (0, 4) and empty.sizes.shape == (0, 2)


# ---- their pixels ----------------------------------------------------------------------------------------------------


def test_tiles_are_views_of_the_picture_at_their_place(whole: Split) -> None:
    split = whole.tiled(TILES)
    for index, record in enumerate(split.records):
        picture = whole.picture(int(split.records.pictures[index]))
        (top, left), (height, width) = record.corner, record.size
        assert torch.equal(split.picture(index), picture[:, top : top + height, left : left + width])
    first, second = split.picture(0), split.picture(1)  # of one picture
    assert first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each picture is decoded."""
    counts: Counter[str] = Counter()
    read = splits.read_picture
    monkeypatch.setattr(
        splits, "read_picture", lambda path, **options: (counts.update([Path(path).name]), read(path, **options))[1]
    )
    return counts


def test_evaluation_decodes_every_picture_once(whole: Split, decoded: Counter[str]) -> None:
    batches = EvaluationBatches(whole, TRANSFORMS, batch_size=2)
    assert sum(len(batches[i].image_ids) for i in range(len(batches))) > 2 * len(SIZES)
    assert set(decoded.values()) == {1} and len(decoded) == len(SIZES)


def test_cache_holds_pictures_and_is_shared_by_every_cut_of_a_split(
    small_world: SmallWorld, decoded: Counter[str]
) -> None:
    split = load_split(small_world.train, keep_bytes=43_008)  # the first three, see test_splits
    assert split.tiled(TILES).num_kept == 3
    for tiles in (TILES, TILES, None):
        shown = split.tiled(tiles)
        order = sorted(range(len(shown.records)), key=lambda i: int(shown.records.pictures[i]) < 3)
        for index in order:
            shown.picture(index)
    assert [decoded[f"{number}.png"] for number in range(4)] == [1, 1, 1, 3]


def test_tiled_split_travels_without_pictures(whole: Split) -> None:
    split = whole.tiled(TILES)
    split.picture(0)
    there = pickle.loads(pickle.dumps(split))
    assert there._last is None
    assert torch.equal(there.picture(1), split.picture(1))


def test_tiles_of_a_jpeg_are_cut_from_all_of_its_pixels(tmp_path: Path) -> None:
    Image.effect_noise((128, 128), 40).convert("RGB").save(tmp_path / "a.jpg")
    image = {"id": 1, "file_name": "a.jpg", "width": 128, "height": 128}
    split = Split({"info": {"root": str(tmp_path)}, "images": [image], "annotations": [], "categories": []})
    assert split.picture(0, 2).shape == (3, 64, 64)
    assert split.tiled(Tiles(100)).picture(0, 2).shape == (3, 100, 100)
    assert split.tiled(Tiles(128)).picture(0, 2).shape == (3, 64, 64)  # one tile: the picture itself


# ---- batches ---------------------------------------------------------------------------------------------------------


def assert_equal(first: Batch, second: Batch) -> None:
    for own, other in zip(first, second, strict=True):
        assert torch.equal(own, other) if isinstance(own, torch.Tensor) else own == other


@pytest.mark.parametrize("size", [96, [80, 96], 10_000])
def test_pictures_of_one_tile_are_batched_as_without_tiles(whole: Split, size: int | list[int]) -> None:
    uncut, cut = (
        Transforms(short_side=[32, 64], long_side=96, random_crop=0.7, hue=0.1, tiles=tiles)
        for tiles in (None, Tiles(size))
    )
    for first, second in (
        (TrainingBatches(whole, each, batch_size=4, seed=1, epoch=0) for each in (uncut, cut)),
        (EvaluationBatches(whole, each, batch_size=4) for each in (uncut, cut)),
    ):
        assert len(first) == len(second) > 0
        for step in range(len(first)):
            assert_equal(first[step], second[step])


def test_epoch_shows_every_tile(whole: Split) -> None:
    batches = TrainingBatches(whole, TRANSFORMS, batch_size=1, seed=1, epoch=0)
    places = {(batch.image_ids[0], batch.corners[0]) for batch in (batches[step] for step in range(len(batches)))}
    assert len(places) == len(batches) == len(whole.tiled(TILES).records)


def test_each_tile_and_repetition_has_its_own_augmentation(whole: Split) -> None:
    tiles = list(whole.tiled(TILES).records)
    seeds = {tuple(seed_of(tile, times)) for tile in tiles for times in range(3)}
    assert len(seeds) == 3 * len(tiles)
    assert seed_of(tiles[0], 2) == seed_of(whole.records[0], 2)  # the first tile has that of its picture
    cropped = Transforms(short_side=64, long_side=96, random_crop=0.5, tiles=Tiles(40, overlap=0.7))
    batch = TrainingBatches(whole, cropped, batch_size=30, seed=1, epoch=0)[0]
    assert len({tuple(size) for size in batch.image_sizes.tolist()}) > 10  # without crops 40 x 40 px are 64 x 64


@pytest.mark.parametrize("num_workers", [2, 3])
def test_workers_have_the_images_of_one(whole: Split, num_workers: int) -> None:
    options: dict[str, Any] = {"batch_size": 6, "seed": 1, "epoch": 0}
    alone = TrainingBatches(whole, TRANSFORMS, **options)[1]
    shares = [
        TrainingBatches(whole, TRANSFORMS, rank=rank, num_workers=num_workers, **options)[1]
        for rank in range(num_workers)
    ]
    for row in range(6):
        share, position = shares[row % num_workers], row // num_workers
        assert torch.equal(share.images[position], alone.images[row])
        assert share.corners[position] == alone.corners[row]


@pytest.mark.parametrize("num_workers", [1, 2, 3, 20])
def test_batches_of_the_workers_are_those_of_one_and_hold_pictures_whole(whole: Split, num_workers: int) -> None:
    alone = EvaluationBatches(whole, TRANSFORMS, batch_size=4)
    shares = [
        EvaluationBatches(whole, TRANSFORMS, batch_size=4, rank=rank, num_workers=num_workers)
        for rank in range(num_workers)
    ]
    assert sorted(batch for share in shares for batch in share.batches) == sorted(alone.batches)
    for share in shares:
        shown = [int(share.split.records.pictures[index]) for batch in share.batches for index in batch]
        changes = [number for number, _ in Counter(shown).items()]
        assert [number for before, number in pairwise([-1, *shown]) if before != number] == changes
        total = Counter(share.split.records.pictures.tolist())
        assert all(total[number] == count for number, count in Counter(shown).items())


def test_groups_end_between_pictures() -> None:
    pictures = [0, 0, 0, 1, 1, 2, 3, 3, 3, 3, 3]
    assert whole_pictures(range(11), pictures, 4) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9, 10]]
    assert whole_pictures([2, 0, 1], [0, 1, 2], 2) == [[2, 0], [1]]
    assert whole_pictures([], [], 2) == []
