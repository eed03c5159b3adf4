"""Nine small pictures with their truths, as a prepared data set: what the tests train and detect on.

Class by class one colour, so that a tiny network learns them by heart in seconds. Category ids and image ids have
gaps, picture sizes differ, and the last picture is without boxes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES = {"brick": (3, (200, 40, 40)), "leaf": (7, (40, 180, 60)), "pond": (8, (50, 60, 210))}  # category id, RGB
SIZES = [(64, 64), (64, 80), (80, 64), (64, 64), (64, 96), (48, 64), (64, 64), (72, 72), (64, 64)]  # height, width
GROUND = 120  # grey level


@dataclass(frozen=True)
class SmallWorld:
    """Where it lies. Both splits show the same pictures, so that a network can be judged on what it has learnt."""

    root: Path
    train: Path
    val: Path
    class_names: list[str]

    def content(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.train.read_text())
        return content


def write_small_world(folder: Path) -> SmallWorld:
    """Draw the pictures and write data/prepared/{train,val}.json under a folder."""
    (folder / "raw" / "pictures").mkdir(parents=True)
    prepared = folder / "data" / "prepared"
    prepared.mkdir(parents=True)
    images, annotations = [], []
    rng = np.random.default_rng(5)
    for number, (height, width) in enumerate(SIZES):
        image_id, name = 10 + 3 * number, f"pictures/{number}.png"
        boxes = draw_boxes(rng, height, width, count=0 if number == len(SIZES) - 1 else 1 + number % 3)
        pixels = rng.normal(GROUND, 6, (height, width, 3))
        for category, (x, y, w, h) in boxes:
            pixels[y : y + h, x : x + w] = CLASSES[category][1]
            annotations.append(annotation(len(annotations) + 1, image_id, CLASSES[category][0], [x, y, w, h]))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / "raw" / name)
        images.append({"id": image_id, "file_name": name, "width": width, "height": height})
    categories = [{"id": category_id, "name": name} for name, (category_id, _) in CLASSES.items()]
    for split in ("train", "val"):
        info = {"root": str(folder / "raw"), "split": split}
        content = {"info": info, "images": images, "annotations": annotations, "categories": categories}
        (prepared / f"{split}.json").write_text(json.dumps(content))
    return SmallWorld(folder / "raw", prepared / "train.json", prepared / "val.json", list(CLASSES))


def annotation(
    annotation_id: int, image_id: int, category_id: int, bbox: list[float], iscrowd: int = 0
) -> dict[str, Any]:
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": bbox,
        "area": bbox[2] * bbox[3],
        "iscrowd": iscrowd,
    }


def draw_boxes(
    rng: np.random.Generator, height: int, width: int, *, count: int
) -> list[tuple[str, tuple[int, int, int, int]]]:
    """Class and x, y, w, h in px, side by side: each keeps to its own column of the picture."""
    boxes = []
    for i in range(count):
        left, right = i * width // count, (i + 1) * width // count
        w, h = int(rng.integers(14, right - left - 1)), int(rng.integers(16, height // 2 + 8))
        x, y = int(rng.integers(left, right - w)), int(rng.integers(0, height - h + 1))
        boxes.append((list(CLASSES)[int(rng.integers(len(CLASSES)))], (x, y, w, h)))
    return boxes
