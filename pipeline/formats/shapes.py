"""A synthetic data set, without download: squares, discs and triangles on a textured background.

Every image has its own random generator, so it does not depend on the number of images or on its neighbours.
Coordinates are px; a pixel belongs to a shape when its centre (column + .5, row + .5) lies inside.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from pipeline.formats.classes import choose_classes
from pipeline.formats.records import Category, CocoAnnotation, CocoImage, CocoSplit, Split

Mask = NDArray[np.bool_]
Pixels = NDArray[np.float64]

SPLITS = ("train", "val", "test")
# Minimum visible share of every object; later objects cover earlier ones.
MIN_VISIBLE = 0.6
# Positions tried for an object before it is left out.
ATTEMPTS = 20
# Minimum colour distance of an object from the background it covers, in grey levels over the three channels.
MIN_CONTRAST = 80.0


class Scene(NamedTuple):
    """An image before noise, and the object at each pixel."""

    pixels: Pixels
    """[H, W, 3], 0..255"""
    owner: NDArray[np.int64]
    """[H, W], index of the visible object in `labels`, -1 for background"""
    labels: list[int]
    """[M], shape of each object"""


def draw_disc(rng: Generator, x: Pixels, y: Pixels) -> Mask:
    """A disc of radius 1; x [1, W] and y [H, 1] from its centre, in units of half its size, as for all shapes."""
    return x**2 + y**2 <= 1.0


def draw_square(rng: Generator, x: Pixels, y: Pixels) -> Mask:
    """A square turned by any angle."""
    return _inside_polygon(x, y, _corners(4, rng.uniform(0, math.pi / 2)))


def draw_triangle(rng: Generator, x: Pixels, y: Pixels) -> Mask:
    """An equilateral triangle turned by any angle."""
    return _inside_polygon(x, y, _corners(3, rng.uniform(0, 2 * math.pi)))


Draw = Callable[[Generator, Pixels, Pixels], Mask]

SHAPES: dict[str, Draw] = {"disc": draw_disc, "square": draw_square, "triangle": draw_triangle}


def draw_split(
    folder: Path,
    split: str,
    num_images: int,
    *,
    root: str,
    classes: Sequence[str] | None,
    seed: int,
    image_size: int,
    max_objects: int,
    min_size: int,
    max_size: int,
    empty_fraction: float,
    noise: float,
) -> Split:
    """Draw the images of a split to folder/<split>/000001.png etc., and return their annotations.

    Args:
        root: location of `folder` in the prepared file
        classes: names of the shapes to draw; None draws all
        seed: determines every byte of an image, with the split and the image's number
        min_size, max_size: longer side of an object's box, px
        empty_fraction: probability of an image without objects
        noise: standard deviation of the pixel noise, grey levels
    """
    (folder / split).mkdir(parents=True, exist_ok=True)
    categories, _ = choose_classes({split: [Category(None, name) for name in SHAPES]}, classes)
    draws = [SHAPES[category["name"]] for category in categories]
    images: list[CocoImage] = []
    annotations: list[CocoAnnotation] = []
    for number in range(1, num_images + 1):
        rng = np.random.default_rng([seed, SPLITS.index(split), number])
        num_objects = 0 if rng.random() < empty_fraction else int(rng.integers(1, max_objects + 1))
        scene = draw_scene(rng, draws, num_objects, image_size=image_size, min_size=min_size, max_size=max_size)
        data = _encode_png(rng, scene.pixels, noise=noise)
        name = f"{split}/{number:06d}.png"
        (folder / name).write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        images.append({"id": number, "file_name": name, "width": image_size, "height": image_size, "sha256": digest})
        annotations += _annotations(scene, image_id=number, first_id=len(annotations) + 1)
    coco: CocoSplit = {
        "info": {"root": root, "split": split},
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
    return Split(coco, num_images=num_images, num_boxes=len(annotations))


def draw_scene(
    rng: Generator, draws: Sequence[Draw], num_objects: int, *, image_size: int, min_size: int, max_size: int
) -> Scene:
    """Draw objects on a textured background; leave out those that fit nowhere."""
    pixels = _draw_ground(rng, image_size)
    owner = np.full((image_size, image_size), -1)
    labels: list[int] = []
    areas: list[int] = []
    for _ in range(num_objects):
        label = int(rng.integers(len(draws)))
        size = float(rng.uniform(min_size, max_size))
        mask = _draw_object_mask(rng, draws[label], owner, areas, size=size)
        if mask is None:
            continue
        pixels[mask] = _paint(rng, pixels, mask)
        owner[mask] = len(labels)
        labels.append(label)
        areas.append(int(mask.sum()))
    return Scene(pixels, owner, labels)


def visible_box(scene: Scene, index: int) -> tuple[int, int, int, int]:
    """Return x, y, w, h of the bounding box of an object's visible pixels."""
    rows, columns = np.nonzero(scene.owner == index)
    x, y = int(columns.min()), int(rows.min())
    return x, y, int(columns.max()) + 1 - x, int(rows.max()) + 1 - y


def _draw_object_mask(
    rng: Generator, draw: Draw, owner: NDArray[np.int64], areas: list[int], *, size: float
) -> Mask | None:
    """Return the pixels of a new object that does not cover earlier ones too much, or None after ATTEMPTS tries."""
    image_size = owner.shape[0]
    grid = np.arange(image_size) + 0.5
    for _ in range(ATTEMPTS):
        x, y = rng.uniform(size / 2, image_size - size / 2, 2)
        mask = draw(rng, (grid[None, :] - x) * 2 / size, (grid[:, None] - y) * 2 / size)  # [H, W]
        left = owner[~mask & (owner >= 0)]
        if np.all(np.bincount(left, minlength=len(areas)) >= MIN_VISIBLE * np.array(areas)):
            return mask
    return None


def _corners(num_corners: int, angle: float) -> Pixels:
    """Return the corners [C, 2] of a regular polygon whose box is centred at 0 with a longer side of 2."""
    angles = angle + 2 * math.pi * np.arange(num_corners) / num_corners
    corners = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    low, high = corners.min(axis=0), corners.max(axis=0)
    centred: Pixels = (corners - (low + high) / 2) * 2 / (high - low).max()
    return centred


def _inside_polygon(x: Pixels, y: Pixels, corners: Pixels) -> Mask:
    """Return which points lie inside a convex polygon, i.e. left of every edge; corners are ordered by angle."""
    ends = np.roll(corners, -1, axis=0)
    inside = np.ones(np.broadcast_shapes(x.shape, y.shape), dtype=np.bool_)
    for (x1, y1), (x2, y2) in zip(corners, ends, strict=True):
        inside &= (x2 - x1) * (y - y1) - (y2 - y1) * (x - x1) >= 0
    return inside


def _draw_ground(rng: Generator, image_size: int) -> Pixels:
    """Return a background [H, W, 3]: one colour with large and small clouds and a few thin lines."""
    ground = rng.uniform(40, 215, 3) + 0.2 * _draw_clouds(rng, 3, image_size) + 0.1 * _draw_clouds(rng, 16, image_size)
    grid = np.arange(image_size) + 0.5
    for _ in range(rng.integers(0, 4)):
        angle, width = rng.uniform(0, math.pi), rng.uniform(1.0, 2.5)
        x, y = rng.uniform(0, image_size, 2)
        distance = (grid[None, :] - x) * math.cos(angle) + (grid[:, None] - y) * math.sin(angle)  # [H, W]
        ground[np.abs(distance) < width / 2] = rng.uniform(0, 255, 3)
    return ground


def _draw_clouds(rng: Generator, cells: int, image_size: int) -> Pixels:
    """Return random colours [H, W, 3] interpolated from a grid of cells x cells, about -128 .. 127."""
    colours = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
    clouds = Image.fromarray(colours).resize((image_size, image_size), Image.Resampling.BICUBIC)
    return np.asarray(clouds, dtype=np.float64) - 128.0


def _paint(rng: Generator, pixels: Pixels, mask: Mask) -> Pixels:
    """Return the colours [P, 3] of an object's pixels: a colour distinct from its background, shaded from a side."""
    covered = pixels[mask].mean(axis=0)
    colour = rng.uniform(0, 255, 3)
    while np.linalg.norm(colour - covered) < MIN_CONTRAST:
        colour = rng.uniform(0, 255, 3)
    rows, columns = np.nonzero(mask)
    angle, depth = rng.uniform(0, 2 * math.pi), rng.uniform(0, 40)
    along = rows * math.sin(angle) + columns * math.cos(angle)
    shade = (along - along.mean()) / max(float(np.ptp(along)), 1.0)  # [P], about -0.5 .. 0.5
    painted: Pixels = colour + depth * shade[:, None]
    return painted


def _encode_png(rng: Generator, pixels: Pixels, *, noise: float) -> bytes:
    noisy = pixels + rng.normal(0.0, noise, pixels.shape)
    buffer = io.BytesIO()
    Image.fromarray(np.clip(np.rint(noisy), 0, 255).astype(np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def _annotations(scene: Scene, *, image_id: int, first_id: int) -> list[CocoAnnotation]:
    annotations: list[CocoAnnotation] = []
    for index, label in enumerate(scene.labels):
        x, y, w, h = visible_box(scene, index)
        annotations.append(
            {
                "id": first_id + index,
                "image_id": image_id,
                "category_id": label + 1,
                "bbox": [float(x), float(y), float(w), float(h)],
                "area": float(w * h),
                "iscrowd": 0,
            }
        )
    return annotations
