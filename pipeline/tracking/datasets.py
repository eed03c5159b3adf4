"""A prepared split as an MLflow data set: digest, source and profile."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.tracking.interface import NoopRun
from pipeline.tracking.run import Run

QUARTILES = {"min": 0, "q1": 25, "median": 50, "q3": 75, "max": 100}  # percentiles


def log_split(run: Run | NoopRun, name: str, path: Path) -> None:
    """Log the split that a run used: digest of the prepared file, location of the images, profile.

    Args:
        name: train, val or test; also its context in the run.
    """
    content = path.read_bytes()
    split = json.loads(content)
    digest = hashlib.sha256(content).hexdigest()
    run.log_dataset(name=name, digest=digest, source=split["info"]["root"], context=name, profile=profile_of(split))


def profile_of(split: Mapping[str, Any]) -> dict[str, Any]:
    """Return the profile of a prepared split, in plain values.

    Returns:
        images, annotations (without crowds), crowds and categories; boxes_per_class; empty_images, their share;
        image_width and image_height, px, and object_size, the square root of a box's area, px, as quartiles.
    """
    images, names = split["images"], {category["id"]: category["name"] for category in split["categories"]}
    boxes = [annotation for annotation in split["annotations"] if not annotation.get("iscrowd", 0)]
    counts = Counter(names[box["category_id"]] for box in boxes)
    filled = {box["image_id"] for box in boxes}
    return {
        "images": len(images),
        "annotations": len(boxes),
        "crowds": len(split["annotations"]) - len(boxes),
        "categories": len(names),
        "boxes_per_class": {name: counts[name] for name in names.values()},
        "empty_images": round(1 - len(filled) / len(images), 4) if images else None,
        "image_width": quartiles([image["width"] for image in images]),
        "image_height": quartiles([image["height"] for image in images]),
        "object_size": quartiles([(box["bbox"][2] * box["bbox"][3]) ** 0.5 for box in boxes]),
    }


def quartiles(values: Sequence[float]) -> dict[str, float] | None:
    """Return minimum, quartiles and maximum; None for each if there are no values."""
    if not values:
        return None
    cuts = np.percentile(np.asarray(values, dtype=float), list(QUARTILES.values()))
    return {name: round(float(cut), 2) for name, cut in zip(QUARTILES, cuts, strict=True)}
