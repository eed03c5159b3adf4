"""Laws of crops: large-scale jitter, the random crop, and which boxes they leave."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from retinanet.data.dataset import TrainingBatches
from retinanet.data.splits import load_split
from retinanet.data.transforms import Augmentation, Transforms, crop_boxes

sides = st.integers(1, 120)


def test_a_factor_of_two_shows_half_of_each_side_at_the_size_of_factor_one() -> None:
    # 100 x 200 at short side 50 is 50 x 100. Twice as large it shows 50 x 100 px of the picture, 25 from the top
    # (half of the 51 places) and 0 from the left.
    transforms = Transforms(short_side=50, long_side=100)
    zoomed = Augmentation(short_side=50, scale=2.0, scale_at=(0.5, 0.0))
    assert transforms.geometry((100, 200), zoomed) == (25, 0, 50, 100, (50, 100))
    image = torch.arange(200, dtype=torch.uint8).expand(3, 100, 200)
    boxes = torch.tensor([[10.0, 30.0, 40.0, 70.0], [150.0, 30.0, 190.0, 70.0]])
    shown, moved, kept = transforms.apply(image, boxes, zoomed)
    assert torch.equal(shown, image[:, 25:75, :100])
    assert moved.tolist() == [[10.0, 5.0, 40.0, 45.0]] and kept.tolist() == [0]


def test_a_random_crop_comes_before_resizing() -> None:
    # Half of the height and a quarter of the width of 80 x 160, at the bottom right: 40 x 40 px, then 80 x 80.
    transforms = Transforms(short_side=80, long_side=160)
    cropped = Augmentation(short_side=80, crop=(0.5, 0.25), crop_at=(0.999, 0.999))
    assert transforms.geometry((80, 160), cropped) == (40, 120, 40, 40, (80, 80))


def test_a_box_is_clipped_and_dropped_where_too_little_of_it_is_left() -> None:
    # In a crop of 10 x 10: whole; a quarter left (5 x 5 of 10 x 10); a fifth (2 x 10 of 10 x 10); nothing.
    boxes = torch.tensor([[1.0, 1, 9, 9], [5, 5, 15, 15], [-8, 0, 2, 10], [10, 0, 20, 10]])
    shown, kept = crop_boxes(boxes, 10, 10, min_visible=0.25)
    assert shown.tolist() == [[1, 1, 9, 9], [5, 5, 10, 10]] and kept.tolist() == [0, 1]
    assert crop_boxes(boxes, 10, 10, min_visible=0.0)[1].tolist() == [0, 1, 2]
    assert crop_boxes(boxes, 10, 10, min_visible=1.0)[1].tolist() == [0]


CROPPED = Transforms(short_side=[40, 64], long_side=96, vertical_flip=0.5, random_crop=0.3, scale_jitter=(0.1, 2.0))


@given(height=sides, width=sides, seed=st.integers(0, 1000))
def test_no_factor_enlarges_an_image_beyond_its_size_at_one(height: int, width: int, seed: int) -> None:
    augmentation = CROPPED.draw(seed, 0, 0)
    shown = CROPPED.geometry((height, width), augmentation)
    assert 0 <= shown.top <= shown.top + shown.height <= height and shown.height >= 1
    assert 0 <= shown.left <= shown.left + shown.width <= width and shown.width >= 1
    at_one = CROPPED.resized_size((height, width), replace(augmentation, scale=1.0))
    assert all(side <= largest for side, largest in zip(shown.size, at_one, strict=True))
    if augmentation.scale > 1 and min(at_one) >= 4:  # all of the crop is used, but for the rounding of two px
        rounding = 1 + augmentation.scale * max(at_one) / max(1, min(height, width))
        assert all(largest - side <= rounding for side, largest in zip(shown.size, at_one, strict=True))


@given(side=st.integers(60, 120), seed=st.integers(0, 300))
def test_a_box_stays_on_what_it_marks_through_every_crop(side: int, seed: int) -> None:
    picture = torch.zeros(3, side, side + 20, dtype=torch.uint8)
    picture[:, 20:50, 25:55] = 255
    augmentation = replace(CROPPED.draw(seed, 0, 0), colour=())
    image, boxes, kept = CROPPED.apply(picture, torch.tensor([[25.0, 20.0, 55.0, 50.0]]), augmentation)
    rows, columns = torch.nonzero(image[0] > 127, as_tuple=True)
    if len(kept) == 0:
        shown = CROPPED.geometry((side, side + 20), augmentation)
        x = max(0, min(55, shown.left + shown.width) - max(25, shown.left))
        y = max(0, min(50, shown.top + shown.height) - max(20, shown.top))
        assert x * y < CROPPED.min_visible * 30 * 30
        return
    marked = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], dtype=torch.float32)
    assert_close(boxes[0], marked, rtol=0, atol=1.01)


def test_a_batch_of_large_factors_is_padded_as_one_without(small_world: Any) -> None:
    split = load_split(small_world.train)
    plain = Transforms(short_side=64, long_side=96)
    jittered = replace(plain, scale_jitter=(1.5, 2.0))
    options = {"batch_size": 4, "seed": 0, "epoch": 0}
    sizes = [
        [batch.padded_size for batch in (TrainingBatches(split, transforms, **options)[step] for step in range(2))]
        for transforms in (plain, jittered)
    ]
    assert all(a[0] <= b[0] and a[1] <= b[1] for a, b in zip(sizes[1], sizes[0], strict=True))


def test_labels_follow_the_boxes_that_are_left(small_world: Any) -> None:
    split = load_split(small_world.train)
    transforms = Transforms(short_side=64, long_side=96, random_crop=0.4, min_visible=0.5)
    dropped = 0
    for step, batch in enumerate(TrainingBatches(split, transforms, batch_size=1, seed=0, epoch=0)):
        index = split.records.image_ids.tolist().index(batch.image_ids[0])
        record, drawn = split.records[index], transforms.draw(0, 0, batch.image_ids[0])
        _, boxes, kept = transforms.apply(split.picture(index), record.boxes, drawn)
        assert torch.equal(batch.labels, record.labels[kept]) and batch.counts == [len(boxes)], step
        assert torch.equal(batch.boxes, boxes)
        dropped += len(record.labels) - len(kept)
    assert dropped > 0


def test_crops_leave_all_other_augmentation_as_it_was() -> None:
    for image in range(20):
        drawn, plain = CROPPED.draw(1, 0, image), replace(CROPPED, random_crop=1.0).draw(1, 0, image)
        assert replace(drawn, crop=(1.0, 1.0)) == plain
        assert drawn.crop != (1.0, 1.0)
        assert all(0.3 <= fraction <= 1 for fraction in drawn.crop)


def test_crops_are_drawn_independently_of_sizes_and_factors() -> None:
    # 400 draws: the standard deviation of a correlation is 1 / sqrt(400) = .05; 5 of them are .25.
    drawn = [CROPPED.draw(1, 0, image) for image in range(400)]
    columns = [[d.short_side, d.scale, *d.crop, *d.crop_at, *d.scale_at] for d in drawn]
    correlations = torch.corrcoef(torch.tensor(columns, dtype=torch.float64).T) - torch.eye(8)
    assert correlations.abs().max() < 0.25


# ---- canvas ----


def test_image_is_resized_to_fit_into_the_canvas() -> None:
    # 64 x 96 into 48 x 64: short side 64 would give 64 x 96; 48 / 64 = .75 and 64 / 96 = .67, so 43 x 64.
    transforms = Transforms(short_side=64, long_side=96, canvas=[48, 64])
    assert transforms.resized_size((64, 96), transforms.draw(0, 0, 0)) == (43, 64)
    assert transforms.resized_size((64, 96), transforms.for_evaluation) == (64, 96)
    assert transforms.training_size_of([(43, 64)]) == (64, 64)  # multiples of 32


@given(height=sides, width=sides, seed=st.integers(0, 1000))
def test_every_draw_fits_into_the_canvas(height: int, width: int, seed: int) -> None:
    transforms = replace(CROPPED, canvas=(40, 72))
    shown = transforms.resized_size((height, width), transforms.draw(seed, 0, 0))
    assert shown[0] <= 40 and shown[1] <= 72


def test_every_training_batch_has_the_size_of_the_canvas(small_world: Any) -> None:
    split = load_split(small_world.train)
    transforms = Transforms(short_side=[48, 64], long_side=96, canvas=[96, 128], scale_jitter=(0.5, 2.0))
    batches = [TrainingBatches(split, transforms, batch_size=2, seed=0, epoch=epoch) for epoch in range(3)]
    assert {batch.padded_size for steps in batches for batch in (steps[i] for i in range(len(steps)))} == {(96, 128)}
