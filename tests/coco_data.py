"""Small COCO data sets of noisy pictures, which no file format makes small."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIDE = 64


def write_coco(root: Path, *, split: str, num_images: int) -> None:
    """<split>.json and the folder <split> of pictures of SIDE px, each with one bright square."""
    (root / split).mkdir(parents=True)
    for number in range(num_images):
        noise = np.random.default_rng([number, len(split)]).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        noise[8:40, 8:40] = 255
        Image.fromarray(noise).save(root / split / f"{number}.png")
    numbers = range(num_images)
    content: dict[str, Any] = {
        "images": [{"id": n + 1, "file_name": f"{n}.png", "width": SIDE, "height": SIDE} for n in numbers],
        "annotations": [{"id": n + 1, "image_id": n + 1, "category_id": 1, "bbox": [8, 8, 32, 32]} for n in numbers],
        "categories": [{"id": 1, "name": "cell"}],
    }
    (root / f"{split}.json").write_text(json.dumps(content))
