"""Truths and detections made up as a run leaves them: what comparisons are tested on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

CLASSES = ("brick", "leaf", "pond")
Row = dict[str, Any]


def random_truth(seed: int, *, num_images: int = 40, crowds: float = 0.1) -> dict[str, Any]:
    """A prepared split; some images are empty, category ids have gaps, and that many of the truths are crowds."""
    rng = np.random.default_rng(seed)
    truth: dict[str, Any] = {
        "info": {"root": "data/raw", "split": "test"},
        "images": [
            {"id": 5 + 2 * i, "file_name": f"{i}.png", "width": 400, "height": 400, "sha256": f"{seed}-{i}"}
            for i in range(num_images)
        ],
        "categories": [{"id": 10 * k + 3, "name": name} for k, name in enumerate(CLASSES)],
        "annotations": [],
    }
    for image in truth["images"]:
        for _ in range(int(rng.integers(0, 6))):
            (x, y), (w, h) = rng.uniform(0, 250, 2), rng.uniform(12, 120, 2)
            category_id = truth["categories"][rng.integers(len(CLASSES))]["id"]
            row = {"image_id": image["id"], "category_id": category_id, "bbox": [x, y, w, h], "area": w * h}
            row |= {"id": len(truth["annotations"]) + 1, "iscrowd": int(rng.random() < crowds)}
            truth["annotations"].append(row)
    return truth


def random_results(truth: dict[str, Any], seed: int, *, jitter: float = 0.08, found: float = 0.9) -> list[Row]:
    """Most of the truths, moved by a share of their sides, among wrong detections; no two scores are equal."""
    rng = np.random.default_rng(seed)
    results: list[Row] = []
    for annotation in truth["annotations"]:
        x, y, w, h = annotation["bbox"]
        if rng.random() < found:
            moved = np.array([x, y, w, h]) + rng.normal(0, jitter, 4) * np.array([w, h, w / 2, h / 2])
            results.append(as_row(annotation["image_id"], annotation["category_id"], moved, rng.beta(4, 2)))
    for image in truth["images"]:
        for _ in range(int(rng.integers(0, 4))):
            box = [*rng.uniform(0, 250, 2), *rng.uniform(12, 120, 2)]
            category_id = truth["categories"][rng.integers(len(CLASSES))]["id"]
            results.append(as_row(image["id"], category_id, box, rng.beta(2, 4)))
    return results


def exact_results(truth: dict[str, Any]) -> list[Row]:
    """Every truth, and nothing else."""
    rows = [annotation for annotation in truth["annotations"] if not annotation["iscrowd"]]
    return [as_row(row["image_id"], row["category_id"], row["bbox"], 0.9) for row in rows]


def as_row(image_id: int, category_id: int, box: Iterable[float], score: float) -> Row:
    bbox = [float(number) for number in box]
    return {"image_id": image_id, "category_id": category_id, "bbox": bbox, "score": float(score)}


def with_copies(
    truth: dict[str, Any], results: list[Row], weights: NDArray[np.int64]
) -> tuple[dict[str, Any], list[Row]]:
    """The resample spelt out: an image of weight 3 stands there three times, under ids of its own."""
    images, annotations, rows = [], [], []
    for image, weight in zip(truth["images"], weights.tolist(), strict=True):
        for copy in range(weight):
            image_id = 1000 * copy + image["id"]
            images.append(image | {"id": image_id})
            annotations += [a | {"image_id": image_id} for a in truth["annotations"] if a["image_id"] == image["id"]]
            rows += [row | {"image_id": image_id} for row in results if row["image_id"] == image["id"]]
    annotations = [annotation | {"id": number} for number, annotation in enumerate(annotations, start=1)]
    return truth | {"images": images, "annotations": annotations}, rows
