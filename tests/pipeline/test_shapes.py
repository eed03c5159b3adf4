"""Laws of the drawn data set: honest boxes, nothing hidden, and the same bytes for the same seed."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.formats import Split
from pipeline.formats.shapes import MIN_VISIBLE, SHAPES, draw_disc, draw_scene, draw_split, draw_square, visible_box

DRAWING: dict[str, Any] = {
    "root": "data/prepared/images",
    "classes": None,
    "seed": 1,
    "image_size": 64,
    "max_objects": 6,
    "min_size": 12,
    "max_size": 32,
    "empty_fraction": 0.2,
    "noise": 12.0,
}


def draw(folder: Path, split: str = "train", num_images: int = 30, **changes: Any) -> Split:
    return draw_split(folder, split, num_images, **(DRAWING | changes))


def grid(size: int) -> tuple[Any, Any]:
    """x [1, S] and y [S, 1] of the pixel centres of a shape that fills size x size px."""
    centres = (np.arange(size) + 0.5) * 2 / size - 1
    return centres[None, :], centres[:, None]


def test_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    first = draw(tmp_path / "a").coco
    assert first == draw(tmp_path / "b").coco
    other = draw(tmp_path / "c", seed=2).coco
    digests = {image["sha256"] for image in first["images"]}
    assert len(digests) == 30
    assert not digests & {image["sha256"] for image in other["images"]}


def test_image_depends_on_its_split_and_number_alone(tmp_path: Path) -> None:
    many, few = draw(tmp_path / "a").coco, draw(tmp_path / "b", num_images=3).coco
    assert few["images"] == many["images"][:3]
    assert draw(tmp_path / "c", split="val", num_images=3).coco["images"][0]["sha256"] != few["images"][0]["sha256"]


def test_drawn_files_are_what_the_prepared_file_says(tmp_path: Path) -> None:
    coco = draw(tmp_path, num_images=4).coco
    assert coco["info"] == {"root": "data/prepared/images", "split": "train"}
    assert [image["file_name"] for image in coco["images"]][:2] == ["train/000001.png", "train/000002.png"]
    for image in coco["images"]:
        data = (tmp_path / image["file_name"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == image["sha256"]
        with Image.open(tmp_path / image["file_name"]) as picture:
            assert (picture.size, picture.mode) == ((64, 64), "RGB")


@pytest.mark.parametrize("number", range(20))
def test_boxes_are_tight_around_the_visible_pixels(number: int) -> None:
    rng = np.random.default_rng(number)
    scene = draw_scene(rng, list(SHAPES.values()), 6, image_size=64, min_size=12, max_size=32)
    for index in range(len(scene.labels)):
        x, y, w, h = visible_box(scene, index)
        mask = scene.owner == index
        assert mask[y : y + h, x : x + w].sum() == mask.sum()
        edges = mask[y, :], mask[y + h - 1, :], mask[:, x], mask[:, x + w - 1]
        assert all(edge.any() for edge in edges)


@pytest.mark.parametrize("number", range(20))
def test_no_object_is_hidden_by_more_than_the_limit(number: int) -> None:
    rng = np.random.default_rng(number)
    # discs of one size: each covers about pi * 10^2 pixels, so what is left can be told from the picture
    scene = draw_scene(rng, [draw_disc], 12, image_size=64, min_size=20, max_size=20)
    visible = np.bincount(scene.owner[scene.owner >= 0], minlength=len(scene.labels))
    assert visible.min() >= MIN_VISIBLE * math.pi * 10**2 * 0.95  # a disc of pixels has up to 5 % fewer


def test_lone_object_has_the_size_that_was_asked_for() -> None:
    for number in range(30):
        rng = np.random.default_rng(number)
        scene = draw_scene(rng, list(SHAPES.values()), 1, image_size=64, min_size=24, max_size=24)
        _, _, w, h = visible_box(scene, 0)
        # a sharp corner may pass between two pixel centres: up to 2 px less, and 1 px more by rounding
        assert 22 <= max(w, h) <= 25


def test_disc_of_two_pixels_radius_has_twelve_pixels() -> None:
    # centres at .5 and 1.5 px from the middle: inside where dx^2 + dy^2 <= 4; only (1.5, 1.5) with 4.5 is outside
    mask = draw_disc(np.random.default_rng(0), *grid(4))
    assert mask.sum() == 16 - 4


def test_turned_square_has_the_area_of_its_box() -> None:
    for number in range(10):
        mask = draw_square(np.random.default_rng(number), *grid(200))
        angle = np.random.default_rng(number).uniform(0, math.pi / 2)
        # corners at 1, angle on a circle of radius r: the box's side is 2 r max(cos, sin), the square's r sqrt 2
        share = 1 / (2 * max(math.cos(angle), math.sin(angle)) ** 2)
        assert mask.mean() == pytest.approx(share, abs=0.02)


def test_chosen_classes_are_drawn_in_their_order(tmp_path: Path) -> None:
    coco = draw(tmp_path, classes=["triangle", "disc"]).coco
    assert coco["categories"] == [{"id": 1, "name": "triangle"}, {"id": 2, "name": "disc"}]
    assert {box["category_id"] for box in coco["annotations"]} == {1, 2}


def test_unknown_shape_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.classes names 'disk', .* the nearest class is 'disc'"):
        draw(tmp_path, classes=["disk"])


@pytest.mark.parametrize(("fraction", "expected"), [(0.0, 0), (1.0, 30)])
def test_empty_fraction_of_the_images_has_no_object(tmp_path: Path, fraction: float, expected: int) -> None:
    coco = draw(tmp_path, empty_fraction=fraction).coco
    assert len(coco["images"]) - len({box["image_id"] for box in coco["annotations"]}) == expected


def test_object_as_large_as_the_image_fits(tmp_path: Path) -> None:
    coco = draw(tmp_path, num_images=3, min_size=64, max_size=64, max_objects=1, empty_fraction=0.0).coco
    assert len(coco["annotations"]) == 3
