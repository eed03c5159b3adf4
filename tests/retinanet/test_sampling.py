"""Laws of repeat-factor sampling: factors by hand, as often as they say, as many images in every epoch."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retinanet.data.dataset import TrainingBatches
from retinanet.data.records import Records
from retinanet.data.sampling import global_batches, images_of_epoch, repeat_factors
from retinanet.data.splits import load_split
from retinanet.data.transforms import Transforms
from tests.small_world import SmallWorld


def records_of(classes: list[list[int]]) -> Records:
    """Images with boxes of these classes (ids from 1)."""
    ids = range(len(classes))
    boxes = [(image, label) for image, labels in enumerate(classes) for label in labels]
    return Records(
        {
            "images": [{"id": i, "file_name": f"{i}.png", "width": 9, "height": 9} for i in ids],
            "annotations": [
                {"id": n, "image_id": i, "category_id": c, "bbox": [0, 0, 1, 1]} for n, (i, c) in enumerate(boxes, 1)
            ],
            "categories": [{"id": label, "name": str(label)} for label in (1, 2, 3, 4)],
        }
    )


def test_factors_by_hand() -> None:
    # Of 8 images class 1 is in 4 (a half), class 2 in 2 (a quarter), class 3 in 1 (an eighth), class 4 in none.
    classes = [[1, 1, 1], [1], [1, 2], [1], [2], [3, 3], [], []]
    root2 = math.sqrt(2)
    assert repeat_factors(records_of(classes), 0.5).tolist() == pytest.approx([1, 1, root2, 1, root2, 2, 1, 1])
    assert repeat_factors(records_of(classes), 0.1).tolist() == [1] * 8


@given(
    factors=st.lists(st.floats(1, 6), min_size=1, max_size=40),
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 99),
)
def test_image_comes_as_often_as_its_factor_says_up_to_rounding(factors: list[float], seed: int, epoch: int) -> None:
    shown = images_of_epoch(len(factors), torch.tensor(factors, dtype=torch.float64), seed=seed, epoch=epoch)
    assert len(shown) == int(sum(factors) + 1e-6)
    assert len(set(shown)) == len(shown)  # every repetition has a number of its own
    counts = Counter(image % len(factors) for image in shown)
    scale = len(shown) / sum(factors)
    for image, factor in enumerate(factors):
        assert math.floor(factor * scale - 1e-6) <= counts[image] <= math.ceil(factor * scale + 1e-6)
        assert {number // len(factors) for number in shown if number % len(factors) == image} == set(
            range(counts[image])
        )


def test_average_over_epochs_is_the_factor() -> None:
    factors = torch.tensor([1.0, 1.25, 2.5, 1.0, 3.25], dtype=torch.float64)  # their sum is whole: nothing is scaled
    shown = [image % 5 for epoch in range(2000) for image in images_of_epoch(5, factors, seed=0, epoch=epoch)]
    assert np.bincount(shown) / 2000 == pytest.approx(factors.numpy(), abs=0.05)


def test_factors_of_one_show_every_image_once_and_none_leave_the_order_as_it_is() -> None:
    ones = torch.ones(7, dtype=torch.float64)
    assert sorted(images_of_epoch(7, ones, seed=3, epoch=1)) == list(range(7))
    assert images_of_epoch(7, None, seed=3, epoch=1) == np.random.default_rng([3, 1]).permutation(7).tolist()


@given(
    factors=st.lists(st.floats(1, 4), min_size=1, max_size=30),
    batch_size=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_every_epoch_has_as_many_full_batches(factors: list[float], batch_size: int, seed: int) -> None:
    groups = [image % 2 for image in range(len(factors))]
    own = torch.tensor(factors, dtype=torch.float64)
    epochs = [global_batches(groups, batch_size, seed=seed, epoch=epoch, factors=own) for epoch in range(3)]
    expected = max(1, int(sum(factors) + 1e-6) // batch_size)
    assert [len(steps) for steps in epochs] == [expected] * 3
    assert {len(step) for steps in epochs for step in steps} == {batch_size}


def test_repetition_is_augmented_differently_and_workers_change_nothing(small_world: SmallWorld) -> None:
    split = load_split(small_world.train)
    transforms = Transforms(short_side=32, long_side=48, brightness=0.9)
    factors = torch.tensor([5.0, *[1.0] * 8], dtype=torch.float64)
    options: dict[str, Any] = {"batch_size": 13, "seed": 1, "epoch": 0, "factors": factors}
    batch = TrainingBatches(split, transforms, **options)[0]
    rows = [row for row, image_id in enumerate(batch.image_ids) if image_id == split.records[0].image_id]
    assert len(rows) == 5
    assert len({batch.images[row].float().mean().item() for row in rows}) == 5
    for rank in range(2):
        share = TrainingBatches(split, transforms, rank=rank, num_workers=2, **options)[0]
        assert torch.equal(share.images, batch.images[rank::2])
