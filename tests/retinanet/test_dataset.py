from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from retinanet.data.dataset import (
    Batch,
    EvaluationBatches,
    TrainingBatches,
    prefetch,
    split_batch,
)
from retinanet.data.sampling import global_batches, orientations
from retinanet.data.splits import Split, load_split
from retinanet.data.transforms import Transforms, seeded
from tests.small_world import SmallWorld, annotation

TRANSFORMS = Transforms(short_side=[48, 64, 100], long_side=128, vertical_flip=0.5, brightness=0.3, hue=0.1)


def training_batches(split: Split, rank: int = 0, num_workers: int = 1, **options: Any) -> TrainingBatches:
    options = {"batch_size": 8, "seed": 1, "epoch": 0, **options}
    return TrainingBatches(split, TRANSFORMS, rank=rank, num_workers=num_workers, **options)


def assert_same_image(first: Batch, row: int, second: Batch, other_row: int) -> None:
    for field in ("images", "image_sizes", "original_sizes"):
        assert torch.equal(getattr(first, field)[row], getattr(second, field)[other_row]), field
    for value, other in zip(first.truths()[row], second.truths()[other_row], strict=True):
        assert torch.equal(value, other)


# ---- the steps of an epoch ----


@given(
    groups=st.lists(st.sampled_from([0, 1, 5]), min_size=1, max_size=60),
    batch_size=st.integers(1, 20),
    seed=st.integers(-5, 2**40),
    epoch=st.integers(0, 99),
)
def test_batches_are_full_and_hold_every_image_at_most_once(
    groups: list[int], batch_size: int, seed: int, epoch: int
) -> None:
    num_images = len(groups)
    steps = global_batches(groups, batch_size, seed=seed, epoch=epoch)
    assert all(len(step) == batch_size for step in steps)
    assert len(steps) == max(1, num_images // batch_size)
    seen = Counter(index for step in steps for index in step)
    assert set(seen) <= set(range(num_images))
    if num_images >= batch_size:
        assert set(seen.values()) == {1}
    else:  # all of them, as evenly as it goes
        assert set(seen) == set(range(num_images)) and max(seen.values()) - min(seen.values()) <= 1


@given(
    groups=st.lists(st.sampled_from([0, 1, 5]), min_size=1, max_size=60),
    batch_size=st.integers(1, 20),
    seed=st.integers(0, 2**40),
)
def test_only_what_the_groups_leave_at_the_end_is_mixed(groups: list[int], batch_size: int, seed: int) -> None:
    steps = global_batches(groups, batch_size, seed=seed, epoch=0)
    mixed = [len({groups[index] for index in step}) > 1 for step in steps]
    whole = sum(count // batch_size for count in Counter(groups).values())
    assert not any(mixed[:whole])


def test_portrait_and_landscape_images_do_not_share_a_batch() -> None:
    # 24 landscape and 8 portrait images fill 3 and 1 batches of 8.
    groups = orientations(torch.tensor([(480, 640)] * 24 + [(640, 480)] * 8))
    steps = global_batches(groups, 8, seed=1, epoch=0)
    assert sorted(len([index for index in step if index < 24]) for step in steps) == [0, 8, 8, 8]


def test_images_of_one_orientation_keep_the_order_of_the_permutation() -> None:
    order = [index for step in global_batches([0] * 12, 4, seed=3, epoch=2) for index in step]
    assert order == seeded(3, 2).permutation(12).tolist()


def test_every_epoch_and_every_seed_has_another_order() -> None:
    orders = [
        global_batches([0] * 50, 10, seed=seed, epoch=epoch)
        for seed, epoch in [(1, 0), (1, 1), (2, 0), (0, 1), (-1, 0)]
    ]
    assert len({str(order) for order in orders}) == 5
    assert global_batches([0] * 50, 10, seed=1, epoch=0) == orders[0]


def test_what_one_epoch_leaves_out_comes_in_another() -> None:
    steps = [step for epoch in range(20) for step in global_batches([0, 1, 1] * 3, 4, seed=1, epoch=epoch)]
    assert {index for step in steps for index in step} == set(range(9))


# ---- law 3: the number of workers is not a hyper-parameter ----


@pytest.mark.parametrize("num_workers", [2, 3, 4])
@pytest.mark.parametrize("batch_size", [4, 7])
def test_the_shares_of_a_step_are_together_the_batch_of_one_worker(
    small_world: SmallWorld, num_workers: int, batch_size: int
) -> None:
    split = load_split(small_world.train)
    for epoch in range(3):
        alone = training_batches(split, batch_size=batch_size, epoch=epoch)
        shares = [
            training_batches(split, rank, num_workers, batch_size=batch_size, epoch=epoch)
            for rank in range(num_workers)
        ]
        assert {len(share) for share in shares} == {len(alone)}
        for step in range(len(alone)):
            whole, parts = alone[step], [share[step] for share in shares]
            assert sorted(i for part in parts for i in part.image_ids) == sorted(whole.image_ids)
            for part in parts:
                assert part.images.shape[2:] == whole.images.shape[2:]  # the canvas of the global batch
                for row, image_id in enumerate(part.image_ids):
                    assert_same_image(part, row, whole, whole.image_ids.index(image_id))


def test_loader_processes_and_the_order_of_loading_change_nothing(small_world: SmallWorld) -> None:
    dataset = training_batches(load_split(small_world.train), batch_size=2)
    loaded = list(DataLoader(dataset, batch_size=None, num_workers=2))
    for step in reversed(range(len(dataset))):
        assert loaded[step].image_ids == dataset[step].image_ids
        for row in range(2):
            assert_same_image(loaded[step], row, dataset[step], row)


def test_an_epoch_augments_an_image_in_another_way_than_the_next(small_world: SmallWorld) -> None:
    split = load_split(small_world.train)
    sizes = set()
    for epoch in range(12):
        batch = training_batches(split, batch_size=9, epoch=epoch)[0]
        sizes.add(tuple(batch.image_sizes[batch.image_ids.index(10)].tolist()))
    assert sizes == {(48, 48), (64, 64), (100, 100)}


def test_a_training_batch_says_what_it_is(small_world: SmallWorld) -> None:
    split = load_split(small_world.train)
    batch = training_batches(split, batch_size=9)[0]
    records = {record.image_id: record for record in split.records}
    assert batch.images.dtype == torch.uint8 and batch.images.shape[2] % 32 == 0 and batch.images.shape[3] % 32 == 0
    for row, image_id in enumerate(batch.image_ids):
        assert tuple(batch.original_sizes[row].tolist()) == records[image_id].size
        boxes, labels = batch.truths()[row]
        assert torch.equal(labels, records[image_id].labels) and batch.counts[row] == len(labels)
        height, width = batch.image_sizes[row].tolist()
        assert boxes.shape == records[image_id].boxes.shape
        assert bool((boxes <= torch.tensor([width, height] * 2) + 1e-4).all())
        factor = height * width / (records[image_id].size[0] * records[image_id].size[1])
        areas = [(b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) for b in (boxes, records[image_id].boxes)]
        assert torch.allclose(areas[0], areas[1] * factor)


def test_a_data_set_smaller_than_the_batch_fills_it(small_world: SmallWorld) -> None:
    dataset = training_batches(load_split(small_world.train), batch_size=20)
    assert len(dataset) == 1 and len(dataset[0].image_ids) == 20


def test_more_workers_than_images_of_a_batch_are_refused(small_world: SmallWorld) -> None:
    with pytest.raises(ValueError, match=r"train\.batch_size is 2, smaller than the 3 workers"):
        training_batches(load_split(small_world.train), 0, 3, batch_size=2)


def test_a_training_split_without_images_is_refused(small_world: SmallWorld) -> None:
    with pytest.raises(ValueError, match="the training split is empty"):
        training_batches(Split({**small_world.content(), "images": [], "annotations": []}))


# ---- evaluation ----


@pytest.mark.parametrize("num_workers", [1, 2, 3, 4])
def test_evaluation_meets_every_image_once_in_the_same_batches(small_world: SmallWorld, num_workers: int) -> None:
    split = load_split(small_world.train)
    alone = {tuple(batch.image_ids): batch for batch in iterate(EvaluationBatches(split, TRANSFORMS, batch_size=2))}
    shares = [
        EvaluationBatches(split, TRANSFORMS, batch_size=2, rank=rank, num_workers=num_workers)
        for rank in range(num_workers)
    ]
    seen = [batch for share in shares for batch in iterate(share)]
    assert sorted(i for batch in seen for i in batch.image_ids) == [record.image_id for record in split.records]
    for batch in seen:
        assert torch.equal(batch.images, alone[tuple(batch.image_ids)].images)


def test_evaluation_resizes_to_the_largest_short_side_and_no_more(small_world: SmallWorld) -> None:
    split = load_split(small_world.train)
    by_size = {}
    for batch in iterate(EvaluationBatches(split, TRANSFORMS, batch_size=1)):
        by_size[tuple(batch.original_sizes[0].tolist())] = batch
    # 64 x 64 to 100; 64 x 80 times 100 / 64 is 100 x 125; 80 x 64 is 125 x 100. Padded to multiples of 32.
    for original, resized in {(64, 64): [100, 100], (64, 80): [100, 125], (80, 64): [125, 100]}.items():
        assert by_size[original].image_sizes.tolist() == [resized]
        assert by_size[original].images.shape == (1, 3, 128, 128)
    wide = by_size[64, 80]
    (record,) = [record for record in split.records if record.image_id == wide.image_ids[0]]
    assert torch.allclose(wide.truths()[0][0], record.boxes * torch.tensor([1.5625]))


def test_evaluation_orders_by_aspect_ratio_and_equal_ones_as_in_the_file() -> None:
    sizes = [(480, 640), (640, 480), (240, 320), (480, 480), (640, 480)]  # height, width
    content = {
        "info": {"root": ""},
        "categories": [],
        "images": [{"id": i, "file_name": "a.png", "height": h, "width": w} for i, (h, w) in enumerate(sizes)],
        "annotations": [],
    }
    assert EvaluationBatches(Split(content), TRANSFORMS, batch_size=2).batches == [[0, 2], [3, 1], [4]]


def test_a_worker_may_have_no_batch_to_evaluate(small_world: SmallWorld) -> None:
    assert len(EvaluationBatches(load_split(small_world.train), TRANSFORMS, batch_size=9, rank=1, num_workers=2)) == 0


def iterate(batches: EvaluationBatches) -> Iterator[Batch]:
    return (batches[position] for position in range(len(batches)))


# ---- parts of a batch ----


@pytest.mark.parametrize(("num_images", "parts"), [(None, [5]), (5, [5]), (8, [5]), (2, [2, 2, 1]), (1, [1] * 5)])
def test_the_parts_of_a_batch_are_the_batch(small_world: SmallWorld, num_images: int | None, parts: list[int]) -> None:
    batch = training_batches(load_split(small_world.train), batch_size=5)[0]
    cut = list(split_batch(batch, num_images))
    assert [len(part.image_ids) for part in cut] == parts
    rows = [(part, row) for part in cut for row in range(len(part.image_ids))]
    assert [part.image_ids[row] for part, row in rows] == batch.image_ids
    for i, (part, row) in enumerate(rows):
        assert_same_image(part, row, batch, i)


# ---- loader processes ----


@pytest.mark.parametrize("processes", [0, 2])
def test_batches_that_are_read_ahead_are_the_batches(small_world: SmallWorld, processes: int) -> None:
    batches = EvaluationBatches(load_split(small_world.train), TRANSFORMS, batch_size=2)
    ahead = list(prefetch(batches, processes=processes, device=torch.device("cpu")))
    assert [batch.image_ids for batch in ahead] == [batch.image_ids for batch in iterate(batches)]
    for own, expected in zip(ahead, iterate(batches), strict=True):
        assert torch.equal(own.images, expected.images) and torch.equal(own.boxes, expected.boxes)


def test_loader_processes_keep_no_descriptor_of_the_images_that_they_have_sent(tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    names = [{"id": i, "file_name": "a.png", "width": 32, "height": 32} for i in range(300)]
    content = {
        "info": {"root": str(tmp_path)},
        "categories": [{"id": 1, "name": "a"}],
        "images": names,
        "annotations": [annotation(i + 1, i, 1, [2, 2, 9, 9]) for i in range(300)],
    }
    batches = TrainingBatches(Split(content), Transforms(short_side=32, long_side=32), batch_size=4, seed=1, epoch=0)
    steps = iter(DataLoader(batches, batch_size=None, num_workers=1))
    processes = [os.getpid(), steps._workers[0].pid]  # type: ignore[attr-defined]
    open_after = [[len(os.listdir(f"/proc/{process}/fd")) for process in processes] for _ in steps]
    assert len(open_after) == 75
    # At most 2 batches of 4 tensors are read ahead; each tensor takes a descriptor until it has arrived.
    first, rest = open_after[5], open_after[6:]
    assert all(abs(count - before) <= 12 for counts in rest for count, before in zip(counts, first, strict=True))
