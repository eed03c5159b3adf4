from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torchvision.transforms.v2.functional as VF
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from retinanet.data.transforms import Augmentation, Transforms, flip
from retinanet.network.model import normalise_images

NO_BOXES = torch.zeros(0, 4)
BUSY = Transforms(
    short_side=[40, 48, 64],
    long_side=96,
    vertical_flip=0.5,
    scale_jitter=(0.5, 1.5),
    brightness=0.4,
    contrast=0.3,
    saturation=0.2,
    hue=0.1,
)
RANGES = {"brightness": (0.6, 1.4), "contrast": (0.7, 1.3), "saturation": (0.8, 1.2), "hue": (-0.1, 0.1)}


def noise(generator: torch.Generator, height: int, width: int) -> torch.Tensor:
    return torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)


# ---- what is drawn ----


def test_the_same_seed_epoch_and_image_draw_the_same() -> None:
    assert BUSY.draw(1, 2, 3) == BUSY.draw(1, 2, 3)


def test_another_seed_epoch_or_image_draws_something_else() -> None:
    drawn = {BUSY.draw(*seed) for seed in [(1, 2, 3), (4, 2, 3), (1, 4, 3), (1, 2, 4), (-1, 2, 3), (1, 3, 2)]}
    assert len(drawn) == 6


def test_what_was_drawn_before_does_not_change_a_draw() -> None:
    alone = BUSY.draw(1, 0, 7)
    assert [BUSY.draw(1, 0, image) for image in range(8)][7] == alone


def test_switching_colour_on_leaves_sizes_and_flips_as_they_were() -> None:
    plain = Transforms(short_side=[40, 48, 64], long_side=96, vertical_flip=0.5, scale_jitter=(0.5, 1.5))
    for image in range(20):
        draw, busy = plain.draw(1, 0, image), BUSY.draw(1, 0, image)
        assert (draw.short_side, draw.scale, draw.horizontal_flip, draw.vertical_flip) == (
            busy.short_side,
            busy.scale,
            busy.horizontal_flip,
            busy.vertical_flip,
        )


def test_draws_lie_within_their_ranges_and_use_them() -> None:
    drawn = [BUSY.draw(0, 0, image) for image in range(400)]
    assert {draw.short_side for draw in drawn} == {40, 48, 64}
    scales = [draw.scale for draw in drawn]
    assert 0.5 <= min(scales) < 0.55 and 1.45 < max(scales) <= 1.5
    for name, (low, high) in RANGES.items():
        factors = [dict(draw.colour)[name] for draw in drawn]
        assert low <= min(factors) < low + 0.05 and high - 0.05 < max(factors) <= high
    assert len({tuple(name for name, _ in draw.colour) for draw in drawn}) == 24  # all orders of four


def test_a_colour_factor_is_never_negative() -> None:
    drawn = [Transforms(brightness=3.0).draw(0, 0, image) for image in range(50)]
    assert min(dict(draw.colour)["brightness"] for draw in drawn) == 0.0


def test_flips_come_with_their_probability() -> None:
    # 1000 draws of .3: mean 300, standard deviation sqrt(1000 * .3 * .7) = 14.5; 5 of them are 72.
    drawn = [Transforms(horizontal_flip=0.3, vertical_flip=1.0).draw(0, 0, image) for image in range(1000)]
    assert abs(sum(draw.horizontal_flip for draw in drawn) - 300) < 72
    assert all(draw.vertical_flip for draw in drawn)
    assert not any(Transforms(horizontal_flip=0.0).draw(0, 0, image).horizontal_flip for image in range(100))


def test_evaluation_draws_nothing_and_takes_the_largest_short_side() -> None:
    assert BUSY.for_evaluation == Augmentation(short_side=64)


# ---- sizes ----


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (800, 1067)),  # 800 / 480 = 1.667; 640 * 1.667 = 1066.7
        ((640, 480), (1067, 800)),
        ((400, 1000), (533, 1333)),  # 800 / 400 = 2 would give 2000; 1333 / 1000 = 1.333; 400 * 1.333 = 533.2
        ((800, 1333), (800, 1333)),
        ((1600, 1600), (800, 800)),
        ((1, 5000), (1, 1333)),  # 1 * .267 rounds to 0: at least 1 px
    ],
)
def test_short_side_800_and_long_side_at_most_1333(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert Transforms().resized_size(size, Augmentation(short_side=800)) == expected


def test_scale_multiplies_the_resized_size() -> None:
    # 480 x 640 at short side 800: 800 x 1066.7; times .75: 600 x 800
    assert Transforms().resized_size((480, 640), Augmentation(short_side=800, scale=0.75)) == (600, 800)


def test_a_canvas_holds_every_image_and_is_a_multiple_of_32() -> None:
    assert Transforms().padded_size_of([(800, 1067), (833, 800)]) == (864, 1088)  # 27 * 32, 34 * 32
    assert Transforms().padded_size_of([(64, 96)]) == (64, 96)
    assert Transforms(size_divisor=1).padded_size_of([(5, 9), (7, 3)]) == (7, 9)


def test_padding_has_the_mean_colour_which_normalises_to_about_zero(generator: torch.Generator) -> None:
    transforms, image = Transforms(), noise(generator, 20, 40)
    canvas = transforms.pad([image, image[:, :10, :30]], (32, 64))
    assert canvas.shape == (2, 3, 32, 64) and canvas.dtype == torch.uint8
    assert torch.equal(canvas[0, :, :20, :40], image) and torch.equal(canvas[1, :, :10, :30], image[:, :10, :30])
    assert canvas.is_contiguous(memory_format=torch.channels_last)
    normalised = normalise_images(canvas, list(transforms.mean), list(transforms.std))
    half_a_level = 0.5 / 255 / min(transforms.std)
    assert normalised[0, :, 20:].abs().max() < half_a_level + 1e-6
    assert normalised[1, :, :, 30:].abs().max() < half_a_level + 1e-6


# ---- what is done to a picture ----


def test_flips_worked_by_hand() -> None:
    # In 6 x 10 px the box (1, 2, 4, 5) mirrors to x 10 - 4 .. 10 - 1 and to y 6 - 5 .. 6 - 2.
    image, boxes = torch.arange(180, dtype=torch.uint8).reshape(3, 6, 10), torch.tensor([[1.0, 2.0, 4.0, 5.0]])
    mirrored, moved = flip(image, boxes, horizontal=True, vertical=False)
    assert moved.tolist() == [[6.0, 2.0, 9.0, 5.0]] and torch.equal(mirrored[:, :, 6:9], image[:, :, 1:4].flip(2))
    mirrored, moved = flip(image, boxes, horizontal=False, vertical=True)
    assert moved.tolist() == [[1.0, 1.0, 4.0, 4.0]] and torch.equal(mirrored[:, 1:4], image[:, 2:5].flip(1))


@pytest.mark.parametrize("flips", [{"horizontal": True, "vertical": False}, {"horizontal": True, "vertical": True}])
def test_flipping_twice_is_the_identity(generator: torch.Generator, flips: dict[str, bool]) -> None:
    image, boxes = noise(generator, 7, 12), torch.tensor([[0.0, 0.0, 12.0, 7.0], [1.5, 2.25, 3.0, 6.5]])
    again = flip(*flip(image, boxes, **flips), **flips)
    assert torch.equal(again[0], image) and torch.equal(again[1], boxes)


def test_a_box_stays_on_what_it_marks() -> None:
    # A white block of 16 x 8 px at (24, 16) in 64 x 96; twice as large and mirrored its pixels lie in its box.
    image = torch.zeros(3, 64, 96, dtype=torch.uint8)
    image[:, 16:24, 24:40] = 255
    transforms = Transforms(short_side=128, long_side=400)
    augmentation = Augmentation(short_side=128, horizontal_flip=True, vertical_flip=True)
    resized, boxes, _ = transforms.apply(image, torch.tensor([[24.0, 16.0, 40.0, 24.0]]), augmentation)
    assert resized.shape == (3, 128, 192)
    assert boxes.tolist() == [[112.0, 80.0, 144.0, 96.0]]  # 192 - 80, 128 - 48, 192 - 48, 128 - 32
    rows, columns = torch.nonzero(resized[0] > 127, as_tuple=True)
    assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == [112, 80, 144, 96]


def test_a_picture_of_the_wanted_size_keeps_its_pixels(generator: torch.Generator) -> None:
    image = noise(generator, 64, 96)
    unchanged, _, _ = Transforms(short_side=64, long_side=96).apply(image, NO_BOXES, Augmentation(short_side=64))
    assert torch.equal(unchanged, image)


def test_resizing_does_not_depend_on_how_a_picture_lies_in_memory(generator: torch.Generator) -> None:
    image, transforms = noise(generator, 50, 70), Transforms(short_side=33)
    last = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    resized = [transforms.apply(picture, NO_BOXES, transforms.for_evaluation)[0] for picture in (image, last)]
    assert torch.equal(*resized)


def test_augmentation_does_not_depend_on_how_a_picture_lies_in_memory(generator: torch.Generator) -> None:
    image = noise(generator, 50, 70)
    last = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    for number in range(20):
        drawn = [BUSY.apply(picture, NO_BOXES, BUSY.draw(0, 0, number))[0] for picture in (image, last)]
        assert torch.equal(*drawn)


def test_colour_is_changed_as_torchvision_does_in_the_drawn_order(generator: torch.Generator) -> None:
    image = noise(generator, 64, 64)
    augmentation = Augmentation(short_side=64, colour=(("hue", 0.1), ("contrast", 0.7)))
    changed, _, _ = Transforms(short_side=64).apply(image, NO_BOXES, augmentation)
    assert torch.equal(changed, VF.adjust_contrast(VF.adjust_hue(image, 0.1), 0.7))


def test_what_is_given_is_not_changed(generator: torch.Generator) -> None:
    image, boxes = noise(generator, 64, 64), torch.tensor([[1.0, 2.0, 30.0, 40.0]])
    before = image.clone(), boxes.clone()
    for number in range(8):
        BUSY.apply(image, boxes, BUSY.draw(0, 0, number))
    assert torch.equal(image, before[0]) and torch.equal(boxes, before[1])


def test_an_image_without_boxes_is_augmented_too(generator: torch.Generator) -> None:
    augmentation = Augmentation(short_side=40, horizontal_flip=True, colour=(("brightness", 1.2),))
    image, boxes, _ = BUSY.apply(noise(generator, 64, 80), NO_BOXES, augmentation)
    assert image.shape == (3, 40, 50) and boxes.shape == (0, 4)


sides = st.integers(1, 120)
parts = st.lists(st.floats(0, 1, width=32), min_size=2, max_size=2).map(sorted)


@given(height=sides, width=sides, x=parts, y=parts, seed=st.integers(0, 1000))
def test_boxes_stay_inside_the_image_and_keep_their_share_of_it(
    height: int, width: int, x: list[float], y: list[float], seed: int
) -> None:
    boxes = torch.tensor([[x[0] * width, y[0] * height, x[1] * width, y[1] * height]])
    transforms = replace(BUSY, scale_jitter=(0.5, 1.0))
    augmentation = transforms.draw(seed, 0, 0)
    image, moved, kept = transforms.apply(torch.zeros(3, height, width, dtype=torch.uint8), boxes, augmentation)
    assert image.shape[1:] == transforms.resized_size((height, width), augmentation)
    assert kept.tolist() == [0]
    shares = moved / torch.tensor([image.shape[2], image.shape[1]] * 2)
    if augmentation.horizontal_flip:
        x = [1 - x[1], 1 - x[0]]
    if augmentation.vertical_flip:
        y = [1 - y[1], 1 - y[0]]
    assert_close(shares, torch.tensor([[x[0], y[0], x[1], y[1]]]), rtol=0, atol=1e-5)


@given(height=sides, width=sides, data=st.data())
def test_an_image_always_fits_its_canvas(height: int, width: int, data: Any) -> None:
    transforms = Transforms(short_side=50, long_side=data.draw(st.integers(50, 200)))
    resized = transforms.resized_size((height, width), transforms.for_evaluation)
    canvas = transforms.padded_size_of([resized])
    assert max(resized) <= transforms.long_side
    assert all(0 <= outer - inner < 32 and outer % 32 == 0 for outer, inner in zip(canvas, resized, strict=True))
